"""Shared fixtures: tiny generated sets, made once per test run, and the scripts as processes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.object_masks import ObjectMasks
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.settings import BackboneSettings, DataSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.questions.write_program_targets import write_program_targets
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_rules import SceneRules
from tests.scripts_server import ForkedScript, run_forked
from tests.worlds.sound.small_sets import make_set

if TYPE_CHECKING:
    from tests.training.tiny_runs import Runs

# A command that a shell starts in the background ignores SIGINT, and so do its child processes:
# tests that send SIGINT would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The factor for the number of examples of property tests. ``make soak`` sets it, and then seeds are
#: fresh; otherwise a test always tries the same examples, so a commit always has the same verdict.
EXAMPLES = int(os.environ.get("FILMVQA_EXAMPLES", "1"))
settings.register_profile(
    "tests",
    deadline=None,  # times vary with the machine's load
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=EXAMPLES == 1,
    max_examples=100 * EXAMPLES,
    print_blob=True,
)
settings.load_profile("tests")


def examples(count: int) -> settings:
    """Try ``count`` examples, times ``EXAMPLES``."""
    return settings(max_examples=count * EXAMPLES)


REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
#: How often tests kill each stage. ``make soak`` sets it, which also lengthens the long training.
KILLS = int(os.environ.get("FILMVQA_KILLS", "3"))

TINY = GeneratorSettings(
    images={"train": 60, "val": 20, "test": 5},
    width=48,
    height=48,
    rays=1,
    rules=SceneRules(min_objects=3, max_objects=4),
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real CLEVR images and film's checkpoint; without it tests are skipped."""
    if not SHARED.is_dir():
        pytest.skip("no shared folder with the real files here")
    return SHARED


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, images and questions of 60 + 20 + 5 images. Read only."""
    root = tmp_path_factory.mktemp("world") / "tiny"
    assert generate(root, TINY, workers=2)
    return root


@pytest.fixture(scope="session")
def tiny_set(tiny_world: Path) -> Path:
    """``h5`` of the tiny world: vocabulary, questions, targets of their programs, clevr_cnn
    features. Read only."""
    layout = DatasetLayout.under(tiny_world, backbone="clevr_cnn")
    preprocess_questions(layout)
    backbone = build_backbone("clevr_cnn")
    for split in TINY.images:
        images, target = layout.image_folder(split), layout.feature_h5(split)
        Extraction(images, target, split, backbone, (48, 48)).run()
        write_program_targets(layout, split, Vocabulary.load(layout.vocabulary))
    return layout.h5


@pytest.fixture(scope="session")
def referring_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, images, masks and expressions of 30 + 12 images. Read only."""
    root = tmp_path_factory.mktemp("world") / "referring"
    settings = replace(
        TINY, images={"train": 30, "val": 12}, masks=True, templates="referring", withhold=(),
    )  # fmt: skip
    assert generate(root, settings, workers=2)
    return root


@pytest.fixture(scope="session")
def referring_set(referring_world: Path) -> Path:
    """``h5`` of this world: vocabulary, expressions, clevr_cnn features, masks. Read only."""
    layout = DatasetLayout.under(referring_world, backbone="clevr_cnn")
    preprocess_questions(layout)
    backbone, masks = build_backbone("clevr_cnn"), ObjectMasks()
    for split in ("train", "val"):
        images, target = layout.image_folder(split), layout.feature_h5(split)
        Extraction(images, target, split, backbone, (48, 48)).run()
        images, target = layout.mask_folder(split), layout.mask_h5(split)
        Extraction(images, target, split, masks, (12, 12)).run()
    return layout.h5


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """A small set of sounds with questions and spectrograms. Read only."""
    return make_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def runs(tmp_path: Path, tiny_set: Path) -> Runs:
    """Short training runs on the tiny set."""
    from tests.training.tiny_runs import Runs  # which imports this module

    return Runs(tmp_path, tiny_set)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all workers of a test run share, made by the first to need it. Read only."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / f"{name}.made").exists():
            folder.mkdir()  # fails in the other workers if the first failed
            make(folder)
            (root / f"{name}.made").touch()
    return folder


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder that every user can write to."""
    for parent in tmp_path.parents:
        if parent != parent.parent and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    folder = tmp_path / "public"
    tmp_path.chmod(0o711)
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def data_in(folder: Path) -> DatasetLayout:
    """The layout of question and feature files of ``clevr_cnn`` in one folder."""
    return DatasetLayout.under(folder, h5=folder, backbone="clevr_cnn")


def set_in(folder: Path, **options: Any) -> DataSettings:
    """The settings of the set whose files ``data_in`` lists."""
    return DataSettings(
        name="tiny", root=folder, h5=folder, backbone=BackboneSettings("clevr_cnn"), **options
    )


def script_environment() -> dict[str, str]:
    """The environment, with one thread, so that parallel tests agree, and without a network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def heavy_imports(
    modules: Sequence[str], heavy: set[str], cwd: Path = REPOSITORY, then: str = ""
) -> str:
    """The heavy modules that importing ``modules`` and running ``then`` imports, as text, or the
    error of the import."""
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {list(modules)}]; "
        f"{then or None}; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.stderr.strip()


def start_script(
    name: str, *arguments: str, cwd: Path, more: Mapping[str, str] | None = None
) -> ForkedScript:
    """Start ``scripts/<name>`` in another process, with ``more`` in its environment."""
    return ForkedScript(REPOSITORY / "scripts" / name, arguments, cwd, script_environment(), more)


def start_together(
    name: str, *arguments: str, cwd: Path, ranks: Sequence[int] = (0, 1)
) -> list[ForkedScript]:
    """Start ``scripts/<name>`` as two processes that know each other, as launchers do; or only some
    ``ranks`` of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks]
    return [start_script(name, *arguments, cwd=cwd, more=place) for place in places]


def nobody_is_left(folder: Path) -> None:
    """Assert that all processes of a killed script end, by their current folder."""
    for _ in range(200):
        links = Path("/proc").glob("[0-9]*/cwd")
        if not any(link.is_symlink() and _target(link) == folder.resolve() for link in links):
            return
        time.sleep(0.05)
    raise AssertionError("a process outlives its parent by 10 seconds")


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:  # ended meanwhile, or another user's
        return None


def run_script(
    name: str,
    *arguments: str,
    cwd: Path | None = None,
    timeout: float = 300,
    forked: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run ``scripts/<name>`` to its end in another process.

    ``forked=False`` starts a new Python, as a user does, for libraries that do not survive a fork.
    """
    script = REPOSITORY / "scripts" / name
    if forked:
        return run_forked(script, arguments, cwd or Path.cwd(), script_environment(), timeout)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=script_environment(),
    )


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Matplotlib fail to draw."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("latex was not able to process the string")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
