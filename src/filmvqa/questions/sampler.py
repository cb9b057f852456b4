"""The order in which training draws questions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class EpochSampler:
    """Each of the given rows (N,) once an epoch, in an order that depends only on (seed, epoch).

    A curriculum is the exception: as many of an epoch's first draws as fall into one of its stages
    are from the stage's rows alone, all of them in turn as often as it takes, and the others are as
    many of all rows as are left of N.

    Batches have ``batch_size`` rows, the last of an epoch those that are left. Where these are
    fewer than ``smallest_batch``, the last two batches share their rows evenly; where even then one
    would be too small, they are one batch.

    The position is an epoch and a batch; a checkpoint also has the number of the epoch's rows that
    were drawn, since earlier versions knew no ``smallest_batch``.

    Parameters
    ----------
    smallest_batch
        1, or 2 for a model whose batch norms cannot be trained on one question. There must be as
        many rows.
    images
        (N,) the image of each row. With ``per_image`` k, groups of k questions of one image (its
        last group may be smaller) are drawn instead of questions, so that a batch reads each image
        once for k questions.
    stages
        The curriculum: of each stage its number of draws, which begin where those of the stage
        before end, and its rows as indices (M,) into ``rows``.
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
        smallest_batch: int = 1,
        *,
        stages: Sequence[tuple[int, Tensor]] = (),
        shuffle: bool = True,
    ) -> None:
        self.available, self.batch_size, self.seed = rows, batch_size, seed
        sizes = batch_sizes(len(rows), batch_size, smallest_batch)
        self._ends = list(accumulate(sizes, initial=0))
        self.images, self.per_image, self.shuffle = images, per_image, shuffle
        self.stages = list(stages)
        self.epoch = self.batch = 0
        self._order: tuple[int, Tensor] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return len(self._ends) - 1

    def rows(self, epoch: int, batch: int) -> Tensor:
        """Rows (≤ batch size,) of one batch of one epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._order = (epoch, self.available[self._drawn(epoch, generator)])
        return self._order[1][self._ends[batch] : self._ends[batch + 1]]

    def _drawn(self, epoch: int, generator: torch.Generator) -> Tensor:
        """An epoch's draws (N,), as indices into ``available``."""
        count = len(self.available)
        drawn: list[Tensor] = []
        left, before = count, epoch * count  # of this epoch; draws of the epochs and stages before
        for length, members in self.stages:
            within = min(max(length - before, 0), left)
            before = max(before - length, 0)
            left -= within
            while within:
                turn = members[self._in_turn(members, generator)][:within]
                drawn.append(turn)
                within -= len(turn)
        if left:
            drawn.append(self._in_turn(torch.arange(count), generator)[:left])
        return torch.cat(drawn)

    def _in_turn(self, members: Tensor, generator: torch.Generator) -> Tensor:
        """The order (M,) in which some rows are drawn once each."""
        count = len(members)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        if self.images is None or self.per_image == 1:
            return order
        # Up to ``per_image`` questions of an image come side by side.
        images = self.images[members]
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

    def advance(self) -> None:
        """Move on by one batch."""
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch, "rows": self._ends[self.batch]}

    def load_state_dict(self, state: dict[str, int]) -> int:
        """Go to a saved position.

        Returns how many rows come twice in its epoch, or not at all: 0, unless an earlier version,
        which cut the last batches otherwise, saved it just before the last batch.
        """
        self.epoch, self.batch = state["epoch"], state["batch"]
        drawn = state.get("rows", self.batch * self.batch_size)
        if self.batch == self.batches_per_epoch:  # there was one batch more, of one row
            self.epoch, self.batch = self.epoch + 1, 0
            return len(self.available) - drawn
        return drawn - self._ends[self.batch]


def batch_sizes(num_rows: int, batch_size: int, smallest_batch: int = 1) -> list[int]:
    """The numbers of rows of an epoch's batches, as ``EpochSampler`` draws them."""
    sizes = [batch_size] * (num_rows // batch_size)
    if left := num_rows % batch_size:
        sizes.append(left)
    if len(sizes) > 1 and sizes[-1] < smallest_batch:
        together = sizes.pop() + sizes.pop()
        halves = [together - together // 2, together // 2]
        sizes += halves if halves[1] >= smallest_batch else [together]
    return sizes
