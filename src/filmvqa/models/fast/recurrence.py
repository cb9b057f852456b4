"""GRU and LSTM over a prefix tree, with the equations of ``torch.nn.GRU`` and ``torch.nn.LSTM``.

The tree is processed level by level: the states of level t, one for each distinct prefix of t
words, are computed from their parents' states in level t - 1. Padding is not processed. Two
products that torch computes at every step are computed once for the batch: the product of inputs
and their weight, and the gradient of the recurrent weight. States have the parameters' dtype
(float32), whatever the precision of the products.

On a GPU, a level's dozen kernel launches cost more than sharing saves. There cuDNN runs the whole
recurrence over a packed batch.

In shape comments, M is the number of prefixes, m that of one level, and H the width of a state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from filmvqa.models.fast.gru import gates_backward, gates_forward, to_parents
from filmvqa.models.fast.prefix_tree import PrefixTree
from filmvqa.system.devices import compute_dtype

_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def run_recurrence(
    rnn: nn.Module, inputs: Tensor, tree: PrefixTree, input_index: Tensor | None = None
) -> Tensor:
    """Compute the state (M, H) after each prefix of a tree.

    Parameters
    ----------
    rnn
        A ``torch.nn.GRU`` or ``torch.nn.LSTM`` with one layer and one direction. Its own forward
        pass over the packed batch gives the same states.
    inputs
        Input (M, E) of each prefix's last word, or distinct inputs (K, E).
    tree
        The prefixes.
    input_index
        Row (M,) of each prefix's input among distinct inputs.

    Notes
    -----
    Under autocast, matrix products run in its dtype. cuDNN's states are then rounded to it too.
    """
    # cuDNN computes gradients in training mode only.
    if not (tree.is_shared or shares_prefixes(inputs.device)) and (
        rnn.training or not torch.is_grad_enabled()
    ):
        return _packed_recurrence(rnn, inputs, tree, input_index)
    w_ih, w_hh, b_ih, b_hh = map(rnn.get_parameter, _WEIGHTS)
    input_proj = F.linear(inputs, w_ih, b_ih)  # (M or K, 3H or 4H)
    cell = _Gru if isinstance(rnn, nn.GRU) else _Lstm
    # The values that only gradients need take 126 MB for 256 questions of the paper's GRU.
    needs_grad = torch.is_grad_enabled()
    states: Tensor = cell.apply(
        input_proj, input_index, w_hh, b_hh, tree.parents, tree.sizes, compute_dtype(inputs),
        needs_grad,
    )  # fmt: skip
    return states


def shares_prefixes(device: torch.device) -> bool:
    """Whether encoding each distinct prefix once, level by level, is faster on the device."""
    return device.type != "cuda"


def _packed_recurrence(
    rnn: nn.Module, inputs: Tensor, tree: PrefixTree, input_index: Tensor | None
) -> Tensor:
    """``run_recurrence`` by torch for a packed batch, which is a tree without shared prefixes."""
    if input_index is not None:
        # As a product: the gradient of indexing adds a word's occurrences one after the other.
        inputs = _one_hot(input_index, len(inputs), inputs).t() @ inputs  # (M, E)
    states, _ = rnn(PackedSequence(inputs, torch.tensor(tree.sizes)))
    return states.data.to(rnn.get_parameter("weight_hh_l0").dtype)  # type: ignore[no-any-return]


class _Level(NamedTuple):
    """The rows of a level's prefixes, and the number of prefixes in the previous level."""

    rows: slice
    num_parents: int


def _levels(sizes: list[int]) -> list[_Level]:
    levels, start, num_parents = [], 0, 0
    for size in sizes:
        levels.append(_Level(slice(start, start + size), num_parents))
        start, num_parents = start + size, size
    return levels


def _rows(input_proj: Tensor, input_index: Tensor | None, rows: slice) -> Tensor:
    if input_index is None:
        return input_proj[rows]
    return input_proj.index_select(0, input_index[rows])


def _input_gradient(grad: Tensor, input_index: Tensor | None, num_inputs: int) -> Tensor:
    """Sum the gradients of prefixes (M, G) to those of distinct inputs (num_inputs, G)."""
    if input_index is None:
        return grad
    return torch.mm(_one_hot(input_index, num_inputs, grad), grad)  # faster than index_add_


def _one_hot(index: Tensor, count: int, like: Tensor) -> Tensor:
    """A matrix (count, M) like ``like``, with a 1 in row ``index[i]`` of each column i."""
    zeros = like.new_zeros((count, len(index)))
    return zeros.scatter_(0, index[None], 1.0)  # assigning 1 would wait for a GPU


class _Gru(torch.autograd.Function):
    """h' = (1 - z) n + z h with r, z = σ(x + W h + b) and n = tanh(x + r (W h + b)).

    torch's gate order is r, z, n. Here the rows of W are in the order n, r, z, because n has two
    gradients, one for W h + b and one for x. Of (n of W h + b, r, z, n of x), the first three are
    then the gradient of the recurrent product and the last three that of the input, as slices.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input_proj: Tensor,
        input_index: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        parents: Tensor,
        sizes: list[int],
        compute_dtype: torch.dtype,
        needs_grad: bool,
    ) -> Tensor:
        width, count = weight.shape[1], len(parents)
        param_dtype = weight.dtype
        # From the order r, z, n to n, r, z. The cast comes first, since bfloat16 halves the copy.
        w, b = (torch.roll(x.to(compute_dtype), width, 0) for x in (weight, bias))
        states = input_proj.new_empty((count, width), dtype=param_dtype)
        prev_h = gates = None
        if needs_grad:
            prev_h = input_proj.new_zeros((count, width), dtype=compute_dtype)
            gates = input_proj.new_empty((count, 4 * width), dtype=compute_dtype)
        h = input_proj.new_zeros((1, width), dtype=param_dtype)
        fused = _is_fused(input_proj, compute_dtype)
        index = torch.arange(count) if input_index is None else input_index
        for rows, _ in _levels(sizes):
            h = h.index_select(0, parents[rows])  # (m, H)
            if fused:
                if prev_h is not None:
                    prev_h[rows] = h
                level_gates = h.new_empty((len(h), 4 * width)) if gates is None else gates[rows]
                hidden_proj = torch.addmm(b, h, w.t())
                _run(
                    gates_forward, input_proj, index[rows], hidden_proj, h, level_gates,
                    states[rows],
                )  # fmt: skip
                h = states[rows]
                continue
            h_low = h.to(compute_dtype)
            hidden_proj = torch.addmm(b, h_low, w.t())  # (m, 3H): n, r, z
            x = _rows(input_proj, input_index, rows).to(param_dtype)  # (m, 3H): r, z, n
            rz = hidden_proj[:, width:].to(param_dtype).add_(x[:, : 2 * width]).sigmoid_()
            r, z = rz.chunk(2, 1)  # (m, H)
            q = hidden_proj[:, :width]  # (m, H): W h + b of n
            n = torch.addcmul(x[:, 2 * width :], r, q.to(param_dtype)).tanh_()
            if prev_h is not None and gates is not None:
                prev_h[rows] = h_low
                gates[rows, : 2 * width] = rz
                gates[rows, 2 * width : 3 * width] = n
                gates[rows, 3 * width :] = q
            h = torch.lerp(n, h, z, out=states[rows])
        if prev_h is not None and gates is not None:
            ctx.save_for_backward(prev_h, gates, w, parents, input_index)
            ctx.sizes, ctx.input_dtype, ctx.num_inputs = sizes, input_proj.dtype, len(input_proj)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor | None, ...]:
        prev_h, gates, w, parents, input_index = ctx.saved_tensors
        width, param_dtype = prev_h.shape[1], grad_states.dtype
        grad_gates = torch.empty_like(gates)  # (M, 4H): n of W h + b, r, z, n of x
        levels = _gru_levels_fused if _is_fused(prev_h, prev_h.dtype) else _gru_levels
        levels(grad_states, prev_h, gates, w, parents, ctx.sizes, grad_gates)
        grad_hidden = grad_gates[:, : 3 * width]  # (M, 3H): n, r, z
        d_weight = torch.roll(torch.mm(grad_hidden.t(), prev_h), -width, 0).to(param_dtype)
        d_bias = torch.roll(grad_hidden.sum(0, dtype=param_dtype), -width, 0)  # r, z, n
        d_inputs = _input_gradient(grad_gates[:, width:], input_index, ctx.num_inputs)
        return d_inputs.to(ctx.input_dtype), None, d_weight, d_bias, None, None, None, None


def _gru_levels(
    grad_states: Tensor, prev_h: Tensor, gates: Tensor, w: Tensor, parents: Tensor,
    sizes: list[int], grad_gates: Tensor,
) -> None:  # fmt: skip
    """Write the gradients of a GRU's gates to ``grad_gates``, from the last level to the first."""
    width, param_dtype = prev_h.shape[1], grad_states.dtype
    backward_weight = _for_backward(w)
    grad_h: Tensor | None = None  # (m, H): from the next level
    for rows, num_parents in reversed(_levels(sizes)):
        dh = grad_states[rows] if grad_h is None else grad_h.add_(grad_states[rows])  # (m, H)
        r, z, n, q = gates[rows].to(param_dtype).chunk(4, 1)
        h = prev_h[rows].to(param_dtype)
        one_minus_z = 1 - z
        dn = (dh * one_minus_z).mul_(torch.addcmul(n.new_ones(()), n, n, value=-1))
        level = grad_gates[rows]  # (m, 4H)
        level[:, :width] = dn * r
        level[:, width : 2 * width] = (dn * q).mul_(r).mul_(1 - r)
        level[:, 2 * width : 3 * width] = (h - n).mul_(dh).mul_(z).mul_(one_minus_z)
        level[:, 3 * width :] = dn
        if num_parents:
            dh_prev = torch.mm(level[:, : 3 * width], backward_weight).to(param_dtype)
            dh_prev.addcmul_(dh, z)
            grad_h = grad_states.new_zeros((num_parents, width))
            grad_h.index_add_(0, parents[rows], dh_prev)


def _gru_levels_fused(
    grad_states: Tensor, prev_h: Tensor, gates: Tensor, w: Tensor, parents: Tensor,
    sizes: list[int], grad_gates: Tensor,
) -> None:  # fmt: skip
    """``_gru_levels`` by the kernels of ``gru``."""
    width = prev_h.shape[1]
    backward_weight = _for_backward(w)
    grad_states = grad_states.clone(
        memory_format=torch.contiguous_format
    )  # children's gradients are added
    for rows, num_parents in reversed(_levels(sizes)):
        _run(gates_backward, grad_states[rows], gates[rows], prev_h[rows], grad_gates[rows])
        if num_parents:
            by_hidden = torch.mm(grad_gates[rows, : 3 * width], backward_weight)
            above = grad_states[rows.start - num_parents : rows.start]
            _run(to_parents, grad_states[rows], gates[rows], by_hidden, parents[rows], above)


def _is_fused(x: Tensor, compute_dtype: torch.dtype) -> bool:
    """Whether the kernels of ``gru`` compute the gates: in float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == compute_dtype == torch.float32


def _run(function: Callable[..., None], *tensors: Tensor) -> None:
    function(*(tensor.detach().numpy() for tensor in tensors))


def _for_backward(w: Tensor) -> Tensor:
    """A copy of w in the memory order of the fastest product on a CPU; w itself on a GPU."""
    return w.t().contiguous().t() if w.device.type == "cpu" else w


class _Lstm(torch.autograd.Function):
    """c' = f c + i g and h' = o tanh(c'), where i, f, o = σ(x + W h + b) and g = tanh(x + W h + b).

    The order of W's rows is torch's: i, f, g, o.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input_proj: Tensor,
        input_index: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        parents: Tensor,
        sizes: list[int],
        compute_dtype: torch.dtype,
        needs_grad: bool,
    ) -> Tensor:
        width, count = weight.shape[1], len(parents)
        param_dtype = weight.dtype
        w, b = weight.to(compute_dtype), bias.to(compute_dtype)
        states = input_proj.new_empty((count, width), dtype=param_dtype)
        cells = prev_h = gates = None
        if needs_grad:
            cells = input_proj.new_empty((count, width), dtype=param_dtype)
            prev_h = input_proj.new_zeros((count, width), dtype=compute_dtype)
            gates = input_proj.new_empty((count, 4 * width), dtype=compute_dtype)
        h = c = input_proj.new_zeros((1, width), dtype=param_dtype)
        for rows, _ in _levels(sizes):
            level_parents = parents[rows]  # (m,)
            h_low = h.index_select(0, level_parents).to(compute_dtype)  # (m, H)
            hidden_proj = torch.addmm(b, h_low, w.t()).to(param_dtype)
            x = hidden_proj.add_(_rows(input_proj, input_index, rows))  # (m, 4H): i, f, g, o
            i, f = x[:, : 2 * width].sigmoid_().chunk(2, 1)  # (m, H)
            g = x[:, 2 * width : 3 * width].tanh_()
            o = x[:, 3 * width :].sigmoid_()
            c = (c.index_select(0, level_parents) * f).addcmul_(i, g)
            h = torch.mul(o, c.tanh(), out=states[rows])
            if prev_h is not None and gates is not None and cells is not None:
                prev_h[rows], gates[rows], cells[rows] = h_low, x, c
        if prev_h is not None:
            ctx.save_for_backward(prev_h, gates, cells, w, parents, input_index)
            ctx.sizes, ctx.input_dtype, ctx.num_inputs = sizes, input_proj.dtype, len(input_proj)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor | None, ...]:
        prev_h, gates, cells, w, parents, input_index = ctx.saved_tensors
        width, param_dtype = prev_h.shape[1], grad_states.dtype
        grad_gates = torch.empty_like(gates)  # (M, 4H): i, f, g, o
        backward_weight = _for_backward(w)
        grad_hc: tuple[Tensor, Tensor] | None = None  # (m, H) each: from the next level
        levels = _levels(ctx.sizes)
        for k, (rows, num_parents) in reversed(list(enumerate(levels))):
            i, f, g, o = gates[rows].to(param_dtype).chunk(4, 1)  # (m, H)
            tanh_c = cells[rows].tanh()
            dh = grad_states[rows] if grad_hc is None else grad_states[rows] + grad_hc[0]
            dc = dh * o * (1 - tanh_c * tanh_c)
            if grad_hc is not None:
                dc += grad_hc[1]
            if num_parents:
                prev_c = cells[levels[k - 1].rows].index_select(0, parents[rows])
                df = dc * prev_c * f * (1 - f)
            else:
                df = torch.zeros_like(dc)
            parts = (dc * g * i * (1 - i), df, dc * i * (1 - g * g), dh * tanh_c * o * (1 - o))
            level = grad_gates[rows]  # (m, 4H)
            torch.cat([part.to(level.dtype) for part in parts], 1, out=level)
            if num_parents:
                dh_prev = torch.mm(level, backward_weight).to(param_dtype)
                zeros = grad_states.new_zeros((2, num_parents, width))
                grad_hc = (
                    zeros[0].index_add_(0, parents[rows], dh_prev),
                    zeros[1].index_add_(0, parents[rows], dc * f),
                )
        d_weight = torch.mm(grad_gates.t(), prev_h).to(param_dtype)
        d_bias = grad_gates.sum(0, dtype=param_dtype)
        d_inputs = _input_gradient(grad_gates, input_index, ctx.num_inputs)
        return d_inputs.to(ctx.input_dtype), None, d_weight, d_bias, None, None, None, None
