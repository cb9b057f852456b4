"""Every key of every script's configuration: a wrong value is refused by the key's name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from filmvqa.cli.command import CONFIGS, typed_settings
from filmvqa.cli.overrides import compose_config
from filmvqa.questions.settings import DataSettings
from filmvqa.settings.typed import Settings, settings_from
from filmvqa.studies.inspection.settings import ChangedEvaluateSettings
from filmvqa.system.errors import UserError
from filmvqa.training.settings import RunSettings
from filmvqa.worlds.engine.set_settings import SET_KINDS
from tests.conftest import heavy_imports, run_script

TYPES: dict[str, type[Settings]] = {
    path.stem: importlib.import_module(f"scripts.{path.stem}").main.settings_type
    for path in sorted(CONFIGS.glob("[a-z]*.yaml"))
}
#: Values, most of which suit no key.
VALUES = [
    None, "", "x", "7", "1e-3", "null", True, False, 0, -1, 1, 3, 2**70, 0.0, -0.5, 0.5, 1.5, 1e5,
    math.nan, math.inf, -math.inf, [], [0], [-1], [1, 1], [1, 1, 1], ["x"], [None], [[1]], {},
    {"x": 1}, {"x": {"y": None}},
]  # fmt: skip
#: The overrides that scripts require.
OVERRIDES = {
    "closure": ["checkpoint=x.pt"],
    "correct": ["checkpoint=x.pt", "dir=x"],
    "draw_model": ["output=x.png"],
    "draw_sheet": ["output=x.png"],
    "evaluate": ["checkpoint=x.pt"],
    "export": ["checkpoint=x.pt", "output=y.safetensors"],
    "generate_questions": ["scenes=x.json", "output=y.json"],
    "import_film": ["source=x.pt", "output=y.pt"],
    "import_questions": ["source=x.csv"],
    "inspect_film": ["checkpoint=x.pt"],
    "measure_logging": ["run=run", "train.trainable=[encoder]", "train.init_from=x.pt"],
    "pretrain_backbone": ["output=x.safetensors"],
    "make_hints": ["checkpoint=x.pt"],
    "score_answers": ["answers=x.txt", "questions=y.json"],
    "search": ["run=run", "train.trainable=[encoder]", "train.init_from=x.pt"],
    "sweep_report": ["dir=x"],
    "train": ["run=run", "train.trainable=[encoder]", "train.init_from=x.pt"],
}
#: The scripts that test the keys of nodes that several scripts share.
SHARED = {
    "data.": ("generate_clevr", "generate_sound", "download_clevr"),
    "model.": ("train",), "models.demo.": (), "models.film.": (), "models.film_pixels.": (), "models.mac.": (),
    "optim.": ("train",), "trainer.": ("train",),
}  # fmt: skip


def composed(name: str, *overrides: str) -> DictConfig:
    return compose_config(CONFIGS, name, overrides)


def keys(nested: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of nodes and leaves."""
    for name, value in nested.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


def at(nested: Any, key: str) -> Any:
    for name in key.split("."):
        if isinstance(nested, DataSettings) and name in SET_KINDS:
            nested = nested.generated.get(name)
        else:
            nested = nested[name] if isinstance(nested, dict) else getattr(nested, name)
    return nested


def same(value: Any, given: Any) -> bool:
    """Whether a setting equals the given value: a list may be a tuple, and a number a text."""
    if isinstance(value, Settings):
        return isinstance(given, dict)
    if isinstance(value, list | tuple):
        return isinstance(given, list) and all(map(same, value, given))
    if isinstance(value, dict) and isinstance(given, dict):
        return all(same(value[name], entry) for name, entry in given.items())
    return value == given or value == str(given)


def check_values(name: str, plain: dict[str, Any], key: str) -> None:
    """Each wrong value is refused by the key, and each accepted one is kept."""
    refused = 0
    for value in VALUES:
        changed = deepcopy(plain)
        parent, _, last = key.rpartition(".")
        (at(changed, parent) if parent else changed)[last] = deepcopy(value)
        try:
            made = settings_from(changed, TYPES[name])
            made.check_models()
        except UserError as error:
            message, refused = str(error), refused + 1
            # The message may name a key below a node, or another key that does not fit this one.
            begins = message.startswith((f"{key}=", f"{key}:", f"{key}."))
            assert begins or f" {key}=" in message, (key, value, message)
            assert len(message.splitlines()) == 1
        else:
            assert same(at(made, key), value), (key, value)
    assert refused >= (1 if key in ("ablation", "name", "run") else 5), key


@pytest.mark.parametrize("name", TYPES)
def test_every_key_takes_a_sensible_value_or_refuses_it_by_name(name: str) -> None:
    plain: Any = OmegaConf.to_container(composed(name, *OVERRIDES.get(name, ())), resolve=True)
    for key in keys(plain):
        if all(name in scripts or not key.startswith(node) for node, scripts in SHARED.items()):
            check_values(name, plain, key)


@pytest.mark.parametrize("model", ["mac", "cnn_lstm", "cnn_lstm_sa", "lstm", "qtype"])
def test_so_does_every_option_of_the_other_models(model: str) -> None:
    plain: Any = OmegaConf.to_container(
        composed("train", "run=run", f"model={model}"), resolve=True
    )
    for key in keys(plain["model"], "model."):
        check_values("train", plain, key)


@pytest.mark.parametrize("name", TYPES)
def test_every_script_checks_its_whole_configuration(name: str) -> None:
    config = composed(name, *OVERRIDES.get(name, ()))
    with open_dict(config):
        config.debug = "perhaps"
    with pytest.raises(UserError, match=r"^debug='perhaps': must be true or false$"):
        typed_settings(config, TYPES[name])
    with open_dict(config):
        config.debug, config.debugg = False, True
    with pytest.raises(UserError, match=r"^debugg: no such key; did you mean debug\?$"):
        typed_settings(config, TYPES[name])


def test_a_value_that_must_be_given_is_named() -> None:
    with pytest.raises(UserError, match=r"^checkpoint: must be given; add checkpoint=<value>$"):
        typed_settings(composed("evaluate"), ChangedEvaluateSettings)


def test_a_deleted_node_is_named_or_has_its_defaults() -> None:
    config = composed("train", "run=run", "~logger", "~trainer.patience")
    settings = typed_settings(config, RunSettings)
    assert (settings.logger.wandb, settings.trainer.patience) == (False, 5)
    with pytest.raises(UserError, match=r"^optim: is missing; it must be a group of keys"):
        typed_settings(composed("train", "run=run", "~optim"), RunSettings)


def test_both_loggers_at_once() -> None:
    config = composed("train", "run=run", "logger=[wandb,tensorboard]")
    logger = typed_settings(config, RunSettings).logger
    assert (logger.wandb, logger.tensorboard, logger.project) == (True, True, "filmvqa")


def test_the_defaults_of_the_settings_are_those_of_the_configs() -> None:
    for name, settings_type in TYPES.items():
        plain: Any = OmegaConf.to_container(composed(name, *OVERRIDES.get(name, ())), resolve=True)
        full = settings_from(plain, settings_type)
        required = {
            k: v for k, v in plain.items() if isinstance(v, dict) or k in _required(settings_type)
        }
        assert settings_from(required, settings_type) == full, name


def _required(settings_type: type[Settings]) -> set[str]:
    from dataclasses import MISSING, fields

    return {
        f.name for f in fields(settings_type)  # type: ignore[arg-type]
        if f.default is MISSING and f.default_factory is MISSING
    }  # fmt: skip


def test_settings_are_checked_without_the_heavy_imports() -> None:
    heavy = {"torch", "numba", "h5py", "matplotlib"}
    assert heavy_imports([settings.__module__ for settings in TYPES.values()], heavy) == ""


@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        ("train.py", ["optim.lr='1e-3'"], "optim.lr='1e-3': must be a finite number above 0"),
        ("train.py", ["+trainer.max_step=1"],
         "trainer.max_step: no such key; did you mean trainer.max_steps?"),
        ("extract_features.py", ["splits=val"], "splits='val': must be a list"),
        ("draw_sheet.py", [], "output: must be given; add output=<value>"),
        ("generate_clevr.py", ["part=3"], "part=3: parts are numbered from 0 to parts - 1; give "
         "parts=<the number of all parts>"),
        ("generate_clevr.py", ["part=3", "parts=3"], "part=3: parts are numbered from 0 to "
         "parts - 1; give parts=<above 3>"),
    ],
)  # fmt: skip
def test_a_script_says_so_in_one_line(
    script: str, arguments: list[str], line: str, tmp_path: Path
) -> None:
    done = run_script(script, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (printed,) = done.stderr.splitlines()
    assert printed.startswith(f"error: {line}")
