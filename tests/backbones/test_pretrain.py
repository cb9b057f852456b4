from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from filmvqa.backbones import pretrain as pretraining
from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.labelled_images import IGNORED
from filmvqa.backbones.pretrain import augmented, pretrain
from filmvqa.backbones.settings import PretrainSettings
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.cell_labels import draw_labelled_images, pretraining_examples
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES
from filmvqa.worlds.clevr.scene_rules import SceneRules

RULES = SceneRules(min_objects=1, max_objects=2)


def test_labels_name_what_a_cell_shows() -> None:
    part = draw_labelled_images(12, 48, (0,), RULES)
    assert part.images.shape == (12, 3, 48, 48)
    owned = part.attributes[:, 0] != IGNORED
    assert 0.02 < owned.mean() < 0.5
    assert set(part.places.max((1, 2)).tolist()) <= {1, 2}
    assert owned[part.places > 0].all()
    color = list(ATTRIBUTES["color"])
    for n, i, j in zip(*np.nonzero(owned), strict=True):
        cell = part.images[n, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].astype(float)
        r, g, b = cell.reshape(3, -1).T[cell.std(0).argmax()]  # the most saturated pixel
        name = color[part.attributes[n, list(ATTRIBUTES).index("color"), i, j]]
        assert name != "red" or r > max(g, b)
        assert name != "blue" or b > r
    assert np.abs(part.offsets[:, :, part.places.any(0)]).max() < 4


def test_objects_with_a_hidden_centre_have_places_too() -> None:
    rules = SceneRules(min_objects=8, max_objects=10, min_pixels=20)
    part = draw_labelled_images(12, 96, (3,), rules)
    objects = [set(of[of > 0].tolist()) for of in part.places]
    assert all(of == set(range(1, len(of) + 1)) and len(of) >= 8 for of in objects)
    # All places of an object have labels of this object, even between two objects.
    offsets = part.offsets.astype(float).transpose(0, 2, 3, 1)
    rows, columns = np.mgrid[:12, :12] + 0.5
    for n, numbers in enumerate(objects):
        for number in numbers:
            cells = part.places[n] == number
            x, y = (columns + offsets[n, ..., 0])[cells], (rows + offsets[n, ..., 1])[cells]
            assert max(np.ptp(x), np.ptp(y)) < 0.01


def test_a_short_training_gives_weights_that_load(tmp_path: Path) -> None:
    settings = PretrainSettings(
        output=tmp_path / "w.safetensors", images=256, sizes=(48,), epochs=5, batch_size=32,
        workers=1, device="cpu",
    )  # fmt: skip
    scores = pretrain(settings, pretraining_examples(RULES))
    assert set(scores) >= {*ATTRIBUTES, "number", "offset_error"}
    assert scores["size"] > 0.6
    backbone = build_backbone("clevr_cnn", weights=tmp_path / "w.safetensors")
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape == (1, 96, 6, 6)


def test_training_starts_from_init(tmp_path: Path) -> None:
    """Including its heads, if it has any; a learning rate of 1e-9 does not change the weights."""
    shipped = Path(pretraining.__file__).parent / "weights" / "clevr_cnn.safetensors"

    def train(name: str, init: Path) -> dict[str, torch.Tensor]:
        settings = PretrainSettings(
            output=str(tmp_path / name), init=str(init), images=32, sizes=(48,), epochs=1,
            batch_size=32, lr=1e-9, workers=1, device="cpu",
        )  # fmt: skip
        pretrain(settings, pretraining_examples(RULES))
        return safetensors.torch.load_file(tmp_path / name)

    first = train("first", shipped)
    second = train("second", tmp_path / "first")
    old = safetensors.torch.load_file(shipped)
    assert first.keys() - old.keys() == {"heads.linear.weight", "heads.linear.bias"}
    for name in first:
        if "running" not in name and "tracked" not in name:
            assert second[name].float().allclose(first[name].float(), atol=1e-3)
            assert name not in old or first[name].float().allclose(old[name].float(), atol=1e-3)


def test_a_stopped_training_resumes_and_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resumes after the last complete epoch. A state with other settings and a damaged state
    are refused."""

    def run(name: str, **changes: float) -> bytes:
        options = {"images": 64, "epochs": 3, "batch_size": 32, "workers": 1, **changes}
        settings = PretrainSettings(output=tmp_path / name, sizes=(48,), device="cpu", **options)
        pretrain(settings, pretraining_examples(RULES))
        return (tmp_path / name).read_bytes()

    whole = run("whole")
    train_epoch = pretraining._Training.train_epoch

    def stop_in_the_third(training: Any, *arguments: Any) -> None:
        if training.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(training, *arguments)

    monkeypatch.setattr(pretraining._Training, "train_epoch", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    monkeypatch.undo()
    state = tmp_path / "stopped.training"
    with pytest.raises(UserError, match="other settings; delete it"):
        run("stopped", lr=1e-3)
    assert run("stopped") == whole
    assert not state.exists()
    state.write_bytes(b"no state")
    with pytest.raises(UserError, match="cannot be read"):
        run("stopped")


def test_augmentation_differs_between_images() -> None:
    images = torch.full((4, 3, 16, 16), 100, dtype=torch.uint8)
    images[..., 8:] = 200
    x = augmented(images, torch.Generator().manual_seed(0))
    assert x.min() >= 0 and x.max() <= 255
    assert len({float(image.mean()) for image in x}) == 4
    assert (x[..., 8:].mean((1, 2, 3)) > x[..., :8].mean((1, 2, 3)) + 50).all()
    assert augmented(images, torch.Generator().manual_seed(0)).equal(x)


def test_the_shipped_weights_know_colours() -> None:
    """A linear classifier reads the colour of rubber and metal from the maps."""
    part = draw_labelled_images(60, 96, (7,), SceneRules(max_objects=4))
    with torch.inference_mode():
        maps = build_backbone("clevr_cnn")(torch.from_numpy(part.images)).numpy()
    k = list(ATTRIBUTES).index("color")
    cells = part.attributes[:, k] != IGNORED
    x, y = maps.transpose(0, 2, 3, 1)[cells], part.attributes[:, k][cells]
    half = len(x) // 2
    design = np.c_[x[:half], np.ones(half)]
    weights = np.linalg.lstsq(design, np.eye(8)[y[:half]], rcond=None)[0]
    predicted = (np.c_[x[half:], np.ones(len(x) - half)] @ weights).argmax(1)
    assert (predicted == y[half:]).mean() > 0.85
