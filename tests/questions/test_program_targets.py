"""Program targets agree with a second engine and with the scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.program_targets import ProgramTargets
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.questions.write_program_targets import write_program_targets
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from tests.conftest import TINY
from tests.worlds.reference_engine import outputs


@pytest.fixture
def layout(tiny_world: Path, tiny_set: Path, tmp_path: Path) -> DatasetLayout:
    """The tiny set with a copy of its scenes and question files."""
    root = tmp_path / "set"
    shutil.copytree(tiny_world / "scenes", root / "scenes")
    (root / "h5").mkdir()
    for name in ("vocab.json", "train_questions.h5", "test_questions.h5", "val_questions.h5"):
        shutil.copy(tiny_set / name, root / "h5" / name)
    return DatasetLayout.under(root, images=tiny_world / "images")


def write(layout: DatasetLayout, split: str = "train") -> str:
    return write_program_targets(layout, split, Vocabulary.load(layout.vocabulary))


def read(layout: DatasetLayout) -> tuple[QuestionDataset, ProgramTargets]:
    vocabulary = Vocabulary.load(layout.vocabulary)
    questions = QuestionDataset.load(layout.question_h5("train"), vocabulary)
    return questions, ProgramTargets(layout.program_targets_h5("train"), questions)


def expected_targets(
    program: list[dict[str, Any]], done: list[Any]
) -> tuple[list[int], list[list[int]]]:
    """Referents and sets, in the JSON's order of steps."""
    referents = [out for step, out in zip(program, done, strict=True)
                 if step["function"] == "unique"]  # fmt: skip
    sets = [done[step["inputs"][0]] for step in program if step["function"] in ("count", "exist")]
    return referents, sets


def test_targets_agree_with_another_engine(tiny_world: Path, layout: DatasetLayout) -> None:
    assert "written" in write(layout)
    questions, targets = read(layout)
    records = json.loads((tiny_world / "questions/CLEVR_train_questions.json").read_text())
    scenes = json.loads(layout.scene_json("train").read_text())["scenes"]
    numbers = set()
    for row, record in enumerate(records["questions"]):
        scene = scenes[record["image_index"]]
        done = outputs(record["program"], scene)
        assert done is not None
        referents, sets = expected_targets(record["program"], done)
        image = questions.images[row : row + 1]
        named = targets.read(torch.tensor([row]), image, torch.device("cpu"))
        assert [i for i in named.referents[0].tolist() if i >= 0] == referents
        bits = [sum(1 << i for i in objects) for objects in sets]
        assert [s for s in named.sets[0].tolist() if s >= 0] == bits
        centres = torch.tensor([thing["pixel_coords"][:2] for thing in scene["objects"]])
        size = torch.tensor([TINY.width, TINY.height])
        positions = named.positions[0, : len(centres)]
        assert torch.allclose(positions, centres / size)
        assert named.positions[0, len(centres) :].isnan().all()
        numbers.add((len(referents), len(sets)))
    assert {(0, 1), (1, 1), (0, 2), (1, 0), (2, 0)} <= numbers


def test_some_rows_of_some_questions(layout: DatasetLayout) -> None:
    write(layout)
    questions, every = read(layout)
    chosen = questions.select(torch.arange(1, len(questions), 3))
    some = ProgramTargets(layout.program_targets_h5("train"), chosen)
    rows = torch.tensor([5, 2, 7])
    images = chosen.images[rows].unique()
    one = some.read(rows, images, torch.device("cpu"))
    other = every.read(chosen.rows[rows], images, torch.device("cpu"))
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
               for a, b in zip(one, other, strict=True))  # fmt: skip


def test_a_complete_file_is_kept_until_its_scenes_change(layout: DatasetLayout) -> None:
    write(layout)
    target = layout.program_targets_h5("train")
    before = target.read_bytes()
    assert "already complete" in write(layout)
    scenes = layout.scene_json("train")
    scenes.write_text(scenes.read_text() + "\n")
    assert "written" in write(layout)
    assert target.read_bytes() != before
    assert "no programs" in write(layout, "test")  # whose answers are withheld
    assert not layout.program_targets_h5("test").exists()


def test_unsuitable_scenes_and_pictures_are_refused(layout: DatasetLayout) -> None:
    scenes = layout.scene_json("train")
    content = json.loads(scenes.read_text())
    first, second = content["scenes"][:2]
    first["objects"], second["objects"] = second["objects"], first["objects"]
    for relation in first["relationships"]:
        rows = first["relationships"], second["relationships"]
        rows[0][relation], rows[1][relation] = rows[1][relation], rows[0][relation]
    scenes.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"its program does not fit its scene in .*scenes"):
        write(layout)
    del content["scenes"][7]
    scenes.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train_scenes.json: has no scene of image 7"):
        write(layout)
    del content["scenes"][0]["objects"][0]["pixel_coords"]
    scenes.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"scene 0: has objects without pixel_coords"):
        write(layout)
    assert not layout.program_targets_h5("train").exists()
    without_pictures = DatasetLayout.under(layout.root, images=layout.root / "none")
    with pytest.raises(UserError, match=r"none/train: no pictures in it"):
        write(without_pictures)


def test_missing_damaged_and_other_files_are_refused(layout: DatasetLayout) -> None:
    with pytest.raises(UserError, match=r"no such file; make it .* targets=true"):
        read(layout)
    write(layout)
    target = layout.program_targets_h5("train")
    whole = target.read_bytes()
    with h5py.File(target, "r+") as file:
        file["referents"][0, 0] = 3
        file["referents"][1, 0] = 3
    with pytest.raises(UserError, match="is damaged"):
        read(layout)
    target.write_bytes(whole)
    with h5py.File(target, "r+") as file:
        file.attrs["questions_sha256"] = "0"
    with pytest.raises(UserError, match="was made from other questions"):
        read(layout)
    assert "written" in write(layout)
    read(layout)
    with h5py.File(target, "w") as file:
        file["notes"] = [1]
    with pytest.raises(UserError, match="was not made by this program"):
        write(layout)
