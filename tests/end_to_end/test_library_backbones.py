"""Backbones of other libraries, from features to an answer about a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.workplace import DATA, SHORT, fail, succeed

pytestmark = pytest.mark.slow

PICTURE, QUESTION = "data/tiny/images/val/CLEVR_val_000000.png", "What color is the cube?"


@pytest.mark.parametrize(
    ("name", "weights", "shape"),
    [
        ("timm/test_vit", ["weights=random"], "64 × 3 × 3"),
        ("efficientnet_lite0", [], "112 × 3 × 3"),
    ],
)
def test_from_features_to_an_answer(
    name: str, weights: list[str], shape: str, workplace: Path
) -> None:
    data = [*DATA, f"data.backbone.name={name}", "data.features=data/tiny/library"]
    out = succeed("extract_features.py", *data, *weights, cwd=workplace)
    assert f"val_features_{name.replace('/', '_')}.h5: 12 × {shape}, written" in out
    assert "already complete" in succeed("extract_features.py", *data, *weights, cwd=workplace)
    run = name.rpartition("/")[2]
    succeed("train.py", "experiment=demo", *data, *SHORT, f"run={run}", cwd=workplace)
    ask = [f"checkpoint=outputs/demo/{run}", f"image={PICTURE}", f"question={QUESTION}"]
    assert "%" in succeed("ask.py", *ask, cwd=workplace)


def test_weights_that_are_no_file(workplace: Path) -> None:
    message = fail("extract_features.py", *DATA, "weights=randm", cwd=workplace)
    assert message.startswith("error: randm: no such file")
