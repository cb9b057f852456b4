"""Which templates a set is generated with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from filmvqa.cli.command import typed_settings
from filmvqa.cli.generating import generate_set
from filmvqa.cli.settings import GenerateSettings
from tests.conftest import REPOSITORY


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
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        settings = typed_settings(compose("generate_clevr", overrides), GenerateSettings)
    used: list[Any] = []

    def generate(root: str, own: Any, workers: int | None = None) -> bool:
        used.append(own)
        return False

    maker: Any = SimpleNamespace(generate=generate, unit="images")
    generate_set(settings, settings.data.generated["generator"], maker)
    assert [own.templates for own in used] == [templates]
