"""The entry point that all scripts share."""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from filmvqa.cli.command import CONFIGS, choose_hydra_arguments
from filmvqa.cli.messages import explain, refuse_renamed_overrides
from filmvqa.cli.process import print_in_any_case
from filmvqa.cli.torchrun import format_start
from filmvqa.settings.renamed_keys import RENAMED_KEYS, rename_keys
from filmvqa.system.errors import Interrupted, UserError
from filmvqa.system.files import sha256_of_file
from tests.conftest import REPOSITORY, run_script


def test_a_checkout_uses_its_own_configs() -> None:
    assert CONFIGS == REPOSITORY / "configs"


@pytest.mark.parametrize(
    ("version", "arguments"),
    [
        ("1.3.2", {"version_base"}),
        ("1.3.8", {"version_base"}),
        ("1.4.0rc3", {"execution_whitelist"}),
        ("2.0.0", {"execution_whitelist"}),
    ],
)
def test_each_version_of_hydra_gets_its_own_arguments(
    version: str, arguments: set, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydra, "__version__", version)
    assert set(choose_hydra_arguments()) == arguments


@pytest.mark.parametrize("key", RENAMED_KEYS)
def test_an_earlier_key_on_the_command_line_names_the_present_one(key: str) -> None:
    for prefix in ("", "+", "++", "~"):
        with pytest.raises(UserError, match=rf"{key} is named {RENAMED_KEYS[key]} now"):
            refuse_renamed_overrides(["experiment=demo", f"{prefix}{key}=1"])
    refuse_renamed_overrides([f"{RENAMED_KEYS[key]}=1", "-m"])


@pytest.mark.parametrize("override", ["trainer.average=0.9", "+train.start=x.pt"])
def test_a_script_refuses_an_earlier_key_in_one_line(override: str, tmp_path: Path) -> None:
    done = run_script("train.py", "experiment=demo", override, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "is named train" in line


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("average: 0.9", "trainer.average is named trainer.ema_decay now; use that name\n"),
        ("batch_sise: 9", "trainer.batch_sise: no such key"),
    ],
)
def test_an_earlier_or_unknown_key_in_a_config_file_is_refused(
    tmp_path: Path, key: str, error: str
) -> None:
    """Hydra would add the key, and the program would ignore it."""
    group = tmp_path / "mine/experiment"
    group.mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - demo\n  - _self_\n"
    (group / "own.yaml").write_text(f"{head}trainer:\n  {key}\n")
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    done = run_script("train.py", "experiment=own", search, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {error}")


def test_keys_are_renamed_at_every_depth() -> None:
    config = {"trainer": {"average": 0.9, "batch_size": 2}, "model": {"block": {"place": "x"}}}
    assert rename_keys(config) == {
        "trainer": {"ema_decay": 0.9, "batch_size": 2},
        "model": {"block": {"film_position": "x"}},
    }
    assert rename_keys({"block": {"projection": 3}, "filmed": None}, "model.") == {
        "block": {"input_proj_kernel": 3}, "film_blocks": None,
    }  # fmt: skip


def test_a_value_that_must_be_given_is_named() -> None:
    with pytest.raises(MissingMandatoryValue) as caught:
        print(OmegaConf.create({"a": {"b": "???"}}).a.b)
    assert explain(caught.value) == "a.b: must be given, as a.b=<value>"


@pytest.mark.parametrize("value", ["${nothing}", "${a.c}", "${oc.env:NO_SUCH_NAME}", "${no:x}"])
def test_an_interpolation_that_leads_nowhere_names_its_key(value: str) -> None:
    with pytest.raises(OmegaConfBaseException) as caught:
        print(OmegaConf.create({"a": {"b": value}}).a.b)
    message = explain(caught.value)
    assert message.startswith("a.b: ")
    assert message.endswith("; correct it there")
    assert "object_type" not in message


@pytest.mark.parametrize("folder", ["/x/outputs/demo/{}", "/x/outputs/demo/mine", "???"])
def test_the_remedy_includes_a_run_name_that_the_command_did_not_give(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that starts a sweep has no folder."""
    name = format_start("%Y-%m-%d")
    hydra_config = OmegaConf.create({"runtime": {"output_dir": folder.format(name)}})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra_config)
    message = explain(Interrupted("f: stopped after step 5 of 9"))
    is_drawn = "{}" in folder
    assert message == (
        "f: stopped after step 5 of 9; run the same command again "
        f"{f'with run={name} ' if is_drawn else ''}to resume"
    )
    full = explain(OSError(errno.ENOSPC, "No space left on device", "/x/last.pt"))
    assert (f"with run={name}" in full) == is_drawn


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "utf-8"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_of_any_encoding_takes_any_character(
    name: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding))
    print_in_any_case()
    text = "60 × 96: γ, 图, \udcff"
    print(text, file=getattr(sys, name), flush=True)
    assert written.getvalue().decode(encoding).startswith("60 ")
    assert (written.getvalue().decode(encoding)[3] == "×") == (encoding == "utf-8")


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "<&-", ">&-"])
def test_streams_that_the_parent_closed(closed: str, tmp_path: Path) -> None:
    """Python sets them to None, and the next file would get the descriptor of standard error."""
    code = (
        "import filmvqa.cli.command, sys; print('x'); print('y', file=sys.stderr); "
        "file = open('opened', 'w'); file.write(str(file.fileno())); sys.stdin.read()"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "x\n")
    assert done.stderr == ("" if "2>&-" in closed else "y\n")
    assert int((tmp_path / "opened").read_text()) > 2


def test_a_reader_that_has_read_enough_ends_a_program_quietly(tmp_path: Path) -> None:
    """Such as ``| head``: while an unbuffered program prints, and when a buffered one ends."""
    code = (
        "import sys; from filmvqa.cli.messages import one_line_errors\n"
        "with one_line_errors():\n for _ in range(10 ** 5): print('x' * 99)"
    )
    for option in ("-u", "-B"):
        command = f"({shlex.quote(sys.executable)} {option} -c {shlex.quote(code)}; echo $? >&2)"
        done = subprocess.run(
            ["sh", "-c", f"{command} | head -n 1"], cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.stdout == f"{'x' * 99}\n"
        assert done.stderr == "141\n"


def test_every_program_prints_any_character() -> None:
    """All scripts import the room that sets this up."""
    for path in (REPOSITORY / "scripts").glob("*.py"):
        if "def main" in (text := path.read_text(encoding="utf-8")):
            assert "from filmvqa.cli" in text, path


def test_errors_of_the_system_have_a_remedy() -> None:
    error = PermissionError(13, "Permission denied", "/x/y")
    assert explain(error) == (
        "/x/y: Permission denied; change its permissions, or choose another path, and run again"
    )
    with pytest.raises(OSError) as caught:  # it names no file
        sha256_of_file(10**6)  # type: ignore[arg-type]
    assert explain(caught.value).startswith(
        "filmvqa.system.files.sha256_of_file: Bad file descriptor; "
    )
    assert explain(KeyboardInterrupt()) == "stopped; run the same command again to resume"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is torch's on Linux")
@pytest.mark.parametrize(("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_openmp_reads_how_long_its_threads_wait(given: dict[str, str], expected: str) -> None:
    program = "from filmvqa.cli.process import set_environment; set_environment(); import torch"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_WAIT"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "OMP_DISPLAY_ENV": "verbose", **given},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


def test_garbage_is_searched_for_rarely_and_not_at_the_end() -> None:
    program = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 50_000))
import filmvqa.cli
searches = lambda: sum(generation["collections"] for generation in gc.get_stats())
before, objects = searches(), [[i] for i in range(50_000)]
print(searches() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) in range(4)
    assert done.stdout.split()[1] == "True"
