"""easy-VQA in one command, with few pictures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path

import pytest

from scripts import easy_vqa
from tests.conftest import REPOSITORY, script_environment

FEW = """
import sys
from scripts import easy_vqa
easy_vqa.PICTURES = {"train": ("train", range(40)), "val": ("train", range(40, 45)), "test": ("test", range(10))}
sys.argv[1:] = ["pixels"]
easy_vqa.main()
"""


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = {**script_environment(), "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip


def test_every_question_has_a_type_and_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = Path(str(distribution("easy-vqa").locate_file("easy_vqa/data")))
    easy_vqa.write_table(package)
    with open(easy_vqa.TABLE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["split"] for row in rows) == {"train": 36_630, "val": 1_945, "test": 9_673}
    is_yes_or_no = {"yes": True, "no": True}
    for row in rows:
        assert is_yes_or_no.get(row["answer"], False) == row["type"].startswith("exist")
        assert (row["type"] == "shape") == (row["answer"] in ("circle", "rectangle", "triangle"))
    assert len(Counter(row["type"] for row in rows)) == 4


@pytest.mark.slow
def test_easy_vqa_from_the_package_to_an_answer(tmp_path: Path) -> None:
    done = run(tmp_path, FEW)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Accuracy on 98 questions about the test pictures" in done.stdout
    table = done.stdout[done.stdout.index("Accuracy on") :].splitlines()
    assert table[2].split() == ["pixels", "question_only", "questions"]
    types = [row.split("  ")[0] for row in table[3:8]]
    assert types == ["overall", "color", "exist", "exist, negated", "shape"]
    report = json.loads((tmp_path / "outputs/easy_vqa/report.json").read_text())
    assert set(report) == {"pixels", "question_only", "seconds"}
    assert "ask.py checkpoint=outputs/easy_vqa/pixels/best.pt" in done.stdout


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path) -> None:
    hidden = "from scripts import easy_vqa; easy_vqa.PACKAGE = 'easy-vqa-that-is-not-there'; easy_vqa.main()"
    done = run(tmp_path, hidden)
    assert done.returncode == 1
    assert done.stderr == "error: easy-vqa: is not installed; run pip install 'filmvqa[easy-vqa]'\n"
