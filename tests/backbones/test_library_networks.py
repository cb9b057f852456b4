"""timm's and torchvision's networks as backbones."""

from __future__ import annotations

import copy
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from filmvqa.backbones.backbone import fold_batch_norms
from filmvqa.backbones.build import backbone_from_spec, build_backbone
from filmvqa.backbones.clevr_cnn import ClevrCNN
from filmvqa.backbones.library_networks import choose_stage
from filmvqa.system.errors import UserError
from tests.backbones.test_extraction import draw, prepare

IMAGES = torch.randint(
    0, 256, (2, 3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def with_odd_norms(network: nn.Module) -> nn.Module:
    """Give the batch norms of a network random statistics and weights."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def normalised(network_cfg, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network_cfg.mean, network_cfg.std))
    return (images / 255 - mean) / std


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_maps_of_timm_are_features_onlys_at_every_stage(name: str, tmp_path: Path) -> None:
    """With weights from a file, also when prepared for inference."""
    path = tmp_path / "w.pth"
    torch.save(with_odd_norms(timm.create_model(name)).state_dict(), path)
    expected = timm.create_model(
        name, features_only=True, pretrained=True,
        pretrained_cfg_overlay={"state_dict": torch.load(path)},
    ).eval()  # fmt: skip
    with torch.inference_mode():
        maps = expected(normalised(timm.get_pretrained_cfg(name), IMAGES))
        for stage, wanted in enumerate(maps, 1):
            backbone = build_backbone(f"timm/{name}", stage, path, image_size=(96, 64))
            assert torch.allclose(backbone(IMAGES), wanted, rtol=1e-4, atol=1e-4)
            prepared = backbone.prepared(torch.device("cpu"), bfloat16=False)
            assert torch.allclose(prepared(IMAGES), wanted, rtol=1e-3, atol=1e-3)
            assert backbone.spec()["weights"] == "w.pth"
    with pytest.raises(UserError, match=rf"backbone.stage={stage + 1}: timm/{name} has maps 1 to"):
        build_backbone(f"timm/{name}", stage + 1, path)


def test_patch_tokens_are_a_map_of_any_image_size() -> None:
    backbone = build_backbone("timm/test_vit", None, "random", image_size=(96, 64))
    maps = backbone(IMAGES)
    assert maps.shape == (2, 64, 6, 4)
    tokens = backbone.network.network.model.forward_intermediates(
        (IMAGES - backbone.mean) / backbone.std, intermediates_only=True, output_fmt="NLC"
    )[-1]  # (N, 24, 64) by row
    assert torch.allclose(maps.flatten(2).transpose(1, 2), tokens, atol=1e-4)
    with pytest.raises(UserError, match=r"^data.image_size=\[90,60\]: timm/test_vit takes no"):
        build_backbone("timm/test_vit", None, "random", image_size=(90, 60))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", ["features.0", "features.1", "features.3", "features.8", "features.12"]),
    ],
)  # fmt: skip
def test_maps_of_torchvision_are_the_last_of_each_size(
    name: str, layers: list[str], tmp_path: Path
) -> None:
    network = with_odd_norms(models.get_model(name, weights=None))
    torch.save(network.state_dict(), path := tmp_path / "w.pth")
    outputs = {}
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, out, layer=layer: outputs.update({layer: out.clone()})
        )
    with torch.inference_mode():
        for stage, layer in enumerate(layers, 1):
            backbone = build_backbone(f"torchvision/{name}", stage, path, image_size=(96, 64))
            network((IMAGES - backbone.mean) / backbone.std)
            assert torch.allclose(backbone(IMAGES), outputs[layer], atol=1e-4)
            prepared = backbone.prepared(torch.device("cpu"), bfloat16=False)
            assert torch.allclose(prepared(IMAGES), outputs[layer], atol=1e-3)
            assert backbone.spec()["mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert build_backbone(f"torchvision/{name}", None, path).stage == 4

    maps = build_backbone("torchvision/swin_t", 1, "random", image_size=(96, 64))(IMAGES)
    assert maps.shape == (2, 96, 24, 16)  # channels first, though the network has them last


def test_weights_by_torchvisions_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    urls = []

    def offline(url: str, **options: object) -> None:
        urls.append(url)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    for name in ("", ".IMAGENET1K_V1"):
        with pytest.raises(UserError, match="could not be downloaded"):
            build_backbone(f"torchvision/resnet50{name}")
    weights = models.ResNet50_Weights
    assert urls == [weights.IMAGENET1K_V2.url, weights.IMAGENET1K_V1.url]
    with pytest.raises(UserError, match="torchvision has the weights IMAGENET1K_V1, IMAGENET1K_V2"):
        build_backbone("torchvision/resnet50.V3")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("timm/resnet_18", r"timm has no such network; did you mean timm/resnet"),
        ("timm/resnet18.nosuch", r"Invalid pretrained tag .* timm has resnet18\.a1_in1k"),
        ("torchvision/resnet19", "torchvision has no such network; use one of torchvision/resnet1"),
        ("torchvision/vit_b_16", "such as timm/vit_base_patch16_224"),
        ("keras/resnet18", "unknown backbone 'keras/resnet18'; use one of .*timm/<model>"),
    ],
)
def test_unknown_networks_are_named(name: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        build_backbone(name)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/resnet18", "resnet18"])
def test_weights_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    path, plain = tmp_path / "w.safetensors", name.rpartition("/")[2]
    network = timm.create_model(plain) if "timm" in name else models.get_model(plain, weights=None)
    state = network.state_dict()
    first = "conv1.weight" if "conv1.weight" in state else "conv1.0.weight"
    broken = {**state, "stranger": torch.zeros(2), first: torch.zeros(5, 3, 1, 1)}
    del broken["layer1.0.bn1.bias"]
    save_file(broken, path)
    with pytest.raises(UserError) as error:
        build_backbone(name, weights=path)
    message = str(error.value)
    assert message.startswith(f"{path}: not weights of {name}: ")
    for part in ("lacks layer1.0.bn1.bias", "has the unknown stranger", "is (5, 3, 1, 1), not ("):
        assert part in message
    # Any classifier fits, and the weights may be in a training program's checkpoint.
    trained = {f"module.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    trained |= {"module.fc.weight": torch.zeros(7, 9)}
    torch.save({"state_dict": trained, "epoch": 3}, tmp_path / "trained.pth")
    backbone = build_backbone(name, weights=tmp_path / "trained.pth")
    assert backbone.spec()["weights"] == "trained.pth"


@pytest.mark.parametrize(
    "name", ["timm/test_efficientnet", "torchvision/resnet18", "resnet18", "clevr_cnn"]
)
def test_random_weights_are_reproducible_and_leave_the_generator_alone(name: str) -> None:
    torch.manual_seed(3)
    backbone = build_backbone(name, weights="random", image_size=(96, 64))
    number = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(number, torch.rand(1))
    spec = {**backbone.spec(), "image_size": [96, 64]}
    assert spec["weights"] == "random"
    again = backbone_from_spec(spec)  # a checkpoint's record suffices
    with torch.inference_mode():
        assert torch.equal(again.eval()(IMAGES), backbone.eval()(IMAGES))
    with pytest.raises(UserError, match="has other content"):
        backbone_from_spec({**spec, "weights_sha256": "0" * 64})


def test_the_record_in_a_feature_file_rebuilds_the_backbone(tmp_path: Path) -> None:
    folder = draw(tmp_path / "images", 3)
    backbone = build_backbone("timm/test_vit", None, "random", image_size=(48, 48))
    done = prepare(folder, tmp_path / "f.h5", backbone, 48).run()
    assert done.shape == (3, 64, 3, 3)
    with h5py.File(done.path) as file:
        spec = {k: np.array(v).tolist() for k, v in file.attrs.items()}
        features = file["features"][:]
    again = prepare(folder, tmp_path / "g.h5", backbone_from_spec(spec), 48).run()
    with h5py.File(again.path) as file:
        assert np.array_equal(features, file["features"][:])


@pytest.mark.parametrize("name", ["clevr_cnn", "resnet50"])
def test_folded_batch_norms_change_nothing(name: str) -> None:
    network = ClevrCNN() if name == "clevr_cnn" else models.get_model(name, weights=None)
    with_odd_norms(network).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = network(images)
        fold_batch_norms(network)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        assert torch.allclose(network(images), expected, rtol=1e-9, atol=1e-9)


def test_batch_norms_that_do_not_follow_their_convolution_are_not_folded(monkeypatch) -> None:
    class Parallel(nn.Module):
        """A convolution and a batch norm that are registered in sequence but run in parallel."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.feature_info = [{"reduction": 1}]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.norm(x)

    network = with_odd_norms(Parallel())
    monkeypatch.setattr("filmvqa.backbones.timm_networks.cut", lambda network, stage: network)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network)
    backbone = build_backbone("timm/resnet18", weights="random")
    expected = backbone(IMAGES)
    prepared = backbone.prepared(torch.device("cpu"), bfloat16=False)
    assert torch.allclose(prepared(IMAGES), expected, atol=1e-5)
    folded = copy.deepcopy(backbone)
    fold_batch_norms(folded.network)
    assert not torch.allclose(folded(IMAGES), expected, atol=0.1)


@pytest.mark.parametrize(
    ("strides", "stage"),
    [([2, 4, 8, 16, 32], 4), ([4, 8, 16, 32], 3), ([16] * 12, 12), ([32] * 8, 8), ([14] * 2, 2)],
)
def test_the_default_stage_has_the_papers_stride(strides: list[int], stage: int) -> None:
    assert choose_stage("x", None, strides) == stage
