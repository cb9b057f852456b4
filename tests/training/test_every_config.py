"""Every config of the groups trains two steps and evaluates."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.cli.command import typed_settings
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.protocol import task_of
from filmvqa.training.run import train_run
from filmvqa.training.settings import RunSettings
from tests.conftest import REPOSITORY
from tests.training.tiny_runs import evaluate, metrics
from tests.worlds.sound.small_sets import FRONT_END

pytestmark = pytest.mark.slow

CONFIGS = REPOSITORY / "configs"
GROUPS = ("data", "model", "optim", "trainer", "logger", "experiment", "sweep")
EVERY = [
    f"{group}={path.relative_to(CONFIGS / group).with_suffix('')}"
    for group in GROUPS
    for path in sorted((CONFIGS / group).rglob("*.yaml"))
]


@pytest.fixture(scope="module")
def sources(tiny_world: Path, tiny_set: Path) -> Path:
    """The tiny set, with pixel features too."""
    for split in ("train", "val"):
        Extraction(
            tiny_world / "images" / split, tiny_set / f"{split}_features_pixels.h5", split,
            build_backbone("pixels"), (48, 48),
        ).run()  # fmt: skip
    return tiny_set


def shortened(override: str, sources: Path, masks: Path, sounds: DatasetLayout) -> Any:
    """The config with narrow layers, for two steps on the tiny set, its masks, or sounds."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=[override, "run=x"])
    with open_dict(config):
        data = config.data
        same_split = data.train_split == data.val_split
        has_maps = task_of(config.model.name).draws
        has_sound = data.backbone.name == "spectrogram" or override.endswith("_sound")
        h5 = sounds.h5 if has_sound else masks if has_maps else sources
        data.root, data.h5, data.features = str(h5.parent), str(h5), str(h5)
        data.train_split, data.val_split = "train", "train" if same_split else "val"
        has_pixels = "pixels" in (data.backbone.name, override.removeprefix("model=film_"))
        data.backbone.name = "pixels" if has_pixels and not has_maps else "clevr_cnn"
        if has_sound:
            data.backbone.name = "spectrogram"
            data.spectrogram = asdict(FRONT_END)
        if config.model.name == "film":
            config.model.encoder.hidden_dim = 16
            config.model.channels = 16
        if config.model.name == "mac":
            config.model.dim = 16
        config.trainer.update(max_steps=2, eval_every=2, log_every=1, batch_size=8, train_sample=20)
        config.device = "cpu"
    return config


@pytest.mark.parametrize("override", EVERY)
def test_it_trains_two_steps_and_evaluates(
    override: str, sources: Path, referring_set: Path, sounds: DatasetLayout, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = shortened(override, sources, referring_set, sounds)
    if config.train.init_from is not None:
        before = config.copy()
        before.train.update(init_from=None, trainable=None)
        before.model.generator.task_offset = False
        train_run(tmp_path / "before", typed_settings(before, RunSettings))
        config.train.init_from = str(tmp_path / "before/best.pt")
    score = train_run(tmp_path / "run", typed_settings(config, RunSettings))
    steps = [r["step"] for r in metrics(tmp_path / "run") if "loss" in r]
    assert steps == ([] if config.model.name == "qtype" else [1, 2])
    options = {"split": config.data.val_split, "precision": config.trainer.precision}
    _, report = evaluate(tmp_path / "run/best.pt", **options)
    metric = task_of(config.model.name).metric
    assert report["overall"][metric] == pytest.approx(score, abs=0.02)
