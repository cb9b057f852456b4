"""Settings of few-shot learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.typed import AboveZero, PathText, Positive, Seed, SplitName

#: Learners of a concept, as in ``filmvqa.uses.few_shot.learners.KINDS``.
KindName = Literal[
    "film", "all_weights", "last_layer", "tadam_linear", "tadam_linear_free", "tadam_mlp",
    "tadam_mlp_free", "prototypes", "logistic_regression",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FewShotSettings(DataProgramSettings):
    """Learners that are trained on episodes of a data set's pictures, and compared.

    Attributes
    ----------
    output
        The folder of results; a learner with a result there is not trained again.
    split
        The split of the test episodes; None: the data's validation split.
    learners, widths, seeds
        Each learner is trained with each width and seed.
    word_steps
        Steps in which the initial network, which all learners share, learns the known words.
    steps, lr
        A learner's training steps, of 16 episodes each, and its initial learning rate.
    episodes
        Number of test episodes on trained concepts, and on held-out concepts.
    """

    output: PathText
    split: SplitName | None = None
    learners: Annotated[list[KindName], Meta(min_length=1)]
    widths: Annotated[list[Positive], Meta(min_length=1)] = field(default_factory=lambda: [64])
    seeds: Annotated[list[Seed], Meta(min_length=1)] = field(default_factory=lambda: [0])
    word_steps: Positive = 1000
    steps: Positive = 300
    lr: AboveZero = 2e-3
    episodes: Positive = 504
