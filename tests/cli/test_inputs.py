"""Missing input files are reported before slow imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, script_environment

_WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # its import fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "line",
    [
        "ask.py image=nothing",
        "ask.py checkpoint=nothing",
        "ask.py weights=nothing",
        "evaluate.py checkpoint=nothing",
        "evaluate.py checkpoint=clevr_world h5=nothing",
        "evaluate.py checkpoint=clevr_world features=nothing",
        "inspect_film.py checkpoint=nothing",
        "export.py checkpoint=nothing output=x.safetensors",
        "import_film.py source=nothing output=x.pt",
        "import_questions.py source=nothing.csv",
        "import_questions.py source=. pictures=nothing",
        "page.py beside=nothing",
        "page.py h5=nothing",
        "train.py experiment=demo data.root=nothing",
        "train.py -m experiment=demo data.root=nothing seed=0,1",
        "search.py experiment=demo data.root=nothing",
        "preprocess_questions.py data.root=nothing",
        "preprocess_questions.py vocab=nothing",
        "extract_features.py data.root=nothing",
        "extract_features.py weights=nothing splits=[val]",
        "score_answers.py answers=nothing questions=x.json",
        "score_answers.py answers=. questions=nothing",
        "generate_questions.py scenes=nothing output=x.json",
        "sweep_report.py dir=nothing",
        "correct.py checkpoint=clevr_world dir=nothing",
        "make_hints.py checkpoint=nothing",
        "draw_sheet.py data.root=nothing output=x.png",
        "laboratory.py claims=[nothing.yaml]",
        "simulate_scale.py measurement=nothing",
    ],
)
def test_a_missing_input_is_reported_without_torch(line: str, tmp_path: Path) -> None:
    script, *arguments = line.split()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(REPOSITORY / "scripts" / script), *arguments],
        cwd=tmp_path, env=script_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "nothing" in last
