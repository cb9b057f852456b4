"""A conditioned block of a 1×1 convolution, with batch norm, FiLM and read as one operation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from filmvqa.models.attentive_read import read_scale
from filmvqa.models.batch_norm import BatchNorm2d, track
from filmvqa.models.blocks import BlockOutput, FilmedResBlock
from filmvqa.models.fast.fused_block import FusedBlock
from filmvqa.models.fast.kernels import kernels_take
from filmvqa.models.fast.replacement import is_intact
from filmvqa.models.protocols import Modulation


class FastFilmedResBlock(FilmedResBlock):
    """``FilmedResBlock`` that runs 1×1 convolution, batch norm, FiLM and read as one operation."""

    def forward(
        self,
        x: Tensor,
        modulation: Modulation | None,
        context: Tensor | None = None,
        pool_branch: bool = False,
        weights: Tensor | None = None,
    ) -> BlockOutput:
        if (
            modulation is None
            or not modulation.key.shape[1]
            or not kernels_take(x, modulation.gamma)
            or x.numel() == x.shape[1]  # batch norm raises the error for a single value
            or not is_intact(self)
        ):
            return super().forward(x, modulation, context, pool_branch, weights)
        norm = cast(BatchNorm2d, self.norm)
        batch, channels, height, width = x.shape
        offset = x.new_zeros(batch, channels) if self.conv.bias is None else self.conv.bias
        if self.context is not None and context is not None:
            offset = offset + self.context(context)
        statistics = None
        if not norm.training:
            statistics = (cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var))
        if self.sets is None:
            set_keys = (x.new_empty(batch, 0, channels), x.new_empty(batch, 0))
        else:
            set_keys = self.sets.split(modulation.key[:, channels:], channels)
        y, read, maximum, mean, scores, set_scores, batch_mean, batch_var, size = FusedBlock.apply(
            x.permute(0, 2, 3, 1).reshape(batch, height * width, channels),
            self.conv.weight.flatten(1),
            offset.expand(batch, channels),
            modulation.gamma,
            modulation.beta,
            modulation.key[:, :channels] * read_scale(channels),
            *set_keys,
            norm.eps,
            statistics,
            norm.shared,
        )
        if norm.training:
            track(norm, batch_mean, batch_var, size)
        if self.sets is None:
            counts = set_scores = None
        else:
            added, counts = self.sets.mark(torch.sigmoid(set_scores), weights, scores)
            y = y if added is None else y + added
        y = y.view(batch, height, width, channels).permute(0, 3, 1, 2)
        branch = torch.cat([maximum, mean], 1) if pool_branch else None
        return BlockOutput(y, read, branch, counts, scores, set_scores)


def is_fusible(block: FilmedResBlock) -> bool:
    """Whether ``FastFilmedResBlock`` supports a block's options, if its conditioning is FiLM."""
    return (
        block.condition is not None
        and block.film_position == "after_norm"
        and block.project is None
        and type(block.conv) is nn.Conv2d
        and block.conv.kernel_size == (1, 1)
        and block.residual
        and block.norm is not None
        and not block.norm.affine
        and block.dropout is None
    )
