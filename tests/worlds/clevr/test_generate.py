from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import filmvqa.worlds.clevr
from filmvqa.system.errors import UserError
from filmvqa.system.signals import interrupt_on_signals
from filmvqa.worlds.clevr.generate import draw_image, generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_file import read_scenes
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.engine.worker_pool import worker_pool
from tests.worlds.clevr.file_hashes import file_hashes

SETTINGS = GeneratorSettings(
    images={"train": 110, "test": 3},
    width=48,
    height=32,
    rays=1,
    masks=True,
    rules=SceneRules(max_objects=4),
)


@pytest.fixture(scope="module")
def generated_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generate") / "one"
    assert generate(root, SETTINGS, workers=1)
    return root


def test_files_have_the_form_of_the_release(generated_set: Path) -> None:
    assert {p.name for p in generated_set.iterdir()} == {
        "images", "masks", "scenes", "questions", "generation.json", ".lock",
    }  # fmt: skip
    scenes = json.loads((generated_set / "scenes/CLEVR_train_scenes.json").read_text())
    assert set(scenes) == {"info", "scenes"}
    assert set(scenes["info"]) == {"split", "license", "version", "date"}
    assert [s["image_index"] for s in scenes["scenes"]] == list(range(110))
    assert set(scenes["scenes"][0]) == {
        "image_index", "image_filename", "split", "objects", "relationships", "directions",
    }  # fmt: skip
    assert set(scenes["scenes"][0]["objects"][0]) == {
        "shape", "size", "material", "color", "3d_coords", "rotation", "pixel_coords",
    }  # fmt: skip
    questions = json.loads((generated_set / "questions/CLEVR_train_questions.json").read_text())
    assert set(questions["questions"][0]) == {
        "split", "image_index", "image_filename", "question", "question_index",
        "question_family_index", "answer", "program",
    }  # fmt: skip
    numbers = [q["question_index"] for q in questions["questions"]]
    assert numbers == list(range(len(numbers)))
    assert {q["image_index"] for q in questions["questions"]} == set(range(110))
    test = json.loads((generated_set / "questions/CLEVR_test_questions.json").read_text())
    assert not {"answer", "program", "question_family_index"} & set(test["questions"][0])
    assert {q["image_index"] for q in test["questions"]} == {0, 1, 2}
    with Image.open(generated_set / "images/train/CLEVR_train_000042.png") as image:
        assert (image.size, image.mode, image.format) == ((48, 32), "RGB", "PNG")


def test_every_object_shows_in_its_mask(generated_set: Path) -> None:
    min_visible = SETTINGS.rules.min_visible(48, 32)
    for scene in read_scenes(generated_set / "scenes/CLEVR_train_scenes.json").scenes[:30]:
        with Image.open(generated_set / "masks/train" / scene.image_filename) as image:
            mask = np.asarray(image)
        for i in range(len(scene.objects)):
            assert (mask == i).sum() >= min_visible


def test_same_bytes_for_any_number_of_workers(generated_set: Path, tmp_path: Path) -> None:
    assert generate(tmp_path / "two", SETTINGS, workers=3)
    assert file_hashes(tmp_path / "two") == file_hashes(generated_set)


def test_rgba_images_are_opaque(generated_set: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, images={"train": 1}, rgba=True)
    assert generate(tmp_path / "rgba", settings, workers=1)
    name = "images/train/CLEVR_train_000000.png"
    with Image.open(tmp_path / "rgba" / name) as rgba, Image.open(generated_set / name) as rgb:
        assert rgba.mode == "RGBA"
        assert np.array_equal(np.asarray(rgba)[..., :3], np.asarray(rgb))
        assert np.asarray(rgba)[..., 3].min() == 255


def test_another_seed_gives_other_images(generated_set: Path) -> None:
    scene, rendered = draw_image(SETTINGS, "train", 5)
    with Image.open(generated_set / "images/train" / scene.image_filename) as image:
        assert np.array_equal(np.asarray(image), rendered.image)
    other, _ = draw_image(replace(SETTINGS, seed=1), "train", 5)
    assert other.objects != scene.objects
    assert draw_image(SETTINGS, "val", 5)[0].objects != scene.objects


def test_an_interrupted_generation_is_resumed(
    generated_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the merging, delete a partial file, and generate again."""
    root = tmp_path / "set"

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("filmvqa.worlds.engine.generate.GeneratedSet.merge", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(root, SETTINGS, workers=2)
    partial_files = sorted((root / ".partial").rglob("*.json"))
    assert len(partial_files) == 6  # three chunks and a shard, one chunk and a shard
    partial_files[-1].unlink()
    assert not (root / "questions").exists()
    assert generate(root, SETTINGS, workers=2)
    assert file_hashes(root) == file_hashes(generated_set)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_workers_at_once(tmp_path: Path, signal_number: int) -> None:
    """They stop in the middle of jobs that would take a minute."""
    settings = replace(SETTINGS, images={"train": 2000}, width=192, height=128, rays=4)
    context = get_context("spawn")
    process = context.Process(target=_generate_until_signal, args=(tmp_path / "set", settings))
    process.start()
    while not any(tmp_path.rglob("*.png")):
        assert process.is_alive()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    os.kill(process.pid, signal_number)
    process.join(25)
    assert process.exitcode == 130
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not any(tmp_path.rglob("CLEVR_train_questions.json"))


def _generate_until_signal(root: Path, settings: GeneratorSettings) -> None:
    interrupt_on_signals()
    try:
        generate(root, settings, workers=2)
    except KeyboardInterrupt:
        sys.exit(130)


def test_complete_sets_are_kept_and_lost_files_restored(tmp_path: Path) -> None:
    root, settings = tmp_path / "w", replace(SETTINGS, images={"val": 4})
    assert generate(root, settings, workers=1)
    hashes = file_hashes(root)
    assert not generate(root, settings, workers=1)
    for lost in (
        "images/val/CLEVR_val_000002.png",
        "masks/val/CLEVR_val_000001.png",
        "scenes/CLEVR_val_scenes.json",
        "questions/CLEVR_val_questions.json",
    ):
        (root / lost).unlink()
        assert generate(root, settings, workers=1), lost
        assert file_hashes(root) == hashes, lost


def test_changed_templates_make_another_set(tmp_path: Path) -> None:
    templates = tmp_path / "mine"
    templates.mkdir()
    shipped = Path(filmvqa.worlds.clevr.__file__).parent / "templates/zero_hop.json"
    content = json.loads(shipped.read_text())
    (templates / "zero_hop.json").write_text(json.dumps(content))
    settings = replace(SETTINGS, images={"val": 2}, templates=str(templates))
    assert generate(tmp_path / "w", settings, workers=1)
    assert not generate(tmp_path / "w", settings, workers=1)
    content[0]["text"] = ["How many <Z> <C> <M> <S>s?"]
    (templates / "zero_hop.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="question templates differ"):
        generate(tmp_path / "w", settings, workers=1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"withhold": ("tset",)}, "tset"),
        ({"images": {"val": -1}}, "val=-1"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(SETTINGS, **change)


def test_invalid_workers_are_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers=-2"):
        generate(tmp_path / "w", SETTINGS, workers=-2)
    assert not (tmp_path / "w").exists()


def test_a_split_without_images_is_not_generated(tmp_path: Path) -> None:
    settings = replace(SETTINGS, images={"train": 0, "val": 2}, masks=False)
    assert generate(tmp_path / "w", settings, workers=1)
    assert [p.name for p in (tmp_path / "w/questions").iterdir()] == ["CLEVR_val_questions.json"]
    assert not generate(tmp_path / "w", settings, workers=1)


def test_other_sets_are_not_overwritten(generated_set: Path, tmp_path: Path) -> None:
    """Neither those with other settings, nor those of an earlier version, nor downloaded ones."""
    hashes = file_hashes(generated_set)
    with pytest.raises(UserError, match=r"rules\.max_objects was 4, now 5; seed was 0, now 7"):
        generate(generated_set, replace(SETTINGS, seed=7, rules=SceneRules(max_objects=5)))
    assert file_hashes(generated_set) == hashes
    (tmp_path / "questions").mkdir()
    with pytest.raises(UserError, match="not generated here"):
        generate(tmp_path, SETTINGS)
    recorded = json.loads((generated_set / "generation.json").read_text())
    del recorded["families_sha256"]
    (tmp_path / "generation.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="earlier version"):
        generate(tmp_path, SETTINGS)


def test_rules_that_hide_objects_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filmvqa.worlds.clevr.render.MAX_RESTARTS", 5)
    settings = replace(SETTINGS, rules=SceneRules(min_pixels=60_000))
    with pytest.raises(UserError, match="an object was hidden"):
        draw_image(settings, "val", 0)


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(UserError, match="a worker process was killed"), worker_pool(1) as pool:
        pool.submit(os._exit, 1).result()
