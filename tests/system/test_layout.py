"""Data sets with slightly different folders or names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from filmvqa.features.images import find_pictures, list_images
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout, image_stem


def test_a_set_one_folder_too_deep_is_named(tmp_path: Path) -> None:
    layout = DatasetLayout.under(tmp_path / "clevr")
    missing = (
        lambda: list_images(layout.image_folder("val")),
        layout.question_json_by_split,
    )
    for work in missing:
        with pytest.raises(UserError, match="download"):
            work()
    inner = tmp_path / "clevr/CLEVR_v1.0"
    for folder, name in (("images/val", "CLEVR_val_000000.png"),
                         ("questions", "CLEVR_val_questions.json")):  # fmt: skip
        (inner / folder).mkdir(parents=True)
        (inner / folder / name).touch()
    for work in missing:
        with pytest.raises(UserError, match=re.escape(f"deeper: give data.root={inner}")) as caught:
            work()
        assert "download" not in str(caught.value)


def test_names_of_pictures_without_their_endings() -> None:
    for name in ("a_1.png", "a_1.PNG", "a_1.jpg", "a_1.JPEG"):
        assert image_stem(name) == "a_1"
    assert image_stem("SOUND_1.wav") == "SOUND_1.wav"


def test_two_pictures_of_one_index_are_not_shown(tmp_path: Path) -> None:
    for name in ("a_1.png", "a_1.jpg", "a_2.JPG"):
        (tmp_path / name).touch()
    assert list(find_pictures(tmp_path)) == [2]
    with pytest.raises(UserError, match=r"a_1\.png: has the index 1, as a_1\.jpg has"):
        list_images(tmp_path)
