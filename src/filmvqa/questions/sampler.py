"""The order in which training draws questions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class EpochSampler:
    """Draw each of N rows once per epoch, in an order that depends only on seed and epoch.

    With a curriculum, the first draws come from its stages. A stage draws all of its rows in turn,
    again and again, until it has made its number of draws. If the last stage ends within an epoch,
    the epoch is completed to N draws with rows chosen from all N.

    Batches have ``batch_size`` rows; the last batch of an epoch has the rest. If the rest is
    smaller than ``smallest_batch``, the last two batches share their rows evenly. If one of them
    would still be too small, they become one batch.

    The position is an epoch and a batch. Checkpoints also store how many rows of the epoch were
    drawn, because earlier versions had no ``smallest_batch``.

    Parameters
    ----------
    smallest_batch
        1, or 2 for a model whose batch norms cannot be trained on one question. At least as many
        rows are required.
    images
        (N,) the image of each row. With ``per_image`` k, the sampler draws groups of k questions of
        one image (the last group of an image may be smaller), so that a batch reads each image once
        for k questions.
    stages
        The stages of the curriculum, in order: for each, the number of its draws, and its rows as
        indices (M,) into ``rows``.
    shuffle
        If False, keep the order of the rows; with ``per_image``, the order of each group's first
        question.
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
        """The rows (≤ batch size,) of a batch of an epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._order = (epoch, self.available[self._drawn(epoch, generator)])
        return self._order[1][self._ends[batch] : self._ends[batch + 1]]

    def _drawn(self, epoch: int, generator: torch.Generator) -> Tensor:
        """The draws of an epoch (N,), as indices into ``available``."""
        count = len(self.available)
        drawn: list[Tensor] = []
        left, before = count, epoch * count  # draws left in this epoch; draws before this stage
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
        """The order (M,) in which each of M rows is drawn once."""
        count = len(members)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        if self.images is None or self.per_image == 1:
            return order
        # Put up to ``per_image`` questions of an image side by side.
        images = self.images[members]
        order = order[torch.argsort(images[order], stable=True)]  # by image, then as drawn
        counts = images.bincount()
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(order)) - first[images[order]]  # within the image's questions
        group = (rank % self.per_image == 0).cumsum(0) - 1
        if self.shuffle:
            group_order = torch.randperm(int(group[-1]) + 1, generator=generator)
        else:
            group_order = order[rank % self.per_image == 0]  # by first question
        return order[torch.argsort(group_order[group], stable=True)]

    def advance(self) -> None:
        """Move to the next batch."""
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch, "rows": self._ends[self.batch]}

    def load_state_dict(self, state: dict[str, int]) -> int:
        """Restore a saved position.

        Returns
        -------
        int
            The number of rows that the epoch repeats or misses. It is 0, unless an earlier version,
            which split the last batches otherwise, saved the position just before the last batch.
        """
        self.epoch, self.batch = state["epoch"], state["batch"]
        drawn = state.get("rows", self.batch * self.batch_size)
        if self.batch == self.batches_per_epoch:  # the earlier version had another batch of one row
            self.epoch, self.batch = self.epoch + 1, 0
            return len(self.available) - drawn
        return drawn - self._ends[self.batch]


def batch_sizes(num_rows: int, batch_size: int, smallest_batch: int = 1) -> list[int]:
    """The sizes of an epoch's batches."""
    sizes = [batch_size] * (num_rows // batch_size)
    if left := num_rows % batch_size:
        sizes.append(left)
    if len(sizes) > 1 and sizes[-1] < smallest_batch:
        together = sizes.pop() + sizes.pop()
        halves = [together - together // 2, together // 2]
        sizes += halves if halves[1] >= smallest_batch else [together]
    return sizes
