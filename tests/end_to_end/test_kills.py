"""Every stage as a process, killed at random moments and restarted: in the end its files equal
those of an undisturbed run.

``make test`` kills each stage 3 times, ``make soak`` 50 times (``FILMVQA_KILLS``).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.features.wav import read_wav
from tests.conftest import (
    KILLS,
    REPOSITORY,
    made_once,
    nobody_is_left,
    script_environment,
    start_script,
    start_together,
)
from tests.end_to_end.workplace import DATA, SMALL
from tests.scripts_server import ForkedScript
from tests.training.tiny_runs import metrics, same

pytestmark = [pytest.mark.processes, pytest.mark.slow]
#: The number of copies of the training questions, and of each question in a file: preprocessing
#: would otherwise end at once.
COPIES, REPEATS = 5, 10
TORCHRUN = "filmvqa.cli.quiet_torchrun"

#: Overrides for a network that labels the same images.
IMAGES_TO_LABEL = [
    "data.root=data/tiny", "data.image_size=[48,48]", "data.backbone.name=clevr_places",
    "data.train_split=train", "model.channels=8", "model.stem.strides=[1]",
]  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A command line, the folder to which it writes, the patterns of its output and of the first
    file that it writes, and its number of processes."""

    line: list[str]
    into: str
    makes: tuple[str, ...]
    begins: str
    processes: int = 1


STAGES = {
    "generate": Stage(
        ["generate_clevr.py", *DATA, "data.generator.images={train:450,val:30,test:5}",
         "data.generator.width=64", "data.generator.height=64", "data.generator.masks=true",
         "workers=2"],
        "data",
        ("data",),
        "data/tiny/images",
    ),
    "preprocess": Stage(
        ["preprocess_questions.py", *DATA],
        "data/tiny/h5",
        ("data/tiny/h5/vocab.json", "data/tiny/h5/*_questions.h5"),
        "data/tiny/h5",
    ),
    "extract": Stage(
        ["extract_features.py", *DATA, "batch_size=4", "data.mask_size=[24,24]"],
        "data/tiny/h5",
        ("data/tiny/h5/*_features_*", "data/tiny/h5/*_masks*"),
        "data/tiny/h5/*_features_*",
    ),
    "train": Stage(
        ["train.py", "experiment=demo", *DATA, *SMALL, "run=film", "trainer.max_steps=150",
         "trainer.batch_size=24", "trainer.eval_every=40", "trainer.checkpoint_steps=7",
         "trainer.log_every=9", "trainer.ema_decay=0.99", "trainer.train_sample=200",
         "data.fraction=0.9"],
        "outputs",
        ("outputs/demo/film",),
        "outputs/demo/film/metrics.jsonl",
    ),
    "train together": Stage(
        ["train.py", "experiment=demo", *DATA, *SMALL, "run=together", "trainer.max_steps=150",
         "trainer.batch_size=24", "trainer.eval_every=40", "trainer.checkpoint_steps=7",
         "trainer.log_every=9", "trainer.ema_decay=0.99", "trainer.train_sample=200"],
        "outputs",
        ("outputs/demo/together",),
        "outputs/demo/together/metrics.jsonl",
        processes=2,
    ),
    "generate sounds": Stage(
        ["generate_sound.py", "data=sound", "data.root=sounds", "data.sound.sample_rate=20000",
         "data.sound.images={train:270,val:30}", "data.sound.questions_per_image=4", "workers=2"],
        "sounds",
        ("sounds",),
        "sounds/sounds",
    ),
    "extract sounds": Stage(
        ["extract_features.py", "data=sound", "data.root=sounds", "data.h5=sounds_h5",
         "data.sound.sample_rate=20000", "data.spectrogram.hop=500", "batch_size=4"],
        "sounds_h5",
        ("sounds_h5/*_features_*",),
        "sounds_h5/*_features_*",
    ),
    "train label maps": Stage(
        ["train.py", "experiment=correction_base", *IMAGES_TO_LABEL, "run=base",
         "trainer.max_steps=60", "trainer.eval_every=30", "trainer.checkpoint_steps=7",
         "trainer.train_sample=30"],
        "outputs",
        ("outputs/correction_base/base",),
        "outputs/correction_base/base/metrics.jsonl",
    ),
    "hints": Stage(
        ["make_hints.py", "checkpoint=outputs/correction_base/base", "output=outputs/hints"],
        "outputs",
        ("outputs/hints",),
        "outputs/hints",
    ),
    "few-shot learners": Stage(
        ["few_shot.py", *DATA, "data.backbone.name=clevr_places", "split=train",
         "learners=[film,prototypes,logistic_regression]", "widths=[8]", "word_steps=20",
         "steps=10", "episodes=90"],
        "outputs",
        ("outputs/few_shot",),
        "outputs/few_shot/episodes.json",
    ),
}  # fmt: skip


def command(stage: Stage) -> list[str]:
    script, *arguments = stage.line
    launcher = [sys.executable]
    if stage.processes > 1:
        options = ["--standalone", f"--nproc_per_node={stage.processes}"]
        launcher += ["-m", TORCHRUN, *options]
    return [*launcher, str(REPOSITORY / "scripts" / script), *arguments]


def start(stage: Stage, folder: Path) -> list[ForkedScript]:
    script, *arguments = stage.line
    if stage.processes == 1:
        return [start_script(script, *arguments, cwd=folder)]
    return start_together(script, *arguments, cwd=folder)


def finish(processes: list[ForkedScript]) -> None:
    errors = "".join(process.communicate(timeout=300)[1] for process in processes)
    assert [process.wait() for process in processes] == [0] * len(processes), errors[-2000:]


def wait(processes: list[ForkedScript], seconds: float) -> None:
    """Wait until all have ended, for at most ``seconds``."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.wait(max(0.0, deadline - time.monotonic()))


def made(stage: Stage, folder: Path) -> set[Path]:
    return {path for pattern in stage.makes for path in folder.glob(pattern)}


def files(path: Path) -> Iterator[Path]:
    """A file itself, or the files in a folder."""
    return (each for each in sorted([path, *path.rglob("*")]) if each.is_file())


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, tuple[float, float]]]:
    """A folder in which every stage has run, and for each stage the seconds from its start to its
    first output and to its end."""
    folder = made_once(tmp_path_factory, "undisturbed", every_stage)
    return folder / "place", json.loads((folder / "times.json").read_text())


def every_stage(folder: Path) -> None:
    place, times = folder / "place", {}
    place.mkdir()
    for name, stage in STAGES.items():
        started, first = time.monotonic(), None
        processes = start(stage, place)
        while any(process.poll() is None for process in processes):
            if first is None and any(place.glob(stage.begins)):
                first = time.monotonic() - started
            time.sleep(0.02)
        finish(processes)
        times[name] = (first or 0.0, time.monotonic() - started)
        if name == "generate":
            more_questions(place / "data/tiny/questions")
    (folder / "times.json").write_text(json.dumps(times))


def more_questions(folder: Path) -> None:
    source = json.loads((folder / "CLEVR_train_questions.json").read_text())
    source["questions"] *= REPEATS
    for k in range(COPIES):
        (folder / f"CLEVR_more{k}_questions.json").write_text(json.dumps(source))


def without(stage: str, undisturbed: Path, place: Path) -> Path:
    """A copy of the folder's state before a stage."""
    if stage == "generate":
        place.mkdir()
        return place
    shutil.copytree(undisturbed, place)
    for later in list(STAGES)[list(STAGES).index(stage) :]:
        for path in made(STAGES[later], place):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return place


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_moment_is_resumed(
    stage: str, undisturbed: tuple[Path, dict[str, tuple[float, float]]], tmp_path: Path
) -> None:
    whole, times = undisturbed
    first, last = times[stage]
    moments = random.Random(f"{stage} {KILLS}")
    place, kills, finished = without(stage, whole, tmp_path / "0"), 0, 0
    while kills < KILLS:
        processes, started = start(STAGES[stage], place), time.monotonic()
        try:
            wait(processes, moments.uniform(0.8 * first, last))
        except subprocess.TimeoutExpired:
            moments.choice(processes).kill()
            for process in processes:
                process.terminate()  # as torchrun does with processes that never joined
                process.communicate(timeout=200)
            kills += 1
            nobody_is_left(place)
            everything_is_whole(STAGES[stage], place)
            continue
        # It ended before its moment: the machine is faster now, or little work was left.
        faster = min(1.0, (time.monotonic() - started) / last)
        first, last = first * faster, last * faster
        finish(processes)
        compare(STAGES[stage], whole, place)
        shutil.rmtree(place)
        finished += 1
        place = without(stage, whole, tmp_path / str(finished))
    finish(start(STAGES[stage], place))
    compare(STAGES[stage], whole, place)


#: Run a stage in a small file system that is filled after the first output; then run it again with
#: free space.
FULL = """
set -e
into=$1 begins=$2; shift 2
mkdir -p "$into"; cp -r "$into" before
mount -t tmpfs -o size=128m tmpfs "$into"; cp -r before/. "$into"
"$@" > /dev/null 2> full.txt & stage=$!
until compgen -G "$begins" > /dev/null; do sleep 0.02; done
dd if=/dev/zero of="$into/filler" bs=4k 2> /dev/null || true
wait $stage || echo $? > code.txt
rm "$into/filler"
"$@" > /dev/null
cp -r "$into" after; umount "$into"; rm -r before "$into"; mv after "$into"
"""
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def can_mount(place: Path) -> bool:
    line = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(place)]
    return shutil.which("unshare") is not None and not subprocess.run(line, check=False).returncode


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_stops_a_stage_with_one_line_and_it_is_resumed(
    stage: str, undisturbed: tuple[Path, dict[str, tuple[float, float]]], tmp_path: Path
) -> None:
    if not can_mount(tmp_path):
        pytest.skip("needs the right to mount a file system")
    whole, _ = undisturbed
    place, run = without(stage, whole, tmp_path / "place"), STAGES[stage]
    subprocess.run(
        [*UNSHARE, "bash", "-c", FULL, "_", run.into, run.begins, *command(run)],
        cwd=place, env=script_environment(), timeout=300, check=True,
    )  # fmt: skip
    errors = (place / "full.txt").read_text()
    assert (place / "code.txt").read_text() == "1\n", errors
    assert "Traceback" not in errors, errors
    (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert re.search(r"no room on the disk: it needs [\d.]+ \w+, [\d.]+ \w+ are free", error)
    compare(run, whole, place)


def everything_is_whole(stage: Stage, place: Path) -> None:
    """Assert that every file with its final name is complete."""
    for path in (path for each in made(stage, place) for path in files(each)):
        kind = path.suffix
        if path.name.startswith("."):  # locks and temporary files
            continue
        if kind == ".png":
            with Image.open(path) as image:
                image.load()
        elif kind == ".wav":
            read_wav(path)
        elif kind == ".json":
            json.loads(path.read_text())
        elif kind == ".yaml":
            yaml.safe_load(path.read_text())
        elif kind == ".jsonl":
            for line in path.read_text().splitlines()[:-1]:
                json.loads(line)
        elif kind == ".pt":
            load_checkpoint(path)
        elif kind == ".md":
            assert path.read_text().endswith("\n")
        else:
            assert kind in (".h5", ".partial"), path
            check_hdf5(path)


def check_hdf5(path: Path) -> None:
    with h5py.File(path, "r") as file:
        if "features" not in file:
            assert all(len(file[name][:]) for name in file)
            return
        done = file.attrs["num_done"]
        assert path.suffix == ".partial" or done == len(file["features"])
        for row in range(done):
            assert zlib.crc32(file["features"][row].data) == file["row_crc32"][row]


def compare(stage: Stage, whole: Path, place: Path) -> None:
    for ours, theirs in zip(sorted(made(stage, whole)), sorted(made(stage, place)), strict=True):
        assert ours.relative_to(whole) == theirs.relative_to(place)
        names = {path.relative_to(ours) for path in files(ours)}
        others = {path.relative_to(theirs) for path in files(theirs)}
        more = {Path(f"tiny/questions/CLEVR_more{k}_questions.json") for k in range(COPIES)}
        later = {path for path in names if path.parts[:2] == ("tiny", "h5")}
        assert names - more - later == others  # and no temporary files are left
        for name in others:
            assert content(ours / name) == content(theirs / name), name


def content(path: Path) -> object:
    """The content of a file that two runs must agree in: all of it, except times of training."""
    if path.name.endswith(".lock"):
        return None
    if path.suffix == ".jsonl":
        return metrics(path.parent)
    if path.suffix == ".pt":
        return Same(load_checkpoint(path))
    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            datasets = {name: (file[name].dtype, file[name][:].tobytes()) for name in file}
            return datasets, {k: np.array(v).tolist() for k, v in file.attrs.items()}
    return path.read_bytes()


class Same:
    """A checkpoint that can be compared with another."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and same(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]
