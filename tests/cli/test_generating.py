"""The templates with which a set is generated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from filmvqa.cli.command import CONFIGS, typed_settings
from filmvqa.cli.generating import generate_set
from filmvqa.cli.overrides import compose_config
from filmvqa.cli.settings import GenerateSettings


@pytest.mark.parametrize(
    ("overrides", "templates"),
    [
        (["data=mini"], None),
        (["data=referring"], "referring"),
        (["data=referring", "templates=mine"], "mine"),
        (["data=mini", "templates=mine"], "mine"),
    ],
)
def test_the_option_goes_before_the_sets_own(overrides: list[str], templates: str | None) -> None:
    config = compose_config(CONFIGS, "generate_clevr", overrides)
    settings = typed_settings(config, GenerateSettings)
    used: list[str | None] = []
    maker: Any = SimpleNamespace(
        generate=lambda root, set_settings, workers: used.append(set_settings.templates)
    )
    generate_set(settings, settings.data.generated["generator"], maker)
    assert used == [templates]
