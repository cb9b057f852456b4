"""Tasks through their interface: one outside the package, records, and words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import filmvqa
from filmvqa.checkpoints.export import export_network
from filmvqa.models import MODELS
from filmvqa.system.errors import UserError
from filmvqa.tasks.label_maps import LabelMapTask, label_runs
from filmvqa.tasks.masks import MaskTask, run_lengths
from filmvqa.tasks.protocol import TASKS, find_task, read_predictions, task_of_record
from filmvqa.tasks.words import WordTask
from filmvqa.training.curves import read_evaluations
from tests.models.small_models import SMALL
from tests.tasks.outside_task import LengthTask, WordCounter
from tests.training.tiny_runs import evaluate, train


def test_a_task_can_be_a_file_outside_the_package(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(MODELS, "word_counter", WordCounter)
    monkeypatch.setitem(SMALL, "word_counter", {})
    for _ in range(2):
        best = train(tmp_path, tiny_set, "word_counter", optim={"lr": 0.1}, max_steps=96)
    assert f"already finished, best validation closeness {100 * best:.2f}%" in (
        capsys.readouterr().out
    )
    assert read_evaluations(tmp_path / "metrics.jsonl")[-1]["metric"] == "closeness"
    files, report = evaluate(tmp_path / "best.pt")
    assert report["overall"]["closeness"] == pytest.approx(best, abs=1e-3)
    assert best > 0.5
    records = read_predictions(files.predictions)
    assert isinstance(task_of_record(records[0]), LengthTask)
    mean = sum(record.score for record in records) / len(records)
    assert mean == pytest.approx(report["overall"]["closeness"], rel=1e-4)
    assert "closeness" in find_task(report["targets"]).format_report(report)
    vqa = filmvqa.load(tmp_path / "best.pt", device="cpu", precision="float32")
    answer = vqa.ask(torch.zeros(vqa.feature_shape), "Are there any cubes?")
    assert abs(float(answer.text.removesuffix(" words")) - 6) < 3  # with start and end
    _, card = export_network(tmp_path / "best.pt", tmp_path / "net.safetensors")
    assert "It counts the words of questions" in card.read_text()
    assert "Closeness in percent." in card.read_text()


def test_a_task_that_is_not_registered_is_named() -> None:
    with pytest.raises(UserError, match=r"'smells' is no task \(.*answers.*imports="):
        find_task("smells")


@pytest.mark.parametrize(
    ("task", "predictions", "targets"),
    [
        (WordTask(), torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1])),
        (MaskTask(), torch.eye(3)[None].repeat(3, 1, 1), torch.ones(3, 3, 3)),
        (LabelMapTask(), torch.eye(3)[None].repeat(3, 1, 1).byte(), torch.ones(3, 3, 3).long()),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_records_are_read_back(task, predictions, targets, known: bool, tmp_path: Path) -> None:
    class Vocabulary:
        def answers(self) -> list[str]:
            return ["no", "yes"]

    records = task.records(predictions, targets if known else None, Vocabulary())
    lines = [{"question_index": i, "image_index": 7, **r} for i, r in enumerate(records)]
    path = tmp_path / "val_predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_predictions(path)
    assert [(r.question_index, r.image_index) for r in read] == [(0, 7), (1, 7), (2, 7)]
    assert type(task_of_record(read[0])) is type(task)
    expected = task.scores(predictions, targets).tolist() if known else [None] * 3
    assert [r.score for r in read] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question_index": 0, "image_index": 0}, "line 1: .*`answer`"),
        ({"question_index": 0, "answer": "yes"}, "line 1: no image_index"),
        ({"question_index": 0, "image_index": 0, "answer": ""}, "line 1: .*answer"),
        ({"question_index": 0, "image_index": 0, "mask": {"size": [2, 2], "counts": [3]}},
         "line 1: the runs of a mask are not as long as its size"),
    ],
)  # fmt: skip
def test_lines_that_are_no_predictions_are_named(line: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "val_predictions.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(UserError, match=message):
        read_predictions(path)


def test_each_task_describes_its_answers() -> None:
    assert {"answers", "masks", "label_maps"} <= TASKS.keys()
    assert len({task.does for task in TASKS.values()}) == len(TASKS)
    assert LabelMapTask().words(torch.tensor([[[0, 1], [6, 1]], [[0, 0], [0, 0]]]), None) == [
        "rubber cube, metal cylinder", "nothing"
    ]  # fmt: skip
    assert MaskTask().words(torch.tensor([[[0, 1]], [[0, 0]]]), None) == [
        "50.0% of the picture", "nothing"
    ]  # fmt: skip
    assert label_runs(torch.tensor([[0, 0], [1, 1]])) == {"size": [2, 2], "runs": [[0, 2], [1, 2]]}
    assert run_lengths(torch.tensor([[1, 1], [1, 0]])) == {"size": [2, 2], "counts": [0, 3, 1]}
