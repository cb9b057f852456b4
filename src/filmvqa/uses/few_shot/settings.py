"""A new word from ten pictures: settings of the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.typed import AboveZero, PathText, Positive, Seed, SplitName

#: Ways to learn a concept, as ``filmvqa.uses.few_shot.learners.KINDS`` has them.
KindName = Literal[
    "film", "all_weights", "last_layer", "tadam_linear", "tadam_linear_free", "tadam_mlp",
    "tadam_mlp_free", "prototypes", "logistic_regression",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FewShotSettings(DataProgramSettings):
    """Learners that are trained on episodes of a set's pictures, and compared.

    Attributes
    ----------
    output
        The folder of results; a learner whose result is there is not trained again.
    split
        Whose pictures test episodes are about; None: the set's validation split.
    learners, widths, seeds
        Each learner is trained in each width from each seed.
    word_steps
        In which the network that all learners begin from learns the words that are known.
    steps, lr
        Of a learner's training: steps of 16 episodes, and the rate that they begin with.
    episodes
        With which each learner is tested, on concepts that were trained on, and as many on those
        that were held out.
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
