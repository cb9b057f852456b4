"""A set that separate processes generate in parts."""

from __future__ import annotations

import random
import shutil
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.clevr.generate import MAKER, generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.engine.generate import list_missing
from tests.worlds.clevr.file_hashes import file_hashes

SETTINGS = GeneratorSettings(
    images={"train": 260, "val": 0, "test": 3},  # two shards and one
    width=32,
    height=32,
    rays=1,
    questions_per_image=2,
    families=["zero_hop"],
    masks=True,
    rules=SceneRules(max_objects=3),
)
SPAWN = get_context("spawn")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of a set that one process generated."""
    root = tmp_path_factory.mktemp("parts") / "whole"
    assert generate(root, SETTINGS, workers=1)
    return file_hashes(root)


@pytest.fixture(scope="module")
def unmerged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with parts 0 and 2 of 3; tests must not change it."""
    root = tmp_path_factory.mktemp("parts") / "unmerged"
    assert MAKER.generate_part(root, SETTINGS, 2, 3, workers=1) == [0, 1]
    assert MAKER.generate_part(root, SETTINGS, 0, 3, workers=1) == [1]
    return root


def test_three_parts_in_any_order_are_the_whole(
    whole: dict[str, str], unmerged: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(unmerged, tmp_path / "set")
    assert MAKER.generate_part(root, SETTINGS, 1, 3, workers=1) == []
    assert file_hashes(root) == whole
    # A job that is requeued after its end.
    assert MAKER.generate_part(root, SETTINGS, 1, 3, workers=1) == []
    assert file_hashes(root) == whole


def _make_part(root: Path, number: int) -> None:
    MAKER.generate_part(root, SETTINGS, number, 3, workers=1)


def test_simultaneous_parts_that_are_killed_and_restarted(
    whole: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "set"
    running = {k: SPAWN.Process(target=_make_part, args=(root, k)) for k in range(3)}
    for process in running.values():
        process.start()
    while not list(root.rglob("scenes_*.json")):
        time.sleep(0.02)
    for number in random.Random(18).sample(range(3), 2):
        running[number].kill()
        running[number].join()
        running[number] = SPAWN.Process(target=_make_part, args=(root, number))
        running[number].start()
    for process in running.values():
        process.join()
        assert process.exitcode == 0
    assert file_hashes(root) == whole


def test_a_missing_part_is_named_and_generate_makes_it(
    whole: dict[str, str], unmerged: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(unmerged, tmp_path / "set")
    with pytest.raises(UserError) as caught:
        MAKER.merge_parts(root, SETTINGS, 3)
    assert str(caught.value) == (
        f"{root}: part 1 of 3 is missing; generate each with parts=3 part=<number>"
    )
    assert generate(root, SETTINGS, workers=1)
    assert file_hashes(root) == whole
    MAKER.merge_parts(root, SETTINGS, 3)  # nothing is left to do
    assert file_hashes(root) == whole


def test_unmerged_parts_are_merged(
    whole: dict[str, str], unmerged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the last part had been killed while it merged."""
    root = shutil.copytree(unmerged, tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr("filmvqa.worlds.engine.generate.GeneratedSet.merge", lambda _: None)
        MAKER.generate_part(root, SETTINGS, 1, 3, workers=1)
    assert not (root / "questions").exists()
    MAKER.merge_parts(root, SETTINGS, 3)
    assert file_hashes(root) == whole


def test_two_processes_do_not_generate_the_same_images(unmerged: Path, tmp_path: Path) -> None:
    """While part 1 of 3 is generated, nobody else generates it, the whole, or parts of 2."""
    root = shutil.copytree(unmerged, tmp_path / "set")
    with folder_lock(DatasetLayout.under(root).partial, "part_1_of_3"):
        for call in (
            lambda: MAKER.generate_part(root, SETTINGS, 1, 3, workers=1),
            lambda: generate(root, SETTINGS, workers=1),
            lambda: MAKER.generate_part(root, SETTINGS, 1, 2, workers=1),
        ):
            with pytest.raises(UserError, match=r"part_1_of_3: process \d+ .* is using it"):
                call()


def test_other_settings_and_too_many_parts_are_refused(unmerged: Path, tmp_path: Path) -> None:
    other = GeneratorSettings(images=SETTINGS.images)
    with pytest.raises(UserError, match="other settings"):
        MAKER.generate_part(unmerged, other, 1, 3, workers=1)
    for call in (
        lambda: MAKER.generate_part(tmp_path / "set", SETTINGS, 0, 4, workers=1),
        lambda: MAKER.merge_parts(unmerged, SETTINGS, 4),
    ):
        with pytest.raises(UserError, match=r"^parts=4: the set can be made in 3 parts at most"):
            call()
    assert not (tmp_path / "set").exists()


def test_long_lists_of_parts_are_cut() -> None:
    assert list_missing([3], 64) == "part 3 of 64 is missing"
    assert list_missing([3, 5], 64) == "parts 3, 5 of 64 are missing"
    assert list_missing(list(range(40)), 64).endswith(", 19 and 20 more of 64 are missing")
