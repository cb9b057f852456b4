"""Sheets of images, and the diagram of a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from filmvqa.questions.settings import DataSettings
from filmvqa.studies.network_diagram import draw_film
from filmvqa.studies.settings import DrawSheetSettings
from filmvqa.studies.sheets import draw_sheet, group_by_image, list_first
from filmvqa.system.errors import UserError


def test_a_sheet_of_one_image_and_what_is_refused(tiny_world: Path, tmp_path: Path) -> None:
    questions, images = tiny_world / "questions/CLEVR_val_questions.json", tiny_world / "images/val"
    draw_sheet(questions, images, tmp_path / "x.png", rows=1, columns=1)
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (360, 295)
    for options in ({"rows": 0}, {"columns": -1}):
        with pytest.raises(
            UserError, match=r"^(rows|columns)=.*must be a whole number from 1 to 100"
        ):
            DrawSheetSettings(data=DataSettings(name="x", root="x"), output="y.png", **options)
    with pytest.raises(UserError, match=r"val: has fewer than 10000 images; lower rows or columns"):
        draw_sheet(questions, images, tmp_path / "y.png", rows=100, columns=100)
    with pytest.raises(UserError, match=r"val_questions\.json: would overwrite the input"):
        draw_sheet(questions, images, questions)
    assert not (tmp_path / "y.png").exists()
    by_image = group_by_image(questions)
    assert list(list_first(images, 3)) == sorted(by_image)[:3]
    assert all(q.image_index == image for image, group in by_image.items() for q in group)


def test_a_model_is_drawn_whatever_its_options(tmp_path: Path) -> None:
    for options in ({}, {"encoder": None}, {"classifier": {"hidden_dims": []}}):
        draw_film({"name": "film", **options}, (3, 8, 8), tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as image:
            assert image.size == (1032, 576)


def test_a_figure_that_is_asked_for_is_refused_if_it_cannot_be_drawn(
    tmp_path: Path, no_figures: None
) -> None:
    with pytest.raises(UserError, match=r"x\.png: Matplotlib cannot draw it"):
        draw_film({"name": "film"}, (3, 8, 8), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
