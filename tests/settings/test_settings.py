"""Settings as dataclasses: accepted values, and messages for others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta

from filmvqa.settings.annotations import GROUPS
from filmvqa.settings.typed import (
    AboveZero,
    ImageSize,
    Name,
    Natural,
    PathText,
    Settings,
    checked,
    settings_from,
)
from filmvqa.settings.wording import wanted
from filmvqa.system.errors import UserError


@dataclass(frozen=True)
class Inner(Settings):
    node: ClassVar[str] = "inner"

    lr: AboveZero = 0.1
    kind: Literal["a", "b"] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    root: PathText
    steps: Natural = 3
    size: ImageSize = (1, 2)
    names: list[Name] | None = None
    counts: dict[str, Natural] = field(default_factory=dict)
    fast: bool = False
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


def test_plain_data_become_settings() -> None:
    plain = {
        "root": "x", "steps": 1e5, "size": [3, 4], "names": ["n"], "counts": {"a": 1},
        "inner": {"lr": 1, "kind": "b"}, "other": None,
    }  # fmt: skip
    made = settings_from(plain, Outer)
    assert made == Outer(
        root="x", steps=100_000, size=(3, 4), names=["n"], counts={"a": 1}, inner=Inner(1.0, "b")
    )
    assert type(made.steps) is int
    assert type(made.inner.lr) is float
    assert Outer(root=2024).root == "2024"  # type: ignore[arg-type]  # the name of a folder


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"steps": -1}, "steps=-1: must be a whole number from 0 to 2147483647"),
        ({"steps": True}, "steps=true: must be a whole number from 0 to 2147483647"),
        ({"steps": 1.5}, "steps=1.5: must be a whole number from 0 to 2147483647"),
        ({"steps": 2**31}, "steps=2147483648: must be a whole number from 0 to 2147483647"),
        ({"steps": None}, "steps=null: must be a whole number from 0 to 2147483647"),
        ({"steps": "7"}, "steps='7': must be a whole number from 0 to 2147483647; write it without "
                         "quotes, steps=7"),
        ({"size": [1]}, "size=[1]: must be a list of 2, each a whole number from 1 to 16384"),
        ({"names": "n"}, "names='n': must be a list, each a name, or null; write names=[n]"),
        ({"names": [""]}, 'names=[""]: must be a list, each a name, or null'),
        ({"counts": {"a": -1}}, "counts.a=-1: must be a whole number from 0 to 2147483647"),
        ({"counts": 3}, "counts=3: must be a group of keys"),
        ({"fast": 1}, "fast=1: must be true or false"),
        ({"root": ["x"]}, 'root=["x"]: must be a path'),
        ({"inner": {"lr": math.nan}}, "inner.lr=NaN: must be a finite number above 0"),
        ({"inner": {"lr": math.inf}}, "inner.lr=Infinity: must be a finite number above 0"),
        ({"inner": {"lr": 0}}, "inner.lr=0: must be a finite number above 0"),
        ({"inner": {"lr": "1e-3"}}, "inner.lr='1e-3': must be a finite number above 0; write it "
                                    "without quotes, inner.lr=1e-3"),
        ({"inner": {"kind": "c"}}, "inner.kind='c': must be one of a, b, or null"),
        ({"inner": None}, "inner=null: must be a group of keys (lr, kind)"),
        ({"inner": [1]}, "inner=[1]: must be a group of keys (lr, kind)"),
        ({"inner": {"rate": 1}}, "inner.rate: no such key; there are lr, kind"),
        ({"stepz": 1}, "stepz: no such key; did you mean steps?"),
        ({"kind": "a"}, "kind: no such key; did you mean inner.kind?"),
        ({"inner": {"steps": 1}}, "inner.steps: no such key; did you mean steps?"),
    ],
)  # fmt: skip
def test_wrong_values_and_keys_are_named(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_from({"root": "x", **plain}, Outer)
    assert str(caught.value) == message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"^root: is missing; it must be a path$"):
        settings_from({}, Outer)


def test_constructors_check_their_arguments_too() -> None:
    with pytest.raises(UserError, match=r"^inner\.lr=-1: must be a finite number above 0$"):
        Inner(lr=-1)
    with pytest.raises(UserError, match=r"^inner=\{\}: must be a group of keys \(lr, kind\)$"):
        Outer(root="x", inner={})  # type: ignore[arg-type]


def test_groups_registered_elsewhere_are_keys_beside_the_fields() -> None:
    registered: dict[str, type[Settings]] = {}

    @dataclass(frozen=True)
    class Holder(Settings):
        size: Natural = 1
        groups: dict[str, Settings] = field(
            default_factory=dict, metadata={GROUPS: lambda: registered}
        )

    with pytest.raises(UserError, match=r"^inner: no such key; there are size$"):
        settings_from({"inner": {"lr": 1}}, Holder)
    registered["inner"] = Inner
    assert settings_from({"inner": {"lr": 1}}, Holder).groups == {"inner": Inner(1.0)}
    assert settings_from({"inner": None}, Holder) == settings_from({}, Holder) == Holder()
    with pytest.raises(UserError, match=r"^inner\.lr=0: must be a finite number above 0$"):
        settings_from({"inner": {"lr": 0}}, Holder)


def test_nested_numbers_are_finite_too() -> None:
    with pytest.raises(UserError, match=r"^x=\[1.0, NaN\]"):
        checked([1.0, math.nan], list[float], "x")


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Annotated[float, Meta(gt=0, lt=1)], "a finite number above 0 and below 1"),
        (Annotated[int, Meta(ge=16, multiple_of=8)],
         "a whole number of at least 16 and that is a multiple of 8"),
        (Annotated[list[bool], Meta(min_length=1)], "a list of at least one, each true or false"),
        (int | str | None, "a whole number, or text, or null"),
    ],
)  # fmt: skip
def test_descriptions_of_fitting_values(hint: Any, text: str) -> None:
    assert wanted(hint) == text
