"""Programs that run scripts: signals reach the script, whose exit status becomes the program's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from filmvqa.system.signals import ENDING
from tests.conftest import script_environment

_SCRIPT = """
import time
from filmvqa.cli.messages import one_line_errors
from filmvqa.system.signals import interrupt_on_signals
interrupt_on_signals()
with one_line_errors():
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", ENDING[1:])  # a terminal sends SIGINT to both
def test_a_signal_to_a_program_of_stages_stops_its_script(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "endless.py").write_text(_SCRIPT)
    program = (
        "import filmvqa.cli.stages as stages; from pathlib import Path\n"
        f"stages.packed_folder = lambda name: Path({str(tmp_path)!r})\n"
        "stages.run_stage(['endless.py'], 'make demo resumes from there')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=script_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline() != "begun\n":
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines() == [
        f"error: stopped by {number.name}; run the same command again to resume",
        "error: endless.py was stopped (see above); make demo resumes from there",
    ]


def test_stages_are_forks_of_one_process_and_say_what_is_left(tmp_path: Path) -> None:
    scripts = {
        "first": "import sys, time; print('torch' in sys.modules); time.sleep(2)",
        "second": "raise SystemExit(3)",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    program = (
        "import filmvqa.cli.stages as stages, filmvqa.cli.pipeline as pipeline\n"
        f"from pathlib import Path; stages.packed_folder = lambda name: Path({str(tmp_path)!r})\n"
        "lines = {name: [f'{name}.py'] for name in ('first', 'second')}\n"
        "pipeline.run_stages(lines, 'make demo', {'first': 1, 'second': 110})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=script_environment(), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr == "error: second.py failed (see above); make demo resumes from there\n"
    first, *others, left, _, _ = done.stdout.strip().splitlines()
    assert first == "stage 1 of 2, first; about 2 min left"
    assert ("True" in others) == (sys.platform == "linux")
    prefix, minutes = left.removesuffix(" min left").split(" about ")
    assert prefix == "stage 2 of 2, second;"
    assert int(minutes) >= 4  # twice as slow
