"""CONTRIBUTING.md's examples outside of the package, from features to an answer: a conditioning, a model,
a backbone, a task, a world and a use."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, script_environment
from tests.end_to_end.workplace import DATA, SHORT, fail, succeed

pytestmark = pytest.mark.slow

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
PICTURE, QUESTION = "data/tiny/images/val/CLEVR_val_000000.png", "What color is the cube?"
SMALL = ["model.encoder.hidden_dim=12", "model.channels=8", "model.num_blocks=2"]


@pytest.fixture(scope="module")
def place(workplace: Path) -> Path:
    """The workplace, with the files of CONTRIBUTING.md."""
    files = re.findall(r"```\w+\n# ([\w/]+\.\w+)\n(.*?)```", TEXT, re.DOTALL)
    files += re.findall(r"`([\w/]+\.json)`:\n\n```json\n(.*?)```", TEXT, re.DOTALL)
    for name, text in files:
        (workplace / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace / name).write_text(text)
    return workplace


def commands(file: str, *marks: str) -> list[list[str]]:
    """The arguments of each command of CONTRIBUTING.md that runs a file, and has all marks."""
    blocks = " ".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line) for line in blocks.splitlines() if f"python {file}" in line]
    return [line[2:] for line in lines if {*marks} <= {*line}]  # after python and the file


def run_own(*arguments: str, cwd: Path) -> str:
    """What a file that CONTRIBUTING.md has prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env=script_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_conditioning(place: Path) -> None:
    [train] = commands("scripts/train.py", "imports=[my_layers]")
    [evaluate] = commands("scripts/evaluate.py", "imports=[my_layers]")
    out = succeed("train.py", *train, *DATA, *SHORT, *SMALL, cwd=place)
    assert "no gradient" not in out
    assert "overall" in succeed("evaluate.py", *evaluate, cwd=place)
    ask = ["checkpoint=outputs/demo/gated", f"image={PICTURE}", f"question={QUESTION}"]
    assert "%" in succeed("ask.py", *ask, "imports=[my_layers]", cwd=place)
    message = fail("ask.py", *ask, cwd=place)
    assert "imports=[my_layers]" in message
    assert "gated_film" in message


def test_a_model(place: Path) -> None:
    [train] = commands("scripts/train.py", "imports=[my_models]")
    succeed("train.py", *train, *DATA, *SHORT, cwd=place)
    checkpoint = "checkpoint=outputs/demo/bag"
    assert "overall" in succeed("evaluate.py", checkpoint, "imports=[my_models]", cwd=place)
    message = fail("evaluate.py", checkpoint, cwd=place)
    assert "imports=[my_models]" in message
    assert "bag_of_places" in message


def test_a_backbone(place: Path) -> None:
    [extract] = commands("scripts/extract_features.py", "imports=[my_backbones]")
    features = "data.features=data/tiny/patches"
    succeed("extract_features.py", *extract, *DATA, features, cwd=place)
    run = ["experiment=demo", *DATA, *SHORT, "data.backbone.name=patches", features,
           "run=patches", "model=cnn_lstm", "imports=[my_backbones]"]  # fmt: skip
    succeed("train.py", *run, cwd=place)
    ask = ["checkpoint=outputs/demo/patches", f"image={PICTURE}", f"question={QUESTION}"]
    assert "%" in succeed("ask.py", *ask, "imports=[my_backbones]", cwd=place)
    assert "imports=" in fail("ask.py", *ask, cwd=place)


def test_a_task(place: Path) -> None:
    [train] = commands("scripts/train.py", "imports=[my_tasks]")
    [evaluate] = commands("scripts/evaluate.py", "imports=[my_tasks]")
    succeed("train.py", *train, *DATA, *SHORT, *SMALL, cwd=place)
    out = succeed("evaluate.py", *evaluate, cwd=place)
    assert "overall" in out
    assert "query attribute" in out
    assert "imports=[my_tasks]" in fail(
        "evaluate.py", "checkpoint=outputs/demo/smoothed", cwd=place
    )


def test_a_world(place: Path) -> None:
    run_own("shelf.py", cwd=place)
    for questions in commands("scripts/generate_questions.py"):
        succeed("generate_questions.py", *questions, "workers=1", cwd=place)
    asked = json.loads((place / "data/shelf/questions/CLEVR_val_questions.json").read_text())
    assert 50 < len(asked["questions"]) <= 100
    assert {question["answer"] for question in asked["questions"]} == set("01234")
    for script in ("preprocess_questions.py", "extract_features.py", "train.py"):
        [arguments] = commands(f"scripts/{script}", "imports=[shelf]")
        succeed(script, *arguments, *(SMALL + SHORT if script == "train.py" else []), cwd=place)
    out = succeed("evaluate.py", "checkpoint=outputs/demo/shelf", "imports=[shelf]", cwd=place)
    assert "count" in out


def test_a_use(place: Path) -> None:
    [arguments] = commands("between.py")
    arguments = [a.replace("picture.png", PICTURE) for a in arguments]
    rows = [line.split() for line in run_own("between.py", *arguments, cwd=place).splitlines()]
    assert [share for share, _ in rows] == ["0%", "25%", "50%", "75%", "100%"]
