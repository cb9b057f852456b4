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
    shuffle
        Otherwise each epoch has the rows in their order; with ``per_image``, that of the groups'
        first questions.
    """

    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        seed: int,
        images: Tensor | None = None,
        per_image: int = 1,
        *,
        shuffle: bool = True,
    ) -> None:
        self.available, self.batch_size, self.seed = rows, batch_size, seed
        self.images, self.per_image, self.shuffle = images, per_image, shuffle
        self.epoch = self.batch = 0
        self._order: tuple[int, Tensor] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.available) // self.batch_size)

    def rows(self, epoch: int, batch: int) -> Tensor:
        """Rows (≤ batch size,) of one batch of one epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = self._permutation(len(self.available), generator)
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
        if self.shuffle:
            group_order = torch.randperm(int(group[-1]) + 1, generator=generator)
        else:
            group_order = order[rank % self.per_image == 0]  # by their first questions
        return order[torch.argsort(group_order[group], stable=True)]

    def _permutation(self, count: int, generator: torch.Generator) -> Tensor:
        if self.shuffle:
            return torch.randperm(count, generator=generator)
        return torch.arange(count)

    def advance(self) -> None:
        """Move on by one batch."""
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]
