"""The notebooks run, and what is stored of their outputs is complete, small and of no one machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

nbformat = pytest.importorskip("nbformat", reason="pip install 'filmvqa[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'filmvqa[notebooks]'")
pytest.importorskip("ipykernel", reason="pip install 'filmvqa[notebooks]'")

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
#: Characters of an output, and of a notebook with all of them.
LARGEST_OUTPUT, LARGEST_NOTEBOOK = 60_000, 300_000
#: Folders of users and of this repository, and addresses in memory.
MACHINE = re.compile(
    rf"{re.escape(str(REPOSITORY))}|/(?:home|root|Users|tmp|work|opt|usr)/|\b0x[0-9a-f]{{6,}}"
)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_outputs_are_stored(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {"stream", "display_data"} <= {output.output_type for output in outputs}
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert len(json.dumps(output)) < LARGEST_OUTPUT
    text = path.read_text()
    assert len(text) < LARGEST_NOTEBOOK
    assert not MACHINE.search(text)


@pytest.mark.slow
def test_the_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=resources
    ).execute()
