"""The user's modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from filmvqa.cli.command import CONFIGS, typed_settings
from filmvqa.cli.imports import import_modules
from filmvqa.cli.overrides import compose_config
from filmvqa.system.errors import UserError
from filmvqa.training.settings import RunSettings
from tests.conftest import run_script


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/my_file.py").write_text("VALUE = 3\n")
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    return tmp_path


def test_a_module_of_the_current_folder_is_imported(here: Path) -> None:
    import_modules(["my_package.my_file"])
    assert sys.modules["my_package.my_file"].VALUE == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_file", r"No module named 'no_such_file'; install it, or put it"),
        ("my_package.none", r"No module named 'my_package.none'; install it, or put it"),
        ("broken", r"No module named 'no_such_library'$"),
        ("wrong", r"ZeroDivisionError: division by zero; correct it there"),
        ("..x", r"TypeError: "),
    ],
)
def test_what_cannot_be_imported_is_one_line(here: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^imports=\[{name}\]: {message}") as caught:
        import_modules([name])
    assert "\n" not in str(caught.value)


def test_a_program_imports_before_it_checks_the_rest(tmp_path: Path) -> None:
    (tmp_path / "my_file.py").write_text("print('imported')\n")
    done = run_script("ask.py", "imports=[my_file]", "top=0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "imported\n")
    assert done.stderr.startswith("error: top=0: must be")
    done = run_script("train.py", "imports=[my_fil]", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: imports=[my_fil]: No module named 'my_fil'; ")
    done = run_script("ask.py", "imports=my_file", cwd=tmp_path)
    assert done.stderr == (
        "error: imports='my_file': must be a list, each a name; write imports=[my_file]\n"
    )


def test_a_run_records_what_it_imported_and_nothing_else() -> None:
    """Without imports the record is that of versions without the key."""
    for overrides, expected in (
        ([], None),
        (["imports=[my_package.my_file]"], ["my_package.my_file"]),
    ):
        config = compose_config(CONFIGS, "train", ["run=x", *overrides])
        assert typed_settings(config, RunSettings).config.get("imports") == expected
