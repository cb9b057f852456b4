"""Imported checkpoints: evaluation, questions about pictures, and starting points of training."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import filmvqa
from filmvqa.checkpoints.checkpoint import (
    feature_differences,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)
from filmvqa.checkpoints.film_import import backbone_of, import_original_film
from filmvqa.checkpoints.settings import ImportSettings
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.features.feature_file import FORMAT
from filmvqa.models import build_model
from filmvqa.questions.settings import BackboneSettings, DataSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.training.transfer import warm_start
from tests.checkpoints.reference_baselines import checkpoint as baseline_checkpoint
from tests.checkpoints.reference_baselines import run as run_baseline
from tests.checkpoints.reference_film import ANSWERS, checkpoint, run
from tests.checkpoints.test_original_film import batch

PIXELS = {
    "feature_dim": (3, 32, 32), "stem_num_layers": 2, "stem_kernel_size": 4, "stem_stride": 2,
    "stem_padding": 1,
}  # fmt: skip
ORIGINAL_STD = [0.229, 0.224, 0.224]


def imported(folder: Path, content: dict[str, Any], backbone: str = "resnet101") -> Path:
    torch.save(content, folder / "original.pt")
    target = folder / "imported/film.pt"
    data = DataSettings(name="x", root=folder, h5=folder, backbone=BackboneSettings(backbone))
    import_original_film(ImportSettings(source=folder / "original.pt", output=target, data=data))
    return target


def write_data(folder: Path, features: np.ndarray, questions: torch.Tensor, **made: Any) -> None:
    """Write a split ``val`` with one question per image, and features with attributes ``made``."""
    with h5py.File(folder / "val_questions.h5", "w") as file:
        file["questions"] = questions.numpy().astype(np.int32)
        file["image_idxs"] = np.arange(len(questions), dtype=np.int32)
        file["answers"] = np.zeros(len(questions), np.int32)
    backbone = made["backbone"]
    with h5py.File(folder / f"val_features_{backbone}.h5", "w") as file:
        file["features"] = features
        file["row_crc32"] = np.array([zlib.crc32(row.tobytes()) for row in features], np.uint32)
        spec = {"weights": "w", "weights_sha256": "ab", "stage": 0, "mean": [0.485, 0.456, 0.406],
                "std": ORIGINAL_STD, "precision": "float32", "split": "val", "format": FORMAT,
                "image_names_sha256": "0", "num_done": len(features)}  # fmt: skip
        file.attrs.update(spec | made)


def test_answers_about_a_picture_are_those_of_the_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = checkpoint(**PIXELS)
    vqa = filmvqa.load(imported(tmp_path, content, "pixels"), device="cpu", precision="float32")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    question = "t5 t9 t4"
    tokens = torch.tensor([vqa.vocabulary.encode(question)])
    unit = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    expected = torch.softmax(run(content, unit, tokens)[1], 1)[0]
    for form in (picture, Image.fromarray(picture)):
        probabilities = vqa.ask(form, question).probabilities
        ours = [probabilities[name] for name in vqa.vocabulary.answers()]
        assert torch.allclose(torch.tensor(ours), expected, atol=1e-5)


@pytest.mark.parametrize("baseline", ["FiLM", "CNN+LSTM+SA"])
def test_answers_about_stored_pixels_are_those_of_the_original(
    baseline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    content = (
        checkpoint(**PIXELS) if baseline == "FiLM"
        else baseline_checkpoint(baseline, cnn_feat_dim=(3, 32, 32))
    )  # fmt: skip
    target = imported(tmp_path, content, "pixels")
    _, questions = batch((3, 32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    write_data(tmp_path, pixels, questions, backbone="pixels", image_size=[32, 32])
    unit = torch.from_numpy(pixels).float() / 255
    expected = (
        run(content, unit, questions)[1] if baseline == "FiLM"
        else run_baseline(content, unit, questions)
    )  # fmt: skip
    files, report = evaluate_checkpoint(
        EvaluateSettings(checkpoint=target, split="val", device="cpu", precision="float32")
    )
    assert report is not None
    answers = Vocabulary.load(target.parent / "vocab.json").answers()
    lines = [msgspec.json.decode(line) for line in files.predictions.read_bytes().splitlines()]
    assert [line["answer"] for line in lines] == [answers[i] for i in expected.argmax(1)]
    assert "made" not in capsys.readouterr().err


@pytest.mark.parametrize("std", [ORIGINAL_STD, [0.229, 0.224, 0.225]])
def test_features_of_another_normalisation_are_reported(
    std: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The original's blue deviation is 0.224, torchvision's 0.225."""
    target = imported(tmp_path, checkpoint(feature_dim=(1024, 14, 14)))
    _, questions = batch((1, 1, 1))
    write_data(
        tmp_path, np.zeros((5, 1024, 14, 14), np.float16), questions, backbone="resnet101",
        stage=3, image_size=[224, 224], std=np.float32(std),
    )  # fmt: skip
    _, report = evaluate_checkpoint(EvaluateSettings(checkpoint=target, split="val", device="cpu"))
    assert report is not None
    warning = "how the features of val were made (std [0.229, 0.224, 0.225], not [0.229, 0.224, 0"
    assert (warning in capsys.readouterr().err) == (std != ORIGINAL_STD)
    assert any(warning in entry for entry in report["not_as_trained_with"]) == (std != ORIGINAL_STD)


def test_the_backbone_is_recorded_if_the_shape_identifies_it(tmp_path: Path) -> None:
    record = load_checkpoint(imported(tmp_path, checkpoint(feature_dim=(1024, 14, 14))))["backbone"]
    assert (record["backbone"], record["stage"]) == ("resnet101", 3)
    assert record["std"] == ORIGINAL_STD
    assert backbone_of((512, 28, 28)) is None
    pixels = backbone_of((3, 60, 80))
    assert pixels is not None
    assert pixels["image_size"] == [60, 80]
    content = {"backbone": record, "model": {"kwargs": {}}}
    assert feature_differences(content, record) == []
    assert feature_differences(content, None) == []
    assert feature_differences(content, record | {"stage": 4}) == ["stage 4, not 3"]
    ours = {"backbone": pixels, "model": {"kwargs": {}}}  # centered: bytes, not numbers in [0, 1]
    assert feature_differences(ours, None) == ["they do not say how pixels are scaled"]
    assert feature_differences(ours | {"model": {"kwargs": {"pixel_range": "unit"}}}, None) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("counters", [True, False])
def test_training_starts_from_an_import_of_any_dtype_and_torch_version(
    dtype: torch.dtype, counters: bool, tmp_path: Path
) -> None:
    """Imports of older versions of this project keep the dtype and lack the counters."""
    target = imported(tmp_path, checkpoint())
    content = load_checkpoint(target)
    content["weights"] = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in content["weights"].items()
        if counters or not name.endswith("num_batches_tracked")
    }
    save_checkpoint(target, {k: v for k, v in content.items() if k != "format"})
    old = Vocabulary.from_dict(content["vocabulary"])
    words = {w: i for i, w in enumerate([*old.question, *(f"new{i}" for i in range(200))])}
    kwargs = content["model"]["kwargs"] | {"vocab_size": len(words)}
    model = build_model("film", **kwargs)
    new = Vocabulary(words, old.program, old.answer)
    counts = warm_start(model, "film", target, new, new_words_std=0.01)
    assert counts == (len(old.question), 200)
    for name, value in model.state_dict().items():
        if name in content["weights"] and name != "encoder.embedding.weight":
            assert torch.equal(value, content["weights"][name].to(value.dtype)), name
    embedding = model.encoder.embedding.weight.detach()
    old_rows = content["weights"]["encoder.embedding.weight"].float()
    assert torch.equal(embedding[: len(old_rows)], old_rows)
    # As in the original, from N(0, 0.01²): 1,200 numbers here.
    assert embedding[len(old_rows) :].std().item() == pytest.approx(0.01, rel=0.1)


def test_starting_from_other_features_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = imported(tmp_path, checkpoint(feature_dim=(1024, 14, 14)))
    content = load_checkpoint(target)
    model, vocabulary = model_from_checkpoint(content, target)
    other = "std [0.229, 0.224, 0.225], not [0.229, 0.224, 0.224]"
    for std, warning in ((0.224, ""), (0.225, other)):
        spec = content["backbone"] | {"std": [0.229, 0.224, std]}
        warm_start(model, "film", target, vocabulary, feature_spec=spec)
        stderr = capsys.readouterr().err
        assert ("warning: " in stderr) == bool(warning)
        assert warning in stderr


def test_another_range_of_pixels_is_refused(tmp_path: Path) -> None:
    target = imported(tmp_path, checkpoint(**PIXELS), "pixels")
    content = load_checkpoint(target)
    kwargs = content["model"]["kwargs"] | {"pixel_range": "centered"}
    vocabulary = Vocabulary.from_dict(content["vocabulary"])
    with pytest.raises(UserError, match=r"give model\.pixel_range=unit"):
        warm_start(build_model("film", **kwargs), "film", target, vocabulary)


def test_hidden_layers_as_wide_as_the_answers_are_not_reordered(tmp_path: Path) -> None:
    target = imported(tmp_path, baseline_checkpoint("LSTM", fc_dims=(ANSWERS,)))
    content = load_checkpoint(target)
    old = Vocabulary.from_dict(content["vocabulary"])
    answers = {name: i for i, name in enumerate(reversed(old.answer))}
    model = build_model("lstm", **content["model"]["kwargs"])
    warm_start(model, "lstm", target, Vocabulary(old.question, old.program, answers))
    theirs, mine = content["weights"], model.state_dict()
    assert torch.equal(mine["classifier.0.weight"], theirs["classifier.0.weight"])
    assert torch.equal(mine["classifier.2.weight"], theirs["classifier.2.weight"].flip(0))


def test_an_existing_target_is_kept(tmp_path: Path) -> None:
    target = imported(tmp_path, checkpoint())
    before = target.read_bytes()
    with pytest.raises(UserError, match="exists already; choose another output") as refusal:
        import_original_film(
            ImportSettings(
                source=tmp_path / "original.pt", output=target,
                data=DataSettings(name="x", root=tmp_path),
            )
        )  # fmt: skip
    assert "delete" not in str(refusal.value)
    assert target.read_bytes() == before
