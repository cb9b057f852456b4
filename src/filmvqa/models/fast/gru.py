"""Kernels for the gates of a GRU over the prefixes of one level, forward and backward, on a CPU.

With torch's functions a level takes about fifteen operations on a few hundred rows. Their calls
cost as much as their arithmetic. ``recurrence`` has the equations and the matrix products.
"""

from __future__ import annotations

import numpy as np

from filmvqa.models.fast.kernels import inlined, kernel


@inlined
def _tanh(x):  # type: ignore[no-untyped-def]
    """A rational approximation of tanh that can be vectorised, with errors of at most 4e-7.

    It is a polynomial of degree 13 over one of degree 6, up to the point where float32 rounds to 1.
    """
    x = np.float32(7.9053111) if x > np.float32(7.9053111) else x
    x = np.float32(-7.9053111) if x < np.float32(-7.9053111) else x
    s = x * x
    p = np.float32(-2.76076847742355e-16)
    p = p * s + np.float32(2.00018790482477e-13)
    p = p * s + np.float32(-8.60467152213735e-11)
    p = p * s + np.float32(5.12229709037114e-08)
    p = p * s + np.float32(1.48572235717979e-05)
    p = p * s + np.float32(6.37261928875436e-04)
    p = p * s + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * s + np.float32(1.18534705686654e-04)
    q = q * s + np.float32(2.26843463243900e-03)
    q = q * s + np.float32(4.89352518554385e-03)
    return x * p / q


@inlined
def _sigmoid(x):  # type: ignore[no-untyped-def]
    half = np.float32(0.5)
    return half + half * _tanh(half * x)


@kernel
def gates_forward(inputs, index, hidden, prev_h, gates, states):  # type: ignore[no-untyped-def]
    """Compute states (m, H) and gates r, z, n and q (m, 4H) of a level.

    ``inputs`` (K, 3H) are products of distinct inputs for r, z and n, and ``index`` (m,) has the
    row of each prefix in them. ``hidden`` (m, 3H) are products of the previous states ``prev_h``
    (m, H) for n, r and z.
    """
    rows, width = prev_h.shape
    for i in range(rows):
        x, w = inputs[index[i]], hidden[i]
        r, z, n = gates[i, :width], gates[i, width : 2 * width], gates[i, 2 * width : 3 * width]
        # The compiler vectorises loops over few arrays, which it can prove not to overlap.
        for j in range(width):
            r[j] = _sigmoid(x[j] + w[width + j])
        for j in range(width):
            z[j] = _sigmoid(x[width + j] + w[2 * width + j])
        for j in range(width):
            n[j] = _tanh(x[2 * width + j] + r[j] * w[j])
        for j in range(width):
            states[i, j] = n[j] + z[j] * (prev_h[i, j] - n[j])
        gates[i, 3 * width :] = w[:width]


@kernel
def gates_backward(grad_states, gates, prev_h, grad_gates):  # type: ignore[no-untyped-def]
    """Compute gradients (m, 4H) from the states' gradients (m, H).

    They are those of the hidden product for n, of r, of z, and of the input's product for n.
    """
    rows, width = prev_h.shape
    one = np.float32(1.0)
    for i in range(rows):
        for j in range(width):
            r, z = gates[i, j], gates[i, width + j]
            n, q = gates[i, 2 * width + j], gates[i, 3 * width + j]
            grad = grad_states[i, j]
            n_grad = grad * (one - z) * (one - n * n)
            grad_gates[i, j] = n_grad * r
            grad_gates[i, width + j] = n_grad * q * r * (one - r)
            grad_gates[i, 2 * width + j] = (prev_h[i, j] - n) * grad * z * (one - z)
            grad_gates[i, 3 * width + j] = n_grad


@kernel
def to_parents(grad_states, gates, by_hidden, parents, grad_parents):  # type: ignore[no-untyped-def]
    """Add a level's gradients to those of its parents (p, H).

    They flow directly from the states (m, H) and through the hidden product, ``by_hidden`` (m, H).
    """
    rows, width = by_hidden.shape
    for i in range(rows):
        parent = grad_parents[parents[i]]
        for j in range(width):
            parent[j] += by_hidden[i, j] + grad_states[i, j] * gates[i, width + j]
