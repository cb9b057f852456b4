"""Subjects (scenes, data sets' pictures, uploads), and the computation of answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.features.images import read_picture
from filmvqa.film import film
from filmvqa.models import MODELS, build_model
from filmvqa.models.protocols import record_activations
from filmvqa.page.app import first_subject
from filmvqa.page.attribute_changes import Change, list_changes, try_changes
from filmvqa.page.changes_panel import changes_table
from filmvqa.page.networks import MASK, Network
from filmvqa.page.pictures import draw_film_strips, overlay_map
from filmvqa.page.predictions import PredictionTable, read_table
from filmvqa.page.session import SharedState
from filmvqa.page.subjects import (
    MAX_UPLOAD,
    PictureSet,
    Subject,
    draw_preview,
    draw_scene,
    read_upload,
)
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.vqa import VQA, Answer, FilmParameters
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.parsing import answer_of
from filmvqa.worlds.clevr.scene_file import read_scenes
from filmvqa.worlds.engine.programs import SceneIndex
from filmvqa.worlds.engine.schema import read_questions
from tests.models.small_models import SMALL, sizes
from tests.training.tiny_runs import train


def png(width: int = 30, height: int = 20) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(out, format="PNG")
    return out.getvalue()


def near(answer: Answer) -> Any:
    """An answer's probabilities with a tolerance for rounding, which differs between batches."""
    return pytest.approx(answer.probabilities, abs=2e-3)


def test_questions_about_a_scene_have_their_true_answers(first: Subject, network: Network) -> None:
    assert first.problems == []
    questions = first.questions(3, 10, network.knows)
    assert len(questions) == 10
    for question in questions:
        assert answer_of(question.program, SceneIndex(first.scene)) == question.answer
        assert first.true_answer(question.question) == question.answer
    others = first.questions(4, 10, network.knows)
    assert [q.question for q in others] != [q.question for q in questions]
    assert first.true_answer("Is this art?") is None


def test_a_scene_while_it_is_dragged(first: Subject) -> None:
    moved = first.edited.with_object(0, x=0.0, y=0.0)
    quick, whole = draw_preview(first, moved), draw_scene(moved, "your scene")
    assert quick.picture.shape == whole.picture.shape == (320, 480, 3)
    difference = np.abs(quick.picture.astype(int) - whole.picture)
    assert difference.mean() < 3
    assert quick.scene == whole.scene
    empty = moved
    for _ in moved.objects:
        empty = empty.without(0)
    assert draw_scene(empty, "your scene").problems == ["0 objects; CLEVR has 3 to 10"]


def test_uploads(tmp_path: Path) -> None:
    subject = read_upload(png(), "../../etc/fr\u00f6g.png")
    assert subject.title == "fr\u00f6g.png"
    assert subject.picture.shape == (20, 30, 3)
    assert (subject.scene, subject.true_answer("How many things are there?")) == (None, None)
    assert subject.questions(0, 5, lambda _: True) == []
    assert read_upload(png(), "..\\..\\x.png").title == "x.png"
    assert read_upload(png(4000, 3000), "x.png").picture.shape == (640, 853, 3)
    turned = Image.new("RGB", (60, 40)).getexif()
    turned[0x0112] = 6  # a telephone held upright
    out = io.BytesIO()
    Image.new("RGB", (60, 40)).save(out, format="JPEG", exif=turned)
    assert read_upload(out.getvalue(), "x.jpg").picture.shape == (60, 40, 3)
    for content, message in (
        (b"", "x.png: cannot be read as an image"),
        (b"GIF89a" + bytes(100), "x.png: cannot be read as an image"),
        (png()[:60], "x.png: cannot be read as an image"),
        (bytes(MAX_UPLOAD + 1), "larger than 8 MB"),
        (png(8000, 8000), "8000×8000 pixels; resize it"),
        (png(40, 200), "40×200 pixels, too narrow; crop it"),
    ):
        with pytest.raises(UserError, match=message):
            read_upload(content, "x.png")


def test_pictures_of_a_set(tiny_world: Path) -> None:
    layout = DatasetLayout.under(tiny_world)
    pictures = PictureSet(layout)
    assert pictures.splits == ["test", "train", "val"]
    subject = pictures.subject("val", 3)
    path = layout.image_folder("val") / "CLEVR_val_000003.png"
    assert np.array_equal(subject.picture, read_picture(path))
    assert subject.edited is None
    records = read_questions(layout.question_json("val")).questions
    questions = [question for question in records if question.image_index == 3]
    assert questions
    for question in questions:
        assert subject.true_answer(question.question) == question.answer
    assert subject.scene == read_scenes(layout.scene_json("val")).scenes[3]
    for split, index in (("val", 20), ("val", -1), ("../train", 0), ("none", 0)):
        with pytest.raises(UserError, match="the data set has no such picture"):
            pictures.subject(split, index)


def test_a_set_that_changes_is_read_again(tiny_world: Path, tmp_path: Path) -> None:
    """A picture is never shown with the scene of a previous picture."""
    split = DatasetLayout.under(tmp_path)
    pictures = PictureSet(split)
    for number in (3, 4):
        split.image_folder("val").mkdir(parents=True, exist_ok=True)
        split.scene_json("val").parent.mkdir(exist_ok=True)
        there = DatasetLayout.under(tiny_world)
        source = there.image_folder("val") / f"CLEVR_val_{number:06d}.png"
        (split.image_folder("val") / "CLEVR_val_000000.png").write_bytes(source.read_bytes())
        content = json.loads(there.scene_json("val").read_text())
        scene = content["scenes"][number] | {"image_index": 0}
        split.scene_json("val").write_text(json.dumps(content | {"scenes": [scene]}))
        subject = pictures.subject("val", 0)
        assert np.array_equal(subject.picture, read_picture(source))
        assert subject.scene is not None
        assert len(subject.scene.objects) == len(scene["objects"])
        assert [o.pixel_coords for o in subject.scene.objects] == [
            tuple(o["pixel_coords"]) for o in scene["objects"]
        ]
    extra = split.image_folder("val") / "CLEVR_val_000001.png"
    extra.write_bytes(source.read_bytes())
    assert list(pictures.indices("val")) == [0, 1]


def test_the_computation_of_an_answer(first: Subject, network: Network) -> None:
    question = "How many small things are there?"
    features = network.features(first.picture)
    look = network.look(features, question)
    assert look.answer.probabilities == near(network.answers([first.picture], question)[0])
    assert set(look.maps) == {
        *(f"block {i}, {side} FiLM" for i in range(1, 6) for side in ("before", "after")),
        "places of the maximum pool", "gradient of the answer",
    }  # fmt: skip
    with record_activations(network.vqa.model) as inside:
        network.vqa.ask(features, question)
    for i in range(5):
        after = film(inside.before[i], look.film.gamma[i][None], look.film.beta[i][None])
        torch.testing.assert_close(
            look.maps[f"block {i + 1}, after FiLM"], after[0].norm(dim=0), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(UserError, match="thinks"):
        network.look(features, "How many thinks are there?")


def test_other_gamma_and_beta(first: Subject, network: Network) -> None:
    question, other = "How many things are there?", "What color is the large cube?"
    features = network.features(first.picture)
    plain = network.look(features, question)
    assert network.num_layers == 5
    half = network.look(features, question, FilmSettings(scale=0.5, parameter="gamma", layers=[2]))
    torch.testing.assert_close(half.film.gamma[1], plain.film.gamma[1] / 2)
    torch.testing.assert_close(half.film.gamma[0], plain.film.gamma[0])
    torch.testing.assert_close(half.film.beta, plain.film.beta)
    assert half.unchanged.probabilities == near(plain.answer)
    assert half.answer.probabilities != near(plain.answer)
    borrowed = network.look(features, question, FilmSettings(question=other))
    torch.testing.assert_close(borrowed.film.gamma, network.vqa.film(other).gamma)
    assert network.look(features, question).answer.probabilities == near(plain.answer)
    with pytest.raises(UserError, match="this model has 5 FiLM layers"):
        network.look(features, question, FilmSettings(scale=2, layers=[6]))


def test_the_gradient_is_that_of_the_score(first: Subject, network: Network) -> None:
    """Compared with autograd on the score, without Captum."""
    question = "Is there a cube?"
    features = network.features(first.picture)
    look = network.look(features, question)
    vocabulary, model = network.vqa.vocabulary, network.vqa.model
    given = features.clone()[None].float().requires_grad_()
    scores = model(given, torch.tensor([vocabulary.encode(question)]))
    (gradient,) = torch.autograd.grad(
        scores[0, vocabulary.answers().index(look.answer.text)], given
    )
    expected = gradient[0].abs().sum(0)
    torch.testing.assert_close(look.maps["gradient of the answer"], expected, rtol=1e-3, atol=1e-4)
    assert expected.max() > 0


def test_the_picture_has_an_alternative_text(first: Subject) -> None:
    assert first.edited is not None
    described = [f"{i}. {placed}" for i, placed in enumerate(first.edited.objects, 1)]
    assert first.description == f"scene of seed 1: {', '.join(described)}"


def test_what_if_tries_every_other_value(network: Network) -> None:
    scene, question = EditedScene.sampled(5, 3), "What color is the large sphere?"
    shares: list[float] = []
    before, outcomes = try_changes(
        network, scene, question, size=(144, 144), progress=shares.append
    )
    assert [o.change for o in outcomes] == list_changes(scene)
    assert len(outcomes) == 3 * (7 + 2 + 1 + 1)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    one = next(o for o in outcomes if o.change == Change(1, "color", "red"))
    changed = scene.with_object(1, color="red")
    picture = changed.render(144, 144).image
    assert one.answer.probabilities == near(network.answers([picture], question)[0])
    table = changes_table(scene, before, outcomes)
    assert table.count("<td") == 3 * 15 + 2  # and the corner of each line of the head
    assert table.count('class="unchanged"') == 3 * 4
    _, stopped = try_changes(network, scene, question, size=(48, 48), stopped=lambda: True)
    assert stopped == []
    _, outcomes = try_changes(network, scene, "How many metal things are there?", size=(48, 48))
    metal = sum(o.material == "metal" for o in scene.objects)
    for outcome in outcomes:
        change = {"metal": 1, "rubber": -1}.get(outcome.change.value, 0)
        assert outcome.truth == str(metal + change)


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8))
def test_strips(values: list[float]) -> None:
    film_parameters = FilmParameters(torch.tensor([values]), torch.tensor([values]))
    gamma, beta = draw_film_strips(film_parameters, film_parameters)
    for drawing, neutral in ((gamma, 1), (beta, 0)):
        assert drawing.count('class="above"') == sum(v > neutral for v in values)
        assert drawing.count('class="below"') == sum(v <= neutral for v in values)
        assert drawing.count('class="before"') == len(values)
        assert "nan" not in drawing


def test_predictions_of_other_data_are_refused(
    tiny_shared: SharedState, tiny_run: Path, tmp_path: Path
) -> None:
    source = tiny_run / "evaluation/val_predictions.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    layout, vocabulary = tiny_shared.pictures.layout, tiny_shared.networks[0].vqa.vocabulary
    target = tmp_path / "evaluation/val_predictions.jsonl"
    target.parent.mkdir()

    def read(records: list[dict]) -> PredictionTable:
        target.write_text("".join(json.dumps(record) + "\n" for record in records))
        return read_table(tmp_path, "val", layout, vocabulary)

    assert len(read(rows).rows) == len(rows)
    for key in ("image_index", "question_index"):
        with pytest.raises(UserError, match="evaluate the checkpoint again, or give the h5"):
            read([{**row, key: row[key] + 1000} for row in rows])
    without = read([{k: v for k, v in row.items() if k != "truth"} for row in rows])
    assert not without.has_truths
    assert without.choose({}, only_wrong=True) == []


def test_maps_over_a_picture() -> None:
    picture = np.full((20, 30, 3), 100, np.uint8)
    values = torch.zeros(2, 3)
    values[0, 2] = 5
    laid = overlay_map(picture, values)
    assert laid.shape == picture.shape
    assert laid[2, 27, 0] > 2 * laid[17, 3, 0]
    assert (overlay_map(picture, torch.ones(2, 3)) == 45).all()
    picture[:, :, 0] = 40  # cyan
    laid = overlay_map(picture, values)
    assert laid[2, 27].tolist() == [50, 125, 125]  # in its colour where the map is highest
    assert len(set(laid[17, 3].tolist())) == 1  # grey where it is lowest


def test_predictions_are_read_and_chosen(tiny_shared: SharedState) -> None:
    assert tiny_shared.evaluated_splits == ["val"]
    table = tiny_shared.predictions("val")
    assert tiny_shared.predictions("val") is table
    questions = read_questions(tiny_shared.pictures.layout.question_json("val")).questions
    assert len(table.rows) == len(questions)
    vocabulary = tiny_shared.networks[0].vqa.vocabulary
    for row in (0, 7, len(questions) - 1):
        question, shown = questions[row], table.rows[row]
        assert shown["question"] == vocabulary.decode(vocabulary.encode(question.question))
        assert shown["expected"] == question.answer
        assert shown["family"] == question.question_family_index
        assert shown["length"] == len(question.program)
        assert shown["image"] == question.image_index
    wrong = table.choose({}, only_wrong=True)
    assert wrong == [row for row in table.rows if row["given"] != row["expected"]] != []
    counts = table.choose({"type": "count", "objects": 3})
    assert {(row["type"], row["objects"]) for row in counts} == {("count", 3)}
    assert table.values("length") == sorted({row["length"] for row in table.rows})


@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_be_explained(name: str, network: Network, first: Subject) -> None:
    """Also networks without FiLM layers, and those that ignore the picture."""
    vocabulary = network.vqa.vocabulary
    model = build_model(
        name, vocab_size=len(vocabulary.question), **sizes(name, len(vocabulary.answers())),
        feature_shape=list(network.vqa.feature_shape), **SMALL[name],
    )  # fmt: skip
    vqa = VQA(model, vocabulary, network.vqa.feature_shape, None, precision="float32")
    look = Network(vqa, name).look(network.features(first.picture), "How many things are there?")
    draws = name in ("film_segmentation", "film_label_maps")
    assert (look.answer.text in vocabulary.answers()) != draws
    assert (look.film is not None) == name.startswith("film")
    has_gradient = name not in ("lstm", "qtype") and not draws
    assert ("gradient of the answer" in look.maps) == has_gradient
    assert (MASK in look.maps) == draws
    if draws:
        assert torch.equal(look.maps[MASK] > 0, torch.from_numpy(look.answer.mask))


def test_mac_shows_its_steps(tiny_set: Path, tmp_path: Path, first: Subject) -> None:
    train(tmp_path / "mac", tiny_set, "mac", max_steps=2, eval_every=2)
    network = Network.load(str(tmp_path / "mac" / "best.pt"), "cpu", None)
    assert network.name == "mac"
    question = "Are there any other things?"
    assert network.knows(question)
    look = network.look(network.features(first.picture), question)
    words, attention = look.words
    assert words == ["start", "Are", "there", "any", "other", "things", "end"]
    assert attention.shape == (network.vqa.model.num_steps, len(words))
    torch.testing.assert_close(attention.sum(1), torch.ones(len(attention)))
    steps = [m for name, m in look.maps.items() if name.endswith("attention")]
    assert len(steps) == len(attention)
    assert all(float(m.sum()) == pytest.approx(1, abs=1e-4) for m in steps)
    assert "gradient of the answer" in look.maps


def test_a_visitor_first_sees_a_picture_of_a_set_without_scenes(tmp_path: Path) -> None:
    for split in ("test", "val"):
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        Image.new("RGB", (9, 8), "red").save(folder / "x_5.png")
    pictures = PictureSet(DatasetLayout.under(tmp_path))
    assert first_subject(pictures).title == "val 5"
    path = DatasetLayout.under(tmp_path).scene_json("val")
    path.parent.mkdir()
    path.touch()
    assert first_subject(pictures).title.startswith("scene of seed")
