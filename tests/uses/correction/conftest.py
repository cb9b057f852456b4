"""A small network without language, hints about its mistakes, and networks that read hints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.settings import BackboneSettings, DataSettings
from filmvqa.system.layout import DatasetLayout
from filmvqa.training.run import train_run
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings, TransferSettings
from filmvqa.uses.correction.hint_questions import make_hints
from filmvqa.uses.correction.settings import MakeHintsSettings
from tests.models.small_models import SMALL
from tests.training.tiny_runs import train

CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}
NAME = "film_label_maps"
BASE = {"film_blocks": [False, False], "block": {"norm_affine": True}}
TRAINER: dict[str, Any] = {
    "batch_size": 8, "max_steps": 24, "eval_every": 12, "log_every": 4, "patience": None,
    "train_sample": 20, "precision": "float32",
}  # fmt: skip


def hint(checkpoint: Path, output: Path, **options: Any) -> dict[str, int] | None:
    """Make hints about a network's mistakes."""
    return make_hints(MakeHintsSettings(checkpoint=checkpoint, output=output, **CPU, **options))


def train_network(
    folder: Path, data: DatasetLayout, model: dict[str, Any], *, seed: int = 0,
    trainer: dict[str, Any] | None = None, **options: Any,
) -> Path:  # fmt: skip
    """Train a small network that predicts label maps, in a run's folder."""
    model = {"name": NAME, **SMALL[NAME], **model}
    files = DataSettings(
        name="x", root=data.root, images=data.images, h5=data.h5, features=data.features,
        backbone=BackboneSettings("clevr_cnn"),
    )  # fmt: skip
    train_run(
        folder,
        RunSettings(
            data=files, model=model, optim=OptimSettings(lr=1e-2), seed=seed, device="cpu",
            trainer=TrainerSettings(**TRAINER | (trainer or {})), **options,
        ),
    )  # fmt: skip
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == seed
    return folder


@dataclass(frozen=True)
class Corrected:
    """A base network's run, the set of hints about its mistakes, and the folder of a sweep."""

    base: Path
    data: DatasetLayout
    hints: DatasetLayout
    sweep: Path


def train_corrector(
    folder: Path, made: Corrected, conditioning: str, *, seed: int = 0, **options: Any
) -> Path:
    """Train the parts of a network that read hints; the rest begins from the base."""
    model = {"film_blocks": None, "block": {"norm_affine": True, "conditioning": conditioning}}
    return train_network(
        folder, made.hints, model, seed=seed, **options,
        train=TransferSettings(init_from=made.base, trainable=["encoder", "film_generator"]),
    )  # fmt: skip


@pytest.fixture(scope="session")
def corrected(
    referring_world: Path, referring_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Corrected:
    """Two seeds of FiLM and of the guide. Read only."""
    folder = tmp_path_factory.mktemp("correction")
    data = DatasetLayout.under(referring_world, h5=referring_set, backbone="clevr_cnn")
    base = train_network(folder / "base", data, BASE)
    assert hint(base, folder / "hints")
    hints = DatasetLayout.under(
        folder / "hints", images=data.images, features=data.features, backbone="clevr_cnn"
    )
    preprocess_questions(hints)
    made = Corrected(base, data, hints, folder / "sweep")
    for conditioning in ("film", "guide"):
        for seed in (0, 1):
            train_corrector(made.sweep / f"{conditioning}_{seed}", made, conditioning, seed=seed)
    return made


@pytest.fixture(scope="session")
def trained_answers(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network that answers questions. Read only."""
    folder = tmp_path_factory.mktemp("answers") / "run"
    train(folder, tiny_set, max_steps=2, eval_every=2)
    return folder
