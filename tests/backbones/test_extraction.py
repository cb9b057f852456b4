from __future__ import annotations

import errno
import hashlib
import http.client
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from filmvqa.backbones.backbone import BACKBONES, Backbone, BackboneOptions, register_backbone
from filmvqa.backbones.build import backbone_from_spec, build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.settings import ExtractionSettings
from filmvqa.cli.messages import explain
from filmvqa.features.images import load_image
from filmvqa.features.store import open_feature_store
from filmvqa.system.errors import UserError


def draw(folder: Path, count: int, size: tuple[int, int] = (32, 24), mode: str = "RGBA") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    channels = {"RGBA": 4, "RGB": 3}[mode]
    for i in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], channels), np.uint8)
        pixels[..., 3:] = 255  # opaque, as CLEVR's are
        Image.fromarray(pixels, mode).save(folder / f"CLEVR_val_{i:06d}.png")
    return folder


def prepare(
    folder: Path,
    target: Path,
    backbone: Backbone | str = "pixels",
    size: int = 16,
    missing_images: str = "refuse",
    **options: Any,
) -> Extraction:
    backbone = build_backbone(backbone) if isinstance(backbone, str) else backbone
    settings = ExtractionSettings(**options)
    return Extraction(
        folder, target, "val", backbone, (size, size), settings, missing_images=missing_images
    )


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18-random.pth"
    torch.save(network.state_dict(), path)
    return path, network


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resnet_features_equal_torchvisions_own_pipeline(
    tmp_path: Path, resnet18, precision: str
) -> None:
    from torchvision.transforms import functional as tv

    path, network = resnet18
    folder = draw(tmp_path / "images", 5)
    backbone = build_backbone("resnet18", 3, path)
    options = {"batch_size": 2, "precision": precision}
    done = prepare(folder, tmp_path / "f.h5", backbone, 64, **options).run()
    assert done.shape == (5, 256, 4, 4)
    with h5py.File(done.path) as file:
        features = file["features"][:]
        assert file["features"].chunks == (1, 256, 4, 4)
        assert file["features"].dtype == np.float16
        attributes = dict(file.attrs)
    assert attributes["weights"] == "resnet18-random.pth"
    assert len(attributes["weights_sha256"]) == 64
    assert [attributes[k] for k in ("backbone", "stage", "num_done")] == ["resnet18", 3, 5]
    assert attributes["image_size"].tolist() == [64, 64]
    for i in range(5):
        image = Image.open(folder / f"CLEVR_val_{i:06d}.png").convert("RGB")
        x = tv.to_tensor(image.resize((64, 64), Image.Resampling.BICUBIC))[None]
        x = tv.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        with torch.inference_mode():
            x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
            expected = network.layer3(network.layer2(network.layer1(x)))[0].numpy()
        error = np.linalg.norm(features[i] - expected) / np.linalg.norm(expected)
        assert error < (1e-3 if precision == "float32" else 2e-2)


@pytest.mark.parametrize(
    ("name", "stage", "size", "shape"),
    [
        ("resnet18", 1, 64, (64, 16, 16)),
        ("resnet18", 4, 64, (512, 2, 2)),
        ("resnet101", None, 224, (1024, 14, 14)),  # the paper's features
    ],
)
def test_stages_have_their_shapes(
    name: str, stage: int | None, size: int, shape: tuple[int, ...]
) -> None:
    images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    with torch.inference_mode():
        assert build_backbone(name, stage, "random")(images).shape == (1, *shape)


def test_pixels_are_the_resized_images(tmp_path: Path) -> None:
    folder = draw(tmp_path / "i", 3, (30, 20), "RGB")
    done = Extraction(folder, tmp_path / "f.h5", "val", build_backbone("pixels"), (20, 30)).run()
    with h5py.File(done.path) as file:
        features = file["features"][:]
    assert features.dtype == np.uint8
    for i in range(3):
        image = np.asarray(Image.open(folder / f"CLEVR_val_{i:06d}.png"))
        assert np.array_equal(features[i].transpose(1, 2, 0), image)


def test_large_maps_are_warned_of_with_a_better_image_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "images", 1)
    for name, size, warning in (
        ("clevr_cnn", 224, "28×28 of it, 4.0 times .*data.image_size=.112,112. gives 14×14"),
        ("clevr_cnn", 160, "20×20 of it, 2.0 times .*data.image_size=.112,112. gives 14×14"),
        ("clevr_places", 144, ""),  # data=two_cores
        ("clevr_cnn", 112, ""),
        ("pixels", 64, ""),
    ):
        prepare(folder, tmp_path / f"{name}_{size}.h5", name, size).warn_of_large_maps()
        line = rf"warning: data.image_size=.{size},{size}.: {name} .*{warning}\n"
        assert re.fullmatch(line if warning else "", capsys.readouterr().err)


def test_images_of_the_release_load(shared) -> None:
    paths = sorted((shared / "clevr_images").glob("*.png"))
    assert len(paths) == 3
    for path in paths:
        image = load_image(path, (224, 224))
        assert image.shape == (3, 224, 224)
        expected = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        assert np.array_equal(image.transpose(1, 2, 0), np.asarray(expected))


class Stops(Backbone):
    """Interrupts the third batch."""

    calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 4:  # the first call determines the shape
            raise KeyboardInterrupt
        return super().forward(images)


def test_an_interrupted_extraction_is_resumed(tmp_path: Path) -> None:
    folder, target = draw(tmp_path / "i", 7, (16, 16)), tmp_path / "f.h5"
    whole = prepare(folder, tmp_path / "whole.h5", "clevr_cnn").run()
    stops = build_backbone("clevr_cnn")
    stops.__class__ = Stops
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, target, stops, batch_size=2).run()
    assert not target.exists()
    with h5py.File(tmp_path / "f.h5.partial") as file:
        assert file.attrs["num_done"] == 4
    backbone = build_backbone("clevr_cnn")
    done = prepare(folder, target, backbone, batch_size=2).run()
    assert not done.was_there
    with h5py.File(target) as a, h5py.File(whole.path) as b:
        assert np.allclose(a["features"][:], b["features"][:], atol=1e-2)
    assert prepare(folder, target, backbone).run().was_there
    with pytest.raises(UserError, match="image size"):
        prepare(folder, target, backbone, 32).run()


def test_auto_precision_is_that_of_an_existing_file(tmp_path: Path, monkeypatch) -> None:
    folder, target = draw(tmp_path / "i", 3, (16, 16)), tmp_path / "f.h5"
    backbone = build_backbone("clevr_cnn")
    prepare(folder, target, backbone, precision="bfloat16").run()
    monkeypatch.setattr("filmvqa.system.devices.has_fast_bfloat16", lambda _: False)
    assert prepare(folder, target, backbone).run().was_there
    with pytest.raises(UserError, match="another precision"):
        prepare(folder, target, backbone, precision="float32").run()


def test_damage_inside_a_png_is_named(tmp_path: Path) -> None:
    folder = draw(tmp_path / "i", 3)
    path = folder / "CLEVR_val_000001.png"
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"CLEVR_val_000001\.png: broken PNG"):
        prepare(folder, tmp_path / "f.h5").run()
    assert not (tmp_path / "f.h5").exists()


def test_shipped_weights_are_small_and_load() -> None:
    backbone = build_backbone("clevr_cnn")
    assert sum(p.numel() for p in backbone.network.parameters()) * 2 < 2 * 2**20
    with torch.inference_mode():
        assert backbone(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)).shape == (2, 96, 12, 12)


def test_missing_and_unfit_weights_are_explained(tmp_path: Path, monkeypatch, resnet18) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        UserError, match=r"resnet101-\w+\.pth: .*network.*give weights=<file>"
    ) as error:
        build_backbone("resnet101")
    for instead in ("data.backbone.name=clevr_cnn", "data=clevr_small", "weights=random"):
        assert instead in str(error.value)
    (tmp_path / "bad.pth").write_text("hello")
    for name, weights, message in (
        ("resnet101", tmp_path / "none.pth", "no such weights file"),
        ("resnet34", resnet18[0], "not weights of resnet34"),
        ("resnet18", tmp_path / "bad.pth", "cannot be read"),
        ("clevr_cnn", resnet18[0], "not weights of clevr_cnn"),
    ):
        with pytest.raises(UserError, match=message):
            build_backbone(name, weights=weights)


@pytest.mark.parametrize("what", ["no bytes", "a web page", "cut short", "other weights"])
def test_weights_in_torchs_cache_are_checked_by_their_hash(
    tmp_path: Path, monkeypatch, resnet18, what: str
) -> None:
    """A file with torchvision's name but another hash is refused."""
    content = resnet18[0].read_bytes()
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints/resnet18-f37072fd.pth"
    path.write_bytes({
        "no bytes": b"", "a web page": b"<!DOCTYPE html>", "cut short": content[:10**6],
        "other weights": content,
    }[what])  # fmt: skip
    for weights in (None, path):
        with pytest.raises(UserError, match=rf"^{path}: is not what its name says .*delete it"):
            build_backbone("resnet18", weights=weights)
    digest = hashlib.sha256(content).hexdigest()[:8]
    entry = models.get_model_weights("resnet18")["IMAGENET1K_V1"]
    monkeypatch.setattr(type(entry), "url", f"https://x.org/resnet18-{digest}.pth", raising=False)
    path.with_name(f"resnet18-{digest}.pth").write_bytes(content)
    assert build_backbone("resnet18").weights_sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (http.client.IncompleteRead(b"x"), "could not be downloaded .*give weights=<file>"),
        (TimeoutError("timed out"), "could not be downloaded"),
        (RuntimeError("invalid hash value"), "could not be downloaded"),
        (OSError(errno.ENOSPC, "No space left on device"), "resnet18-f37072fd.pth: no room on the"),
    ],
)
def test_failed_downloads_are_explained(tmp_path: Path, monkeypatch, error, match: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=match):
        build_backbone("resnet18")
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    with pytest.raises(PermissionError):  # an error of the cache, not of the network
        build_backbone("resnet18")


def test_image_numbers_may_start_anywhere_and_have_gaps(tmp_path: Path) -> None:
    folder = draw(tmp_path / "i", 6, (16, 16))
    whole = prepare(folder, tmp_path / "a.h5").run()
    part = prepare(folder, tmp_path / "b.h5", max_images=4).run()
    assert part.shape == (4, 3, 16, 16)
    for i in (0, 1, 2, 4, 5):
        (folder / f"CLEVR_val_{i:06d}.png").rename(folder / f"CLEVR_val_{25_000 + i:06d}.png")
    (folder / "CLEVR_val_000003.png").unlink()
    with pytest.raises(
        UserError, match=r"CLEVR_val_025003\.png: missing.*missing_images=leave_out"
    ):
        prepare(folder, tmp_path / "c.h5")
    shifted = prepare(folder, tmp_path / "c.h5", missing_images="leave_out").run()
    assert list(shifted.image_names) == [25_000, 25_001, 25_002, 25_004, 25_005]
    with open_feature_store(whole.path) as a, open_feature_store(shifted.path) as b:
        images = torch.tensor([1, 4])
        assert torch.equal(a.read(images), b.read(images + 25_000))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch) -> None:
    folder, root = draw(tmp_path / "i", 2, (16, 16)), tmp_path / "readonly"
    make_folder = Path.mkdir

    def fail(path: Path, *arguments, **options) -> None:
        if root in (path, *path.parents):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        make_folder(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", fail)
    extraction = prepare(folder, root / "h5/f.h5")
    with pytest.raises(OSError, match="Read-only file system") as caught:
        extraction.run()
    assert explain(caught.value).startswith(f"{root / 'h5'}: Read-only file system; choose a path")


@pytest.mark.parametrize("name", ["vgg16", "resnet7", "clevr"])
def test_unknown_backbones_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=name):
        build_backbone(name)
    with pytest.raises(UserError, match="stage=5"):
        build_backbone("resnet18", 5)


def test_other_modules_can_register_backbones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "halves", None)  # which removes the name afterwards

    @register_backbone("halves")
    def build(name: str, options: BackboneOptions) -> Backbone:
        return Backbone(name, nn.AvgPool2d(2), stage=options.stage, weights="halves")

    backbone = build_backbone("halves")
    done = prepare(draw(tmp_path / "i", 2), tmp_path / "f.h5", backbone, 8).run()
    assert done.shape == (2, 3, 4, 4)
    assert backbone_from_spec(backbone.spec()).name == "halves"


def test_another_standard_deviation_is_used_and_recorded(resnet18) -> None:
    """That of the original FiLM code, 0.224 for blue."""
    path, network = resnet18
    backbone = build_backbone("resnet18", 3, path, std=[0.229, 0.224, 0.224])
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406),
                                                          (0.229, 0.224, 0.224)))  # fmt: skip
    x = (image.float() / 255 - mean) / std
    with torch.inference_mode():
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            x = getattr(network, name)(x)
        assert torch.allclose(backbone(image), x, atol=1e-4)
    assert backbone.spec()["std"].tolist() == pytest.approx([0.229, 0.224, 0.224])
    spec = {**backbone.spec(), "weights_sha256": ""}  # an imported checkpoint accepts any weights
    assert torch.equal(backbone_from_spec(spec, path).std, backbone.std)
    for wrong in ([0.2, 0.2], [0.2, 0.2, 0.0], [0.2, "a", 0.2], 0.2, [0.2, 0.2, float("nan")]):
        with pytest.raises(UserError, match=r"^std=.*three positive numbers"):
            build_backbone("resnet18", 3, path, std=wrong)
    with pytest.raises(UserError, match="clevr_cnn has its own normalisation"):
        build_backbone("clevr_cnn", std=[0.2, 0.2, 0.2])
