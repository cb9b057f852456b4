"""From generated masks to the targets of expressions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from filmvqa.backbones.extraction import Extraction
from filmvqa.evaluation.batches import open_loader
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.object_masks import ObjectMasks
from filmvqa.worlds.engine.schema import read_questions
from tests.conftest import data_in


def open_masks(folder: Path, split: str = "val", store: str = "auto"):
    vocabulary = Vocabulary.load(folder / "vocab.json")
    return open_loader(
        data_in(folder), split, vocabulary, 16, torch.device("cpu"), store, targets="masks"
    )


@pytest.mark.parametrize("store", ["auto", "stream"])
def test_targets_are_what_the_objects_of_the_expression_cover(
    referring_world: Path, referring_set: Path, store: str
) -> None:
    layout = DatasetLayout.under(referring_world)
    expressions = read_questions(layout.question_json("val")).questions
    loader = open_masks(referring_set, store=store)
    rows = torch.randperm(len(expressions), generator=torch.Generator().manual_seed(0))[:40]
    batch = loader.batch(rows)
    assert batch.targets is not None
    assert torch.equal(batch.targets, loader.read_targets(rows))
    for target, row in zip(batch.targets, rows.tolist(), strict=True):
        expression = expressions[row]
        path = layout.mask_folder("val") / expression.image_filename
        # Independently of Pillow's resizing: each place shows the pixel in its middle.
        shown = np.asarray(Image.open(path))[2::4, 2::4]
        assert shown.shape == (12, 12)
        expected = np.isin(shown, expression.objects)
        assert np.array_equal(target.numpy(), expected.astype(np.uint8))
    assert {int(t.max()) for t in batch.targets} == {0, 1}
    loader.close()


def test_expressions_have_objects_and_no_answers(referring_set: Path) -> None:
    loader = open_masks(referring_set)
    assert loader.questions.answers is None
    assert loader.questions.objects is not None
    assert (loader.questions.types == -1).all()  # none of the five
    assert loader.questions.program_lengths is not None
    assert loader.questions.program_lengths.min() >= 2
    assert loader.targets.output_options(Vocabulary.load(referring_set / "vocab.json")) == {
        "mask_size": [12, 12]
    }
    with h5py.File(referring_set / "val_questions.h5") as file:
        assert file["objects"].dtype == np.int64
        names = list(file.attrs["type_names"])
        assert {"unique", "union", "relate", "filter_color"} <= {str(name) for name in names}
    loader.close()


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_set_without_masks_says_how_they_are_made(referring_set: Path, tmp_path: Path) -> None:
    folder = copied(referring_set, tmp_path / "h5")
    (folder / "val_masks.h5").unlink()
    with pytest.raises(UserError, match=r"val_masks\.h5: no such file.*extract_features"):
        open_masks(folder)


def test_masks_of_other_images_are_refused(referring_set: Path, tmp_path: Path) -> None:
    folder = copied(referring_set, tmp_path / "h5")
    shutil.copy(folder / "train_masks.h5", folder / "val_masks.h5")
    with pytest.raises(UserError, match=r"its images are not those of .*val_masks\.h5"):
        open_masks(folder)


def test_damaged_masks_are_refused_when_they_are_read(referring_set: Path, tmp_path: Path) -> None:
    folder = copied(referring_set, tmp_path / "h5")
    with h5py.File(folder / "val_masks.h5", "r+") as file:
        file["features"][3, 0, 5, 5] ^= 1
    with pytest.raises(UserError, match=r"val_masks\.h5.*image 3"):
        open_masks(folder)


def test_maps_of_another_kind_are_refused(referring_set: Path, tmp_path: Path) -> None:
    folder = copied(referring_set, tmp_path / "h5")
    shutil.copy(folder / "val_features_clevr_cnn.h5", folder / "val_masks.h5")
    with pytest.raises(UserError, match=r"val_masks\.h5: has 96 maps an image, not one"):
        open_masks(folder)


def test_pictures_are_no_masks(referring_world: Path, tmp_path: Path) -> None:
    images = DatasetLayout.under(referring_world).image_folder("val")
    with pytest.raises(UserError, match="not a mask of 8 bits grey"):
        Extraction(images, tmp_path / "x.h5", "val", ObjectMasks(), (12, 12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": [0, 0]}, r"question 2: has the objects \[0, 0\]"),
        ({"objects": [-1]}, r"question 2: has the objects \[-1\]"),
        ({"objects": [63]}, r"question 2: has the objects \[63\]"),
        ({"objects": "all"}, r"questions\[2\]"),
        ({"objects": None, "answer": "yes"}, "ends in .*, which gives no answer"),
    ],
)
def test_expressions_that_make_no_sense_are_named(
    referring_world: Path, tmp_path: Path, change: dict, message: str
) -> None:
    source = DatasetLayout.under(referring_world).question_json("val")
    content = json.loads(source.read_bytes())
    content["questions"][2] |= change
    layout = DatasetLayout.under(tmp_path)
    layout.questions.mkdir()
    layout.question_json("train").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        preprocess_questions(layout)


def test_answers_to_questions_do_not_end_in_objects(tiny_world: Path, tmp_path: Path) -> None:
    source = DatasetLayout.under(tiny_world).question_json("val")
    content = json.loads(source.read_bytes())
    content["questions"][1] |= {"objects": [0]}
    layout = DatasetLayout.under(tmp_path)
    layout.questions.mkdir()
    layout.question_json("train").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"question 1: its program ends in .*gives no objects"):
        preprocess_questions(layout)
