"""Files of earlier versions are still read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.settings.renamed_keys import RENAMED_KEYS
from tests.conftest import REPOSITORY
from tests.training.tiny_runs import Runs, loader_of

FOLDER = REPOSITORY / "tests/fixtures/checkpoint_3"


@pytest.mark.parametrize("name", ["film", "mac"])
def test_a_checkpoint_of_format_3_gives_its_logits(name: str) -> None:
    path = FOLDER / f"{name}.pt"
    model, _ = model_from_checkpoint(load_checkpoint(path), path)
    batch = loader_of(FOLDER / "h5", "val").batch(torch.arange(4))
    with torch.inference_mode():
        logits = model(batch.features, batch.questions, batch.image_of_question)
    stored = torch.tensor(json.loads((FOLDER / "logits.json").read_text())[name])
    torch.testing.assert_close(logits, stored, rtol=1e-4, atol=1e-4)


def earlier(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with the names of keys in format 3."""
    names = {current: earlier for earlier, current in RENAMED_KEYS.items()}
    renamed = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        name = names.get(path, path).rpartition(".")[2]
        renamed[name] = earlier(value, f"{path}.") if isinstance(value, dict) else value
    return renamed


def as_format_3(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of the current format, as the previous version would have written it."""
    inputs = {
        name: {("made" if k == "feature_spec" else k): v for k, v in entry.items()}
        if isinstance(entry, dict)
        else entry
        for name, entry in content["inputs"].items()
    }
    data = content["data"]
    progress = {k: v for k, v in content["progress"].items() if k != "logged"}
    sampler = {k: v for k, v in content["sampler"].items() if k != "rows"}
    old = content | {
        "progress": progress,
        "sampler": sampler,
        "format": "filmvqa-checkpoint-3",
        "average": content["ema_weights"],
        "model": {
            "name": content["model"]["name"],
            "kwargs": earlier(content["model"]["kwargs"], "model."),
        },
        "config": earlier(content["config"]),
        "data": {"folder": data["h5"], "features_folder": data["features"]}
        | {name: data[name] for name in ("backbone", "train_split", "val_split")},
        "inputs": inputs,
        "window": {"losses": content["window"]["losses"], "right": content["window"]["correct"]},
    }
    del old["ema_weights"], old["backbone"]
    return old


def test_a_run_of_format_3_is_resumed_to_the_same_bits(runs: Runs) -> None:
    options = {"ema_decay": 0.9, "film_penalty": 0.01, "checkpoint_steps": 5}
    options["model"] = {"film_blocks": [True, False], "block": {"film_position": "after_conv2"}}
    runs.train("whole", **options)
    runs.stop(13, **options)
    old = as_format_3(runs.last())
    assert old["progress"]["step"] == 13
    assert "average" in old["config"]["trainer"]
    torch.save(old, runs.folder / "run/last.pt")
    runs.train(**options)
    runs.assert_same("whole", "run", "weights", "ema_weights", "optimizer")
    assert runs.metrics("whole") == runs.metrics()
