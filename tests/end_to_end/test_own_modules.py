"""CONTRIBUTING.md's conditioning, model and backbone outside of the package, from features to an
answer."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.end_to_end.workplace import DATA, SHORT, fail, succeed

pytestmark = pytest.mark.slow

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
PICTURE, QUESTION = "data/tiny/images/val/CLEVR_val_000000.png", "What color is the cube?"


@pytest.fixture(scope="module")
def place(workplace: Path) -> Path:
    """The workplace, with the modules of CONTRIBUTING.md."""
    for name, text in re.findall(r"```\w+\n# ([\w/]+\.\w+)\n(.*?)```", TEXT, re.DOTALL):
        (workplace / name).parent.mkdir(exist_ok=True)
        (workplace / name).write_text(text)
    return workplace


def commands(script: str) -> list[list[str]]:
    """The arguments of each command of CONTRIBUTING.md that runs a script."""
    blocks = " ".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line) for line in blocks.splitlines() if f"scripts/{script}" in line]
    return [line[2:] for line in lines]  # after python and the script


def test_a_conditioning(place: Path) -> None:
    [train, _] = commands("train.py")
    [evaluate] = commands("evaluate.py")
    small = ["model.encoder.hidden_dim=12", "model.channels=8", "model.num_blocks=2"]
    out = succeed("train.py", *train, *DATA, *SHORT, *small, cwd=place)
    assert "no gradient" not in out
    assert "overall" in succeed("evaluate.py", *evaluate, cwd=place)
    ask = ["checkpoint=outputs/demo/gated", f"image={PICTURE}", f"question={QUESTION}"]
    assert "%" in succeed("ask.py", *ask, "imports=[my_layers]", cwd=place)
    message = fail("ask.py", *ask, cwd=place)
    assert "imports=[my_layers]" in message
    assert "gated_film" in message


def test_a_model(place: Path) -> None:
    [_, train] = commands("train.py")
    succeed("train.py", *train, *DATA, *SHORT, cwd=place)
    checkpoint = "checkpoint=outputs/demo/bag"
    assert "overall" in succeed("evaluate.py", checkpoint, "imports=[my_models]", cwd=place)
    message = fail("evaluate.py", checkpoint, cwd=place)
    assert "imports=[my_models]" in message
    assert "bag_of_places" in message


def test_a_backbone(place: Path) -> None:
    [extract] = commands("extract_features.py")
    features = "data.features=data/tiny/patches"
    succeed("extract_features.py", *extract, *DATA, features, cwd=place)
    run = ["experiment=demo", *DATA, *SHORT, "data.backbone.name=patches", features,
           "run=patches", "model=cnn_lstm", "imports=[my_backbones]"]  # fmt: skip
    succeed("train.py", *run, cwd=place)
    ask = ["checkpoint=outputs/demo/patches", f"image={PICTURE}", f"question={QUESTION}"]
    assert "%" in succeed("ask.py", *ask, "imports=[my_backbones]", cwd=place)
    assert "imports=" in fail("ask.py", *ask, cwd=place)
