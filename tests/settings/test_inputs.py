"""Missing inputs that settings name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from filmvqa.settings.inputs import FILE, FOLDER, Input, check_inputs
from filmvqa.settings.typed import PathText, Settings
from filmvqa.system.errors import UserError


@dataclass(frozen=True)
class Inner(Settings):
    node: ClassVar[str] = "inner"

    start: Annotated[PathText | None, FILE] = None


def refuse(value: Inner, key: str) -> None:
    if value.start == "custom":
        raise UserError(f"{key} is refused")


@dataclass(frozen=True)
class Outer(Settings):
    source: Annotated[PathText, FILE]
    folder: Annotated[PathText | None, FOLDER] = None
    output: PathText = "made/later"
    inner: Annotated[Inner, Input(refuse)] = field(default_factory=Inner)


def test_missing_inputs_are_named_with_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check_inputs(Outer(str(file), str(tmp_path), inner=Inner(str(file))))
    for settings, message in (
        (Outer("x/y"), "x/y: no such file; check the path that source gives"),
        (Outer(str(file), "z"), "z: no such folder; check the path that folder gives"),
        (Outer(str(file), inner=Inner("z")), "z: no such file; check the path that inner.start"),
        (Outer(str(file), inner=Inner("custom")), "inner is refused"),
    ):
        with pytest.raises(UserError) as caught:
            check_inputs(settings)
        assert str(caught.value).startswith(message)
