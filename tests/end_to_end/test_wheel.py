"""The wheel, installed into a new environment outside the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, script_environment

pytestmark = pytest.mark.slow

DATA = ["data=mini", "data.image_size=[48,48]"]
GENERATOR = [
    "data.generator.images={train:120,val:8,test:2}", "data.generator.width=48",
    "data.generator.height=48", "data.generator.rays=1", "workers=2",
]  # fmt: skip
TRAIN = [
    "experiment=demo", *DATA, "model.encoder.embedding_dim=8", "model.encoder.hidden_dim=12",
    "model.channels=8", "model.num_blocks=2", "trainer.max_steps=4", "trainer.batch_size=16",
    "run=film",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since setuptools writes to the source tree."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("src/filmvqa", "configs", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = folder.glob("filmvqa-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel, and this environment's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps",
         str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    # Only the path is added: links to the checkout in that folder are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_has_every_module_config_and_script(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {"filmvqa/py.typed"}
    for folder, patterns in {
        "src/filmvqa": [
            "*.py",
            "*.css",
            "*.html",
            "*.js",
            "*.svg",
            "*.json",
            "*.safetensors",
            "*.md",
        ],
        "configs": ["*.yaml"],
        "scripts": ["*.py"],
    }.items():
        for path in (p for pattern in patterns for p in (REPOSITORY / folder).rglob(pattern)):
            inner = path.relative_to(REPOSITORY / folder)
            prefix = "filmvqa" if folder == "src/filmvqa" else f"filmvqa/{folder}"
            expected.add(f"{prefix}/{inner}")
    assert packed == expected


def test_from_generation_to_an_answer_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [installed / program, *arguments], cwd=tmp_path, capture_output=True, text=True,
            check=False, env=script_environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = run("python", "-c", "import filmvqa; print(filmvqa.__file__)").strip()
    assert Path(where).is_relative_to(installed.parent)
    run("filmvqa", "generate_clevr", *DATA, *GENERATOR)
    run("filmvqa", "preprocess-questions", *DATA)
    run("filmvqa", "extract_features", *DATA)
    run("filmvqa", "train", *TRAIN)
    best = "outputs/demo/film/best.pt"
    assert "overall" in run("filmvqa", "evaluate", f"checkpoint={best}", "split=val")
    report = json.loads((tmp_path / "outputs/demo/film/evaluation/val.json").read_text())
    question = json.loads((tmp_path / "data/mini/questions/CLEVR_val_questions.json").read_text())
    first = question["questions"][0]
    picture = f"data/mini/images/val/{first['image_filename']}"
    code = (
        f"import filmvqa; vqa = filmvqa.load({best!r})\n"
        f"print(vqa.ask({picture!r}, {first['question']!r}).text)"
    )
    assert run("python", "-c", code).strip()
    assert report["overall"]["questions"] == len(question["questions"])


def test_one_program_lists_every_script(installed: Path, tmp_path: Path) -> None:
    assert {path.name for path in installed.glob("filmvqa*")} == {"filmvqa"}
    listed = subprocess.run(
        [installed / "filmvqa", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    verbs = {line.split()[0] for line in listed.splitlines()[2:]}
    assert verbs == {path.stem for path in (REPOSITORY / "scripts").glob("[a-z]*.py")}
