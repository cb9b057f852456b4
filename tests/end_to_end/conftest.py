from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import made_once
from tests.end_to_end.workplace import every_stage


@pytest.fixture(scope="session")
def trained_workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage up to a trained FiLM network has run. Read only."""
    return made_once(tmp_path_factory, "workplace", every_stage)


@pytest.fixture(scope="module")
def workplace(trained_workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``trained_workplace`` for a module."""
    folder = tmp_path_factory.mktemp("copies") / "workplace"
    return Path(shutil.copytree(trained_workplace, folder))


@pytest.fixture
def copy(trained_workplace: Path, tmp_path: Path) -> Path:
    """A copy of ``trained_workplace`` for a test."""
    return Path(shutil.copytree(trained_workplace, tmp_path / "copy"))
