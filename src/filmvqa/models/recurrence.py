"""GRU and LSTM over a prefix tree: torch's equations, no padding, one gradient product a batch.

Reading the tree level by level, level t takes the states of its parents at level t - 1 and gives
as many states as there are distinct prefixes of t words. What torch's own networks do at every
step is done once for the batch here: the product with the inputs, and that for the gradient of
the recurrent weights. States are kept in float32 whatever the products' precision.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from filmvqa.devices import compute_dtype
from filmvqa.models.prefix_tree import PrefixTree

_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def run_recurrence(
    rnn: nn.Module, inputs: Tensor, tree: PrefixTree, which: Tensor | None = None
) -> Tensor:
    """States (M, H) after each of the tree's prefixes, from the inputs (M, E) of their last words;
    with ``which`` (M,), from distinct inputs (K, E) and the one of each.

    ``rnn`` is torch's GRU or LSTM with one layer and one direction, whose own ``forward`` gives the
    same over a packed batch. Products run in autocast's precision where it is on.
    """
    w_ih, w_hh, b_ih, b_hh = map(rnn.get_parameter, _WEIGHTS)
    gates = F.linear(inputs, w_ih, b_ih)  # (M or K, 3H or 4H)
    cell = _Gru if isinstance(rnn, nn.GRU) else _Lstm
    # What is not needed for gradients is not kept: 126 MB for 256 questions of the paper's GRU.
    keep = torch.is_grad_enabled()
    product = compute_dtype(inputs)
    states: Tensor = cell.apply(gates, which, w_hh, b_hh, tree.parents, tree.sizes, product, keep)
    return states


class _Level(NamedTuple):
    """Rows of one level's prefixes, and how many there are at the level above."""

    rows: slice
    above: int


def _levels(sizes: list[int]) -> list[_Level]:
    levels, start, above = [], 0, 0
    for size in sizes:
        levels.append(_Level(slice(start, start + size), above))
        start, above = start + size, size
    return levels


def _rows(inputs: Tensor, which: Tensor | None, rows: slice) -> Tensor:
    return inputs[rows] if which is None else inputs.index_select(0, which[rows])


def _input_gradient(grad: Tensor, which: Tensor | None, count: int) -> Tensor:
    """Of the inputs (count, G), from that of each prefix's (M, G)."""
    if which is None:
        return grad
    chosen = grad.new_zeros((count, len(grad)))  # a product adds rows faster than index_add_
    chosen[which, torch.arange(len(grad), device=grad.device)] = 1
    return torch.mm(chosen, grad)


class _Gru(torch.autograd.Function):
    """h' = (1 - z) n + z h with r, z = σ(x + W h + b) and n = tanh(x + r (W h + b)).

    Inside, W's rows stand in the order n, r, z: then the gradients of what enters n from the
    state, r, z, and n from the input lie so that three neighbours are the recurrent product's and
    three the input's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        which: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        parents: Tensor,
        sizes: list[int],
        product: torch.dtype,
        keep: bool,
    ) -> Tensor:
        width, count = weight.shape[1], len(parents)
        own = weight.dtype
        w, b = (_turned(x, 2 * width, product) for x in (weight, bias))
        states = inputs.new_empty((count, width), dtype=own)
        before = inputs.new_zeros((count, width), dtype=product) if keep else None
        gates = inputs.new_empty((count, 4 * width), dtype=product) if keep else None
        h = inputs.new_zeros((1, width), dtype=own)
        for rows, _ in _levels(sizes):
            h = h.index_select(0, parents[rows])  # (n, H)
            read = h.to(product)
            told = torch.addmm(b, read, w.t())  # (n, 3H): n, r, z
            x = _rows(inputs, which, rows).to(own)  # (n, 3H): r, z, n
            rz = told[:, width:].to(own).add_(x[:, : 2 * width]).sigmoid_()
            r, z = rz.chunk(2, 1)
            q = told[:, :width]
            n = torch.addcmul(x[:, 2 * width :], r, q.to(own)).tanh_()
            if before is not None and gates is not None:
                before[rows] = read
                gates[rows, : 2 * width] = rz
                gates[rows, 2 * width : 3 * width] = n
                gates[rows, 3 * width :] = q
            h = torch.lerp(n, h, z, out=states[rows])
        if before is not None and gates is not None:
            ctx.save_for_backward(before, gates, w, parents, which)
            ctx.sizes, ctx.own, ctx.asked, ctx.inputs = sizes, own, inputs.dtype, len(inputs)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        before, gates, w, parents, which = ctx.saved_tensors
        width, own = before.shape[1], ctx.own
        inner = torch.empty_like(gates)
        back_weight = _for_backward(w)
        carried: Tensor | None = None
        for rows, above in reversed(_levels(ctx.sizes)):
            dh = grad[rows] if carried is None else carried.add_(grad[rows])
            r, z, n, q = gates[rows].to(own).chunk(4, 1)
            h = before[rows].to(own)
            keep = 1 - z
            dn = (dh * keep).mul_(torch.addcmul(n.new_ones(()), n, n, value=-1))
            level = inner[rows]
            level[:, :width] = dn * r
            level[:, width : 2 * width] = (dn * q).mul_(r).mul_(1 - r)
            level[:, 2 * width : 3 * width] = (h - n).mul_(dh).mul_(z).mul_(keep)
            level[:, 3 * width :] = dn
            if above:
                back = torch.mm(level[:, : 3 * width], back_weight).to(own).addcmul_(dh, z)
                carried = grad.new_zeros((above, width)).index_add_(0, parents[rows], back)
        told = inner[:, : 3 * width]
        d_weight = _turned(torch.mm(told.t(), before), width, own)
        d_bias = _turned(told.sum(0, dtype=own), width, own)
        d_inputs = _input_gradient(inner[:, width:], which, ctx.inputs).to(ctx.asked)
        return d_inputs, None, d_weight, d_bias, None, None, None, None


def _turned(x: Tensor, first: int, dtype: torch.dtype) -> Tensor:
    """A copy with the rows from ``first`` on before the others."""
    out = torch.empty_like(x, dtype=dtype)
    out[: len(x) - first], out[len(x) - first :] = x[first:], x[:first]
    return out


def _for_backward(w: Tensor) -> Tensor:
    """The weight in the memory order in which the CPU multiplies rows with it fastest."""
    return w.t().contiguous().t() if w.device.type == "cpu" else w


class _Lstm(torch.autograd.Function):
    """c' = f c + i g and h' = o tanh(c') with i, f, o = σ(x + W h + b) and g = tanh(the same)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        which: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        parents: Tensor,
        sizes: list[int],
        product: torch.dtype,
        keep: bool,
    ) -> Tensor:
        width, count = weight.shape[1], len(parents)
        own = weight.dtype
        w, b = weight.to(product), bias.to(product)
        states = inputs.new_empty((count, width), dtype=own)
        cells = inputs.new_empty((count, width), dtype=own) if keep else None
        before = inputs.new_zeros((count, width), dtype=product) if keep else None
        gates = inputs.new_empty((count, 4 * width), dtype=product) if keep else None
        h = c = inputs.new_zeros((1, width), dtype=own)
        for rows, _ in _levels(sizes):
            chosen = parents[rows]
            read = h.index_select(0, chosen).to(product)
            x = (
                torch.addmm(b, read, w.t()).to(own).add_(_rows(inputs, which, rows))
            )  # (n, 4H): i, f, g, o
            if keep and before is not None:
                before[rows] = read
            i, f = x[:, : 2 * width].sigmoid_().chunk(2, 1)
            g = x[:, 2 * width : 3 * width].tanh_()
            o = x[:, 3 * width :].sigmoid_()
            c = (c.index_select(0, chosen) * f).addcmul_(i, g)
            h = torch.mul(o, c.tanh(), out=states[rows])
            if gates is not None and cells is not None:
                gates[rows], cells[rows] = x, c
        if before is not None:
            ctx.save_for_backward(before, gates, cells, w, parents, which)
            ctx.sizes, ctx.own, ctx.asked, ctx.inputs = sizes, own, inputs.dtype, len(inputs)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        before, gates, cells, w, parents, which = ctx.saved_tensors
        own = ctx.own
        inner = torch.empty_like(gates)
        back_weight = _for_backward(w)
        carried: tuple[Tensor, Tensor] | None = None
        levels = _levels(ctx.sizes)
        for k, (rows, above) in reversed(list(enumerate(levels))):
            i, f, g, o = gates[rows].to(own).chunk(4, 1)
            seen = cells[rows].tanh()
            dh = grad[rows] if carried is None else grad[rows] + carried[0]
            dc = dh * o * (1 - seen * seen)
            if carried is not None:
                dc += carried[1]
            if above:
                earlier = cells[levels[k - 1].rows].index_select(0, parents[rows])
                df = dc * earlier * f * (1 - f)
            else:
                df = torch.zeros_like(dc)
            parts = (dc * g * i * (1 - i), df, dc * i * (1 - g * g), dh * seen * o * (1 - o))
            level = inner[rows]
            torch.cat([part.to(inner.dtype) for part in parts], 1, out=level)
            if above:
                back = torch.mm(level, back_weight).to(own)
                zeros = grad.new_zeros((2, above, before.shape[1]))
                carried = (
                    zeros[0].index_add_(0, parents[rows], back),
                    zeros[1].index_add_(0, parents[rows], dc * f),
                )
        d_weight = torch.mm(inner.t(), before).to(own)
        d_bias = inner.sum(0, dtype=own)
        d_inputs = _input_gradient(inner, which, ctx.inputs).to(ctx.asked)
        return d_inputs, None, d_weight, d_bias, None, None, None, None
