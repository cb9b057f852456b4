"""An inspection, and how γ and β are changed at test time: settings of programs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from filmvqa.evaluation.settings import AskedSettings, EvaluateSettings
from filmvqa.settings.typed import PathText, Positive, Seed, Settings, SplitName
from filmvqa.system.errors import UserError

#: What is changed; ``both`` are γ and β.
Parameter = Literal["gamma", "beta", "both"]


@dataclass(frozen=True, kw_only=True)
class FilmSettings(Settings):
    """First γ and β become those of ``question`` (None: stay each question's own), then they are
    multiplied by ``scale``, then ``shift`` is added: ``scale=0`` sets them to ``shift``.

    ``parameter`` is which of them, and ``layers`` the FiLM layers in which, from 1; None: all.

    Instead, ``arithmetic`` makes γ and β (or with ``arithmetic_on=encoding`` encodings) of
    questions that name a colour of a cube or cylinder which condition A of CoGenT lacks (or, by
    ``pairs``, has) sums of those of other questions, and asks only these (``uses.zero_shot``):
    ``cogent``, or a control.
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
        """A folder's name that says what is changed, such as ``gamma_scale_0.5_layers_1_2``; a
        question stands there as a hash."""
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
    """An evaluation, also of a network whose γ and β are changed.

    Attributes
    ----------
    film
        How they are changed; the results go to a folder of their own.
    """

    film: FilmSettings = field(default_factory=FilmSettings)


@dataclass(frozen=True, kw_only=True)
class InspectSettings(AskedSettings):
    """An inspection of a checkpoint.

    Attributes
    ----------
    split
        Whose questions are asked.
    output
        The folder of the page; None: ``inspection_<split>`` in the folder of the checkpoint, and
        for a network of the package in ``outputs/<name>``.
    max_questions, seed
        So many questions of the split are asked, chosen by ``seed``; None: all.
    """

    split: SplitName = "val"
    output: PathText | None = None
    max_questions: Positive | None = 10_000
    seed: Seed = 0
