"""The order in which training draws questions."""

from __future__ import annotations

import torch
from torch import Tensor


class EpochSampler:
    """Each of the given rows (N,) once an epoch, in an order that depends only on (seed, epoch).

    The position is an epoch and a batch, which is all that a checkpoint needs.

    Parameters
    ----------
    images
        (N,) the image of each row. With ``per_image`` k, groups of k questions of one image (its
        last group may be smaller) are drawn instead of questions, so that a batch reads each image
        once for k questions.
    """

    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        seed: int,
        images: Tensor | None = None,
        per_image: int = 1,
    ) -> None:
        self.available, self.batch_size, self.seed = rows, batch_size, seed
        self.images, self.per_image = images, per_image
        self.epoch = self.batch = 0
        self._order: tuple[int, Tensor] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.available) // self.batch_size)

    def rows(self, epoch: int, batch: int) -> Tensor:
        """Rows (≤ batch size,) of one batch of one epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            order = torch.randperm(len(self.available), generator=generator)
            if self.images is not None and self.per_image > 1:
                order = self._grouped(order, self.images, generator)
            self._order = (epoch, self.available[order])
        return self._order[1][batch * self.batch_size : (batch + 1) * self.batch_size]

    def _grouped(self, order: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """The drawn order (N,) with up to ``per_image`` questions of an image side by side."""
        order = order[torch.argsort(images[order], stable=True)]  # an image's questions as drawn
        counts = images.bincount()
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(order)) - first[images[order]]  # among its image's questions
        group = (rank % self.per_image == 0).cumsum(0) - 1
        group_order = torch.randperm(int(group[-1]) + 1, generator=generator)
        return order[torch.argsort(group_order[group], stable=True)]

    def advance(self) -> None:
        """Move on by one batch."""
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]
