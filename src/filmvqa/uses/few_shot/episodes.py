"""Episodes: five pictures with an X and five without, and as many to answer about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError
from filmvqa.uses.few_shot.concepts import CONCEPTS, MEMBERS, Bools, near_classes

#: Number of pictures with an X, and of pictures without, that are shown, and that are asked about.
SHOTS = 5


@dataclass(frozen=True)
class Episode:
    """The pictures of a concept that are shown, and those that are asked about.

    Attributes
    ----------
    concept
        The concept's number.
    pictures
        (20,) rows of the pictures: 10 that are shown, then 10 that are asked about.
    labels
        (20,) whether each has an X.
    """

    concept: int
    pictures: NDArray[np.int64]
    labels: Bools


class Episodes:
    """Draws episodes about N pictures whose classes ``present`` (N, 96) are known.

    Raises
    ------
    UserError
        If too few pictures have a concept, or too few lack it.
    """

    def __init__(self, present: Bools, concepts: NDArray[np.int64], source: str) -> None:
        self.present, self.concepts = present, concepts
        self._counts = present.astype(np.float32)
        for concept in concepts:
            with_x = int(self.labels[:, concept].sum())
            if min(with_x, len(present) - with_x) < 2 * SHOTS:
                raise UserError(
                    f"{source}: {with_x} of {len(present)} pictures have one that is "
                    f"{' '.join(CONCEPTS[concept].values())}; {2 * SHOTS} with and as many without "
                    "are needed: generate more"
                )

    @cached_property
    def labels(self) -> Bools:
        """(N, 87) whether a picture has an X."""
        labels: Bools = self._counts @ MEMBERS.T.astype(np.float32) > 0
        return labels

    def draw(self, generator: np.random.Generator, concept: int) -> Episode:
        """Draw an episode. Half of its pictures without an X are near misses: they have an object
        that differs from an X in a drawn picture in one attribute of X."""
        labels = self.labels[:, concept]
        yes = generator.choice(np.flatnonzero(labels), 2 * SHOTS, replace=False)
        near_class = near_classes(concept, self.present[yes].any(0))
        near = (self._counts @ near_class.astype(np.float32) > 0) & ~labels
        no = self._some(generator, near, ~labels & ~near)
        pictures = np.stack([yes, no]).reshape(2, 2, SHOTS).swapaxes(0, 1).reshape(-1)
        return Episode(concept, pictures, labels[pictures])

    def draw_many(self, generator: np.random.Generator, count: int) -> list[Episode]:
        """Draw ``count`` episodes, which cycle through the concepts, in a new order each time."""
        rounds = -(-count // len(self.concepts))
        order = [generator.permutation(self.concepts) for _ in range(rounds)]
        return [self.draw(generator, int(concept)) for concept in np.concatenate(order)[:count]]

    @staticmethod
    def _some(generator: np.random.Generator, near: Bools, far: Bools) -> NDArray[np.int64]:
        """Choose near misses and other pictures, in equal numbers if there are enough."""
        near_rows, far_rows = (generator.permutation(np.flatnonzero(rows)) for rows in (near, far))
        count = max(min(SHOTS, len(near_rows)), 2 * SHOTS - len(far_rows))
        chosen = np.concatenate([near_rows[:count], far_rows[: 2 * SHOTS - count]])
        return generator.permutation(chosen)


def answer_ideally(labels: Bools, episode: Episode) -> Bools:
    """(10,) answers of a learner that knows all pictures' true ``labels`` (N, 87).

    It weights each concept that fits the shown pictures by the probability of drawing those with
    an X from all pictures that have one: if a rare concept fits, this is no coincidence (Tenenbaum
    1999). Pictures without an X only exclude concepts.
    """
    shown, asked = episode.pictures[: 2 * SHOTS], episode.pictures[2 * SHOTS :]
    fits = (labels[shown] == episode.labels[: 2 * SHOTS, None]).all(0)  # (87,)
    weights = fits / np.maximum(labels.sum(0), 1.0) ** SHOTS
    answers: Bools = labels[asked] @ weights > weights.sum() / 2
    return answers
