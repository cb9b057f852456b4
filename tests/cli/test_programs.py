"""The program ``filmvqa <verb>``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from filmvqa.cli.programs import find_verbs, list_verbs, summarize
from tests.conftest import REPOSITORY, heavy_imports, script_environment


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "filmvqa", *arguments], cwd=cwd, capture_output=True, text=True,
        check=False, env={**script_environment(), "PYTHONPATH": str(REPOSITORY / "src")},
    )  # fmt: skip


def test_every_script_is_a_verb_with_one_line() -> None:
    assert {path.stem for path in (REPOSITORY / "scripts").glob("[a-z]*.py")} == set(find_verbs())
    head, _, *rows = list_verbs().splitlines()
    assert "filmvqa <verb> --help" in head
    assert [row.split()[0] for row in rows] == list(find_verbs())
    assert all(summarize(path).endswith((".", ":")) for path in find_verbs().values())


def test_the_list_of_verbs_needs_no_library() -> None:
    assert heavy_imports(["filmvqa.cli.programs"], {"torch", "hydra", "omegaconf", "numpy"}) == ""


def test_a_verb_runs_as_its_script(tmp_path: Path) -> None:
    done = run("draw-sheet", "--cfg", "job", "output=x.png", "rows=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows: 5" in done.stdout
    assert run(cwd=tmp_path).stdout == f"{list_verbs()}\n"
    assert run("--version", cwd=tmp_path).stdout.startswith("filmvqa ")


def test_help_of_a_pipeline_runs_nothing(tmp_path: Path) -> None:
    done = run("demo", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "generate, preprocess, extract, train, evaluate" in done.stdout


def test_an_unknown_verb_is_one_line(tmp_path: Path) -> None:
    done = run("trian", "seed=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, "error: trian: no such verb; did you mean train?\n"
    )  # fmt: skip
