"""Networks that predict masks are trained, resumed, evaluated, and asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import filmvqa
from filmvqa.checkpoints.export import export_network
from filmvqa.models import build_model
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.sheets import draw_masks
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.protocol import find_task
from filmvqa.training.curves import draw_curves, read_evaluations
from filmvqa.worlds.engine.schema import read_questions
from tests.training.tiny_runs import Runs, evaluate, learn_by_heart, loader_of, metrics, train

NAME = "film_segmentation"
CONDITIONINGS = ["film", "spatial_film", "guide", "dual_attention", "concat"]


@pytest.fixture(scope="module")
def run(referring_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks") / "run"
    train(folder, referring_set, NAME, max_steps=16)
    return folder


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, referring_set: Path) -> None:
    options = {"name": NAME, "checkpoint_steps": 3, "log_every": 4, "ema_decay": 0.9}
    Runs(tmp_path, referring_set).check_interrupted(5, 14, 25, **options)


def test_records_name_the_score(run: Path) -> None:
    records = [r for r in metrics(run) if "val_mean_iou" in r]
    assert [r["step"] for r in records] == [8, 16]
    assert set(records[0]["val_by_type"]) == {"none", "one", "several"}
    assert all(0 <= r["mean_iou"] <= 1 for r in metrics(run) if "loss" in r)
    assert not any("accuracy" in key for r in metrics(run) for key in r)
    evaluations = read_evaluations(run / "metrics.jsonl")
    assert evaluations[1]["val"] == records[1]["val_mean_iou"]
    draw_curves(run / "metrics.jsonl", run / "curves.png")


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_forty_expressions_are_learned_by_heart(conditioning: str, referring_set: Path) -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary.load(referring_set / "vocab.json")
    loader = loader_of(referring_set, targets="masks")
    model = build_model(
        NAME, vocab_size=len(vocabulary.question), feature_shape=loader.store.shape,
        **loader.targets.output_options(vocabulary), channels=24, num_blocks=2,
        encoder={"embedding_dim": 16, "hidden_dim": 48}, block={"conditioning": conditioning},
    )  # fmt: skip
    batch = loader.batch(torch.arange(40))
    assert learn_by_heart(find_task("masks"), model, batch, 0.9) > 0.9


def test_an_evaluation_reports_the_scores_of_its_masks(
    run: Path, referring_world: Path, referring_set: Path
) -> None:
    files, report = evaluate(run)
    records = [json.loads(line) for line in files.predictions.read_text().splitlines()]
    layout = DatasetLayout.under(referring_world)
    assert len(records) == len(read_questions(layout.question_json("val")).questions)
    mean = np.mean([record["iou"] for record in records])
    assert report["overall"]["mean_iou"] == pytest.approx(mean)
    assert report["targets"] == "masks"
    assert report["by_num_objects"].keys() <= {"3", "4"}
    saved = metrics(run)[-1]
    assert saved["val_mean_iou"] == pytest.approx(mean) or report["step"] != saved["step"]
    draw_masks(files.predictions, layout, "val", run / "masks.png", rows=1, columns=3)
    with pytest.raises(UserError, match="has no masks"):
        wrong = run / "answers.jsonl"
        wrong.write_text('{"question_index": 0, "image_index": 0, "answer": "yes"}\n')
        draw_masks(wrong, layout, "val", run / "other.png")
    _, card = export_network(run, run / "network.safetensors")
    assert "Mean intersection over union" in card.read_text()


def test_it_is_asked_in_the_same_way(run: Path, referring_world: Path, referring_set: Path) -> None:
    vqa = filmvqa.load(run, precision="float32")
    layout = DatasetLayout.under(referring_world)
    expression = read_questions(layout.question_json("val")).questions[0]
    answer = vqa.ask(layout.image_folder("val") / expression.image_filename, expression.question)
    assert answer.mask is not None
    assert answer.mask.shape == (12, 12)
    assert answer.mask.dtype == bool
    assert answer.probabilities == {}
    assert answer.text == (f"{100 * answer.mask.mean():.1f}% of the picture"
                           if answer.mask.any() else "nothing")  # fmt: skip
    batch = loader_of(referring_set, "val", targets="masks").batch(torch.arange(1))
    with torch.inference_mode():
        logits = vqa.model(batch.features, batch.questions)
    assert np.array_equal(answer.mask, (logits[0] > 0).numpy())
