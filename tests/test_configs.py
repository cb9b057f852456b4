"""Every config composes and instantiates; the README's commands exist."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from filmvqa.clevr.families import read_families
from filmvqa.clevr.generator_settings import GeneratorSettings
from filmvqa.clevr.scenes import SceneRules
from filmvqa.cli.settings import TrainConfig
from filmvqa.models import build_model
from filmvqa.settings import settings_from
from filmvqa.training.optimizer import build_optimizer, build_schedule
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
PRIMARY = sorted(p.stem for p in CONFIGS.glob("[a-z]*.yaml"))


def options(group: str) -> list[str]:
    folder = CONFIGS / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def composed(name: str, *overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
        return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configs_belong_to_scripts_and_compose(name: str) -> None:
    assert (REPOSITORY / f"scripts/{name}.py").is_file()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert "debug" in compose(name)


@pytest.mark.parametrize("name", options("data"))
def test_data_configs(name: str) -> None:
    data = composed("extract_features", f"data={name}")["data"]
    assert {"root", "images", "h5", "features", "train_split", "val_split", "backbone"} <= set(data)
    assert (data["generator"] is None) != (data["download"] is None)
    if data["generator"] is not None:
        settings = msgspec.convert(data["generator"], GeneratorSettings)
        assert set(data["generator"]["rules"]) == {f.name for f in fields(SceneRules)}
        changed = {"mini": {"max_objects"}, "cogent_mini": {"max_objects", "cogent"}}.get(name, {})
        for field in fields(SceneRules):
            same = getattr(settings.rules, field.name) == getattr(SceneRules(), field.name)
            assert same != (field.name in changed), field.name
        used = {split for split, count in settings.images.items() if count}
        assert {data["train_split"], data["val_split"]} <= used
        read_families(settings.templates, settings.families)


@pytest.mark.parametrize("group", ["model", "optim", "trainer", "logger", "experiment", "sweep"])
def test_every_training_config_composes(group: str) -> None:
    for name in options(group):
        check_training(composed("train", f"{group}={name}", "run=x"))


def check_training(config: dict) -> None:
    kwargs = {k: v for k, v in config["model"].items() if k != "name"}
    with torch.device("meta"):
        model = build_model(
            config["model"]["name"],
            vocab_size=9,
            num_answers=5,
            feature_shape=[7, 14, 14],
            **kwargs,
        )
    settings = settings_from(config, TrainConfig)
    build_schedule(build_optimizer(model, settings.optim), settings.optim, 10)


def test_the_papers_recipe() -> None:
    config = composed("train", "experiment=film_clevr", "run=x")
    assert config["optim"] == {
        "name": "adam",
        "lr": 3e-4,
        "weight_decay": 1e-5,
        "part_weight_decay": {"encoder": None, "film_generator": None},
        "decay_norms_and_biases": True,
        "fused": True,
        "schedule": "constant",
        "warmup_steps": 0,
    }
    assert config["trainer"]["batch_size"] == 64
    model = config["model"]
    encoder, classifier = model["encoder"], model["classifier"]
    assert (encoder["embedding_dim"], encoder["hidden_dim"]) == (200, 4096)
    assert (model["channels"], model["num_blocks"]) == (128, 4)
    assert (classifier["projection_dim"], classifier["hidden_dims"]) == (512, [1024])
    assert config["data"]["backbone"]["name"] == "resnet101"
    assert config["data"]["image_size"] == [224, 224]


def test_the_weight_decay_sweep_is_the_issues() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=["sweep=weight_decay"], return_hydra_config=True)
        assert config.hydra.sweeper.params["optim.weight_decay"] == "0,1e-6,1e-5,1e-4,1e-3"


def documents() -> list[Path]:
    return [
        REPOSITORY / "README.md",
        REPOSITORY / "data/README.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    ]


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.mark.parametrize("document", documents(), ids=lambda p: p.name)
def test_the_commands_of_the_documents_exist(document: Path) -> None:
    found = commands(document.read_text())
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for line in found:
        words = shlex.split(line)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        if words[:1] == ["python"] and words[1].startswith("scripts/"):
            script = REPOSITORY / words[1]
            assert script.is_file(), line
            if (CONFIGS / f"{script.stem}.yaml").exists():
                overrides = [w for w in words[2:] if w != "-m" and "<" not in w]
                if "-m" in words:  # the first of the values that are swept
                    overrides = [w if "[" in w else w.split(",")[0] for w in overrides]
                with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                    compose(script.stem, overrides=overrides)
    if document.name == "README.md" and document.parent == REPOSITORY:
        assert {"make demo", "make test"} <= set(found)


def test_the_stages_of_the_synthetic_run_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    synthetic = importlib.import_module("synthetic")
    for small in (False, True):
        for line in itertools.chain(*synthetic.stages(small).values()):
            script, *overrides = line.split(" ")
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                compose(script.removesuffix(".py"), overrides=overrides)
                if "experiment=film_synthetic" in line:
                    # Both rows learn from what the stage before them extracts.
                    assert line.split("experiment=")[1].split(" ")[0] in synthetic.DATA


def test_scripts_start_without_the_heavy_imports() -> None:
    """So that ``--help`` and an error in an override come at once."""
    names = [path.stem for path in (REPOSITORY / "scripts").glob("[a-z]*.py")]
    assert "train" in names
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "sys.exit(str({'torch', 'numba', 'h5py', 'matplotlib', 'wandb'} & sys.modules.keys() or ''))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY / "scripts", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.stderr.strip() == ""
