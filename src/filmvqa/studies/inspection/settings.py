"""Settings of inspections, and of changes of γ and β at test time."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from filmvqa.evaluation.settings import AskedSettings, EvaluateSettings
from filmvqa.settings.typed import PathText, Positive, Seed, Settings, SplitName
from filmvqa.system.errors import UserError

#: The parameter that is changed.
Parameter = Literal["gamma", "beta", "both"]


@dataclass(frozen=True, kw_only=True)
class FilmSettings(Settings):
    """A change of γ and β: replace, then scale, then shift.

    Attributes
    ----------
    question
        All questions get the γ and β of this question; None: each keeps its own.
    scale, shift
        γ and β are multiplied by ``scale``, then ``shift`` is added. ``scale=0`` sets them to
        ``shift``.
    parameter
        Which of them is changed.
    layers
        The FiLM layers that are changed, counted from 1; None: all.
    arithmetic
        Instead of these changes: compute γ and β of a question from those of other questions, for
        unseen pairs of shape and color (``uses.zero_shot``); ``cogent`` or a control.
    arithmetic_on
        Compute them so, or the question's encoding.
    pairs
        Ask only the questions that name a color of a cube or cylinder that CoGenT's condition A
        ``lacks``, or those that name one that it ``has``.
    """

    node: ClassVar[str] = "film"

    question: Annotated[str, Meta(min_length=1)] | None = None
    scale: float = 1.0
    shift: float = 0.0
    parameter: Parameter = "both"
    layers: Annotated[list[Positive], Meta(min_length=1)] | None = None
    arithmetic: Literal["cogent", "first", "second", "third", "mean", "direct"] | None = None
    arithmetic_on: Literal["film", "encoding"] = "film"
    pairs: Literal["lacks", "has"] = "lacks"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arithmetic is None:
            return
        others = replace(self, arithmetic=None, arithmetic_on="film", pairs="lacks")
        if others != FilmSettings():
            raise UserError(
                f"film.arithmetic={self.arithmetic}: is given without other changes of γ and β"
            )

    @property
    def is_change(self) -> bool:
        return self.question is not None or (self.scale, self.shift) != (1.0, 0.0)

    @property
    def record(self) -> dict[str, Any]:
        """The settings as plain data."""
        return asdict(self)

    @property
    def folder_name(self) -> str:
        """A folder name for the change, such as ``gamma_scale_0.5_layers_1_2``, with a hash in
        place of a question."""
        if self.arithmetic is not None:
            words = ["arithmetic", self.arithmetic]
            words += ["encoding"] if self.arithmetic_on == "encoding" else []
            return "_".join([*words, "has"] if self.pairs == "has" else words)
        parts: list[object] = [self.parameter if self.parameter != "both" else "gamma_beta"]
        if self.question is not None:
            parts += ["question", hashlib.sha256(self.question.encode()).hexdigest()[:8]]
        if self.scale != 1.0:
            parts += ["scale", repr(self.scale)]
        if self.shift != 0.0:
            parts += ["shift", repr(self.shift)]
        if self.layers is not None:
            parts += ["layers", *self.layers]
        return "_".join(map(str, parts))


@dataclass(frozen=True, kw_only=True)
class ChangedEvaluateSettings(EvaluateSettings):
    """An evaluation, optionally with changed γ and β.

    Attributes
    ----------
    film
        The change; its results are written to a separate folder.
    """

    film: FilmSettings = field(default_factory=FilmSettings)


@dataclass(frozen=True, kw_only=True)
class InspectSettings(AskedSettings):
    """An inspection of a checkpoint.

    Attributes
    ----------
    split
        The split whose questions are asked.
    output
        The folder of the page. None: ``inspection_<split>`` beside the checkpoint, or in
        ``outputs/<name>`` for a network of the package.
    max_questions, seed
        The number of questions, which ``seed`` chooses; None: all.
    """

    split: SplitName = "val"
    output: PathText | None = None
    max_questions: Positive | None = 10_000
    seed: Seed = 0
