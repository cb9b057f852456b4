"""What ``make`` installs, and how, with stubs of Python, pip and uv that record their calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PYTHON = """#!/bin/sh
case "$*" in
  *"config list") cat pip.conf ;;
  *"install uv") {uv} ;;
  *) echo "pip $*" >> calls ;;
esac
"""
UV = """#!/bin/sh
[ "$1" = --version ] || echo "uv $UV_DEFAULT_INDEX $*" >> calls
[ "$1" = --version ] || [ ! -e broken ]
"""
INSTALLABLE, NOT_INSTALLABLE = "cp uv .venv/bin/uv", "exit 1"


def calls(folder: Path, target: str, settings: str = "", uv: str = INSTALLABLE) -> list[str]:
    """The calls of the programs that make an environment's stamp in ``folder``."""
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    for name, text in {".venv/bin/python": PYTHON.format(uv=uv), "uv": UV}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "pip.conf").write_text(settings)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_"))}
    subprocess.run(
        ["make", "-f", str(REPOSITORY / "Makefile"), f".venv/{target}"],
        cwd=folder, env={**environment, "PATH": "/usr/bin:/bin"}, check=True, capture_output=True,
    )  # fmt: skip
    assert (folder / ".venv" / target).exists()
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("target", "extra"),
    [(".installed", "page"), (".installed-dev", "dev"), (".installed-easy-vqa", "easy-vqa")],
)
def test_uv_installs_what_a_target_needs(tmp_path: Path, target: str, extra: str) -> None:
    packages = f"--quiet --python .venv/bin/python -c constraints.txt -e .[{extra}]"
    assert calls(tmp_path, target) == [f"uv  pip install {packages}"]


def test_uv_gets_the_index_of_pips_settings(tmp_path: Path) -> None:
    settings = "global.extra-index-url='file:///more'\nglobal.index-url='https://mirror/simple'\n"
    (call,) = calls(tmp_path, ".installed", settings)
    assert call.startswith("uv https://mirror/simple pip install ")


def test_pip_installs_where_uv_cannot_be_installed(tmp_path: Path) -> None:
    (call,) = calls(tmp_path, ".installed", uv=NOT_INSTALLABLE)
    assert call.startswith("pip -m pip ")
    assert call.endswith(" install --quiet -c constraints.txt -e .[page]")


@pytest.mark.parametrize("setting", ["global.proxy='http://gate:80'", ":env:.no-index='1'"])
def test_pip_installs_where_uv_does_not_know_its_settings(tmp_path: Path, setting: str) -> None:
    (call,) = calls(tmp_path, ".installed", f"{setting}\n")
    assert call.startswith("pip ")


def test_pip_installs_where_uv_fails(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    failed, call = calls(tmp_path, ".installed")
    assert failed.startswith("uv ")
    assert call.startswith("pip ")
