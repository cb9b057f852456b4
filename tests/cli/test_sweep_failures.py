"""The errors at the end of a sweep."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from filmvqa.cli import sweep_failures
from filmvqa.cli.sweep_failures import raise_listed_failures
from filmvqa.system.errors import UserError


def sbatch_error() -> Exception:
    """submitit's error for a failed Slurm command."""
    utils = pytest.importorskip("submitit.core.utils")
    try:
        raise utils.FailedJobError("sbatch: error: invalid partition") from (
            subprocess.CalledProcessError(1, "sbatch")
        )
    except utils.FailedJobError as error:
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError('Could not detect "srun"'), 'hydra/launcher=own: Could not detect "srun"; '),
        (ModuleNotFoundError("No module named 'ray'"), "hydra/launcher=own: No module named"),
        (sbatch_error, "hydra/launcher=own: sbatch: error: invalid partition; "),
    ],
)
def test_a_launcher_that_cannot_start_jobs_is_named(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_failures._Sweep(tmp_path, time.time(), "own")
    monkeypatch.setattr(sweep_failures, "_SWEEP", sweep)
    with pytest.raises(UserError) as caught:
        raise_listed_failures(error if isinstance(error, Exception) else error())
    assert str(caught.value).startswith(words)
    assert "hydra/launcher=basic" in str(caught.value)
