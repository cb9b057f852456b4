"""What settings name and is not there."""

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
    if value.start == "own":
        raise UserError(f"{key} is refused")


@dataclass(frozen=True)
class Outer(Settings):
    source: Annotated[PathText, FILE]
    folder: Annotated[PathText | None, FOLDER] = None
    output: PathText = "made/later"
    inner: Annotated[Inner, Input(refuse)] = field(default_factory=Inner)


def test_what_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    check_inputs(Outer(str(there), str(tmp_path), inner=Inner(str(there))))
    for settings, message in (
        (Outer("x/y"), "x/y: no such file; check the path that source gives"),
        (Outer(str(there), "z"), "z: no such folder; check the path that folder gives"),
        (Outer(str(there), inner=Inner("z")), "z: no such file; check the path that inner.start"),
        (Outer(str(there), inner=Inner("own")), "inner is refused"),
    ):
        with pytest.raises(UserError) as caught:
            check_inputs(settings)
        assert str(caught.value).startswith(message)
