"""How γ and β are changed at test time, as configurations give it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from filmvqa.settings.typed import Positive, Settings

#: What is changed; ``both`` are γ and β.
Parameter = Literal["gamma", "beta", "both"]


@dataclass(frozen=True, kw_only=True)
class FilmSettings(Settings):
    """First γ and β become those of ``question`` (None: stay each question's own), then they are
    multiplied by ``scale``, then ``shift`` is added: ``scale=0`` sets them to ``shift``.

    ``parameter`` is which of them, and ``layers`` the FiLM layers in which, from 1; None: all.
    """

    node: ClassVar[str] = "film"

    question: Annotated[str, Meta(min_length=1)] | None = None
    scale: float = 1.0
    shift: float = 0.0
    parameter: Parameter = "both"
    layers: Annotated[list[Positive], Meta(min_length=1)] | None = None

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
