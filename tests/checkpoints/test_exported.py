"""Exported networks give the same answers from a small file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.checkpoints.export import export_network, model_card
from filmvqa.checkpoints.exported import decode_network, encode_network
from filmvqa.checkpoints.places import checkpoint_file, shipped_networks
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.system.errors import UserError
from tests.training.tiny_runs import train


@pytest.fixture(scope="module")
def run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    train(folder, tiny_set, precision="float32", run={"fraction": 0.5})
    return folder


def test_an_exported_network_answers_as_its_checkpoint(run: Path, tmp_path: Path) -> None:
    _, report = evaluate_checkpoint(EvaluateSettings(checkpoint=run, split="val"))
    network, card = export_network(run, tmp_path / "net.safetensors")
    assert network.stat().st_size < 0.6 * (run / "best.pt").stat().st_size
    _, again = evaluate_checkpoint(
        EvaluateSettings(checkpoint=network, split="val", output=tmp_path)
    )
    assert again["overall"]["questions"] == report["overall"]["questions"]
    assert abs(again["overall"]["correct"] - report["overall"]["correct"]) <= 2
    text = card.read_text()
    assert re.search(rf"overall \| {100 * report['overall']['accuracy']:.1f} \(", text)
    assert "`film`" in text
    content, before = load_checkpoint(network), load_checkpoint(run)
    assert content["vocabulary"] == before["vocabulary"]
    assert content["backbone"] == before["backbone"]
    assert torch.equal(content["train_images"], before["train_images"])
    model, _ = model_from_checkpoint(content, network)
    original, _ = model_from_checkpoint(before, run)
    count = sum(weight.numel() for weight in original.parameters())  # without batch norm statistics
    assert count < sum(value.numel() for value in before["weights"].values())
    assert f"`film`, {count:,} weights" in text
    for (name, weight), (_, exact) in zip(
        model.state_dict().items(), original.state_dict().items(), strict=True
    ):
        assert torch.allclose(weight.float(), exact.float(), rtol=1e-3, atol=1e-6), name


def test_the_card_describes_the_training(run: Path) -> None:
    content = load_checkpoint(run)
    assert len(content["train_images"]) == 30
    generator = {
        "rules": {"min_objects": 3, "max_objects": 4}, "images": {"train": 60}, "seed": 0,
        "questions_per_image": 10, "families": ["zero_hop", 7],
    }  # fmt: skip
    data = {"name": "lab", "train_split": "train", "generator": generator, "families": None}
    environment = {"processor": "EPYC", "threads": 1, "device": "cpu"}
    content["progress"]["environments"] = [environment]
    content["progress"]["seconds"] = 70.0
    reports = [{"split": "val", "overall": {"questions": 2, "accuracy": 0.5, "interval": [0, 1]}}]

    def card(train: object = None, **changes: object) -> str:
        parts = {"data": {**data, **changes}, "trainer": {"batch_size": 32}}
        content["config"] = parts | ({"train": train} if train else {})
        return model_card("net", content, reports, 12, 34)

    assert "`data=lab`: 30 of 60 images of 3 to 4 objects" in card()
    assert "with 10 questions each, of the families zero_hop, 7." in card()
    some_short = card(generator={**generator, "short_questions": {"train": 0.125}})
    assert "families zero_hop, 7; 12.5% of the questions are short ones." in some_short
    assert "began with the weights of `x/y`." in card({"init_from": "x/y"})
    assert "began" not in card({"init_from": None})
    assert "in 1 minute." in card()
    assert "EPYC, 1 thread, cpu" in card()
    assert "questions of the families 5, 6 alone" in card(families=[5, 6])
    assert "not of CLEVR's" in card()
    clevr = card(name="clevr", generator=None)
    assert "- `data=clevr`." in clevr
    assert "not of CLEVR's" not in clevr


def test_unsuitable_exports_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        export_network(run, tmp_path / "net.pt")
    shutil.copy(run / "best.pt", tmp_path)
    with pytest.raises(UserError, match="no evaluation beside it"):
        export_network(tmp_path, tmp_path / "net.safetensors")
    content = load_checkpoint(run)
    name = next(iter(content["weights"]))
    content["weights"][name] = content["weights"][name] + 1e6
    with pytest.raises(UserError, match=rf"its weight {name} is too large"):
        encode_network(content, "run")


def test_broken_networks_are_refused(run: Path) -> None:
    stored = encode_network(load_checkpoint(run), run)
    other = safetensors.torch.save({"a": torch.zeros(2)}, {"filmvqa": json.dumps({"format": "x"})})
    bare = safetensors.torch.save({"a": torch.zeros(2)})
    for broken in (b"", stored[:-10], stored[:20], bare):
        with pytest.raises(UserError, match=r"not a network that scripts/export\.py wrote"):
            decode_network(broken, "net.safetensors")
    with pytest.raises(UserError, match="is 'x', not"):
        decode_network(other, "net.safetensors")


def test_an_existing_path_takes_precedence_over_a_shipped_network(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, path in shipped_networks().items():
        assert checkpoint_file(name) == path
        Path(name).mkdir()
        (Path(name) / "best.pt").write_bytes((run / "best.pt").read_bytes())
        assert checkpoint_file(name) == Path(name, "best.pt")
