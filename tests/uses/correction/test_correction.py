"""From a network's mistakes to hints, and from hints to corrected label maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.label_maps import LABELS, image_ious
from filmvqa.uses.correction.hints import SEPARATOR, mistakes
from filmvqa.uses.correction.report import report_correction
from filmvqa.uses.correction.rounds import correct
from filmvqa.uses.correction.segmented_images import (
    SegmentedImages,
    find_first_rows,
    open_segmented_images,
)
from filmvqa.uses.correction.settings import CorrectSettings, SegmentingSettings
from filmvqa.worlds.engine.schema import read_questions
from tests.training.tiny_runs import check_interrupted
from tests.uses.correction.conftest import CPU, Corrected, hint, train_corrector


def report(checkpoint: Path, sweep: Path, output: Path, **options: Any) -> Any:
    return report_correction(
        CorrectSettings(
            checkpoint=checkpoint, dir=sweep, split="val", output=output, **CPU, **options
        )
    )


def segment(checkpoint: Path, split: str) -> Any:
    return open_segmented_images(SegmentingSettings(checkpoint=checkpoint, **CPU), split)


class _Answering(nn.Module):
    """Answers with the same label maps, whatever the hints."""

    def __init__(self, segmented: SegmentedImages, maps: np.ndarray) -> None:
        super().__init__()
        self.maps = torch.from_numpy(maps).long()
        self.features = segmented.asked.loader.store.read(segmented.images)

    def forward(self, features: Tensor, questions: Tensor) -> Tensor:
        places = [int((self.features == f).flatten(1).all(1).nonzero()[0]) for f in features]
        return nn.functional.one_hot(self.maps[places], len(LABELS)).movedim(-1, 1).float()


def test_hints_are_the_distinct_mistakes_largest_first(corrected: Corrected) -> None:
    for split in ("train", "val"):
        questions = read_questions(corrected.hints.question_json(split)).questions
        with segment(corrected.base, split) as segmented:
            by_image: dict[int, list[str]] = {}
            for question in questions:
                by_image.setdefault(int(question.image_index or 0), []).append(question.question)
            for place, image in enumerate(segmented.images.tolist()):
                found = mistakes(
                    segmented.predictions[place], segmented.truths[place], segmented.objects[place]
                )
                contents = list(dict.fromkeys(m.content for m in found))
                texts = by_image.get(image, [])
                assert len(texts) == min(5, len(contents))
                for count, text in enumerate(texts, 1):
                    hints = text.split(SEPARATOR)
                    assert len(hints) == count
                    assert texts[-1].startswith(text)
                    label = contents[count - 1][0]
                    assert (LABELS[label] in hints[-1]) == (label != 0)


def test_a_set_of_hints_is_made_once(corrected: Corrected, tmp_path: Path) -> None:
    root = corrected.hints.root
    written = ["hints.json", "questions/*.json", "scenes/*.json"]
    before = {p: p.stat().st_mtime_ns for pattern in written for p in root.glob(pattern)}
    assert len(before) == 5
    assert hint(corrected.base, root) is None
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(UserError, match=r"hints\.json: .* other settings \(hints, seed\)"):
        hint(corrected.base, root, hints=2, seed=1)
    again = DatasetLayout.under(tmp_path / "again")
    hint(corrected.base, again.root)
    again.question_json("val").unlink()  # simulates a lost file
    hint(corrected.base, again.root)
    for path in before:
        assert (again.root / path.relative_to(root)).read_bytes() == path.read_bytes()


def test_a_network_that_obeys_gets_one_hint(corrected: Corrected) -> None:
    vocabulary = Vocabulary.load(corrected.hints.vocabulary)
    with segment(corrected.base, "val") as segmented:
        model = _Answering(segmented, segmented.truths)
        course = correct(segmented, model, vocabulary, hints=3, precision="float32")
    has_mistakes = np.array([len(hints) for hints in course.hints])
    assert set(has_mistakes) <= {0, 1}
    assert course.hinted(1) == has_mistakes.sum() > 0
    assert course.hinted(2) == 0
    for i, hinted in enumerate(has_mistakes):
        expected = segmented.truths if hinted else segmented.predictions
        for k in (1, 2, 3):
            assert np.array_equal(course.predictions[k, i], expected[i])


def test_hints_name_all_mistakes_to_a_network_that_ignores_them(corrected: Corrected) -> None:
    vocabulary = Vocabulary.load(corrected.hints.vocabulary)
    with segment(corrected.base, "val") as segmented:
        model = _Answering(segmented, segmented.predictions)
        course = correct(segmented, model, vocabulary, hints=2, batch_size=3, precision="float32")
        others = correct(segmented, model, vocabulary, hints=1, others=True, precision="float32")
    assert (course.predictions == segmented.predictions).all()
    for i, hints in enumerate(course.hints):
        found = mistakes(segmented.predictions[i], segmented.truths[i], segmented.objects[i])
        assert len(hints) == min(2, len({m.content for m in found}))
    hinted = [hints[0] for hints in course.hints if hints]
    given = [hints[0] for hints in others.hints if hints]
    assert given == hinted[1:] + hinted[:1]


@pytest.mark.parametrize("conditioning", ["film", "guide"])
def test_only_what_reads_hints_is_trained(corrected: Corrected, conditioning: str) -> None:
    before = load_checkpoint(corrected.base)["weights"]
    after = load_checkpoint(corrected.sweep / f"{conditioning}_0/last.pt")["weights"]
    shared = [k for k in after if k in before]
    changed = {
        k.split(".")[0]
        for k in shared
        if after[k].shape != before[k].shape or not torch.equal(after[k], before[k])
    }
    assert changed == {"encoder"}
    assert after["film_generator.decoder.0.weight"].abs().sum() > 0


def test_an_interrupted_correction_ends_with_the_same_bits(
    corrected: Corrected, tmp_path: Path
) -> None:
    def work(folder: Path) -> None:
        train_corrector(folder, corrected, "guide", trainer={"checkpoint_steps": 3})

    check_interrupted(work, tmp_path, (5, 14))


def test_the_report_says_what_each_hint_gains(corrected: Corrected, tmp_path: Path) -> None:
    files, table = report(corrected.base, corrected.sweep, tmp_path, hints=2)
    content = json.loads(files.report.read_text())
    assert list(content["series"]) == ["film", "guide"]
    assert files.table.read_text() == table
    lines = [json.loads(line) for line in files.hints.read_text().splitlines()]
    assert len(lines) == 4 * content["images"]
    for name, series in content["series"].items():
        scores = np.array([line["mean_iou"] for line in lines if line["conditioning"] == name])
        assert series["mean_iou"] == pytest.approx(scores.mean(0), abs=1e-4)
        gain = series["gain"][1]
        assert gain["mean"] == pytest.approx((scores[:, 2] - scores[:, 0]).mean(), abs=1e-4)
        assert gain["low"] <= gain["mean"] <= gain["high"]
        hinted = [sum(len(line["hints"]) >= k for line in lines if line["conditioning"] == name) / 2
                  for k in (1, 2)]  # fmt: skip
        assert series["images_hinted"] == hinted
        assert f"| {name} | 2 | {100 * series['mean_iou'][2]:.1f} |" in table
    contrast = content["contrasts"]["guide - film"][1]["mean"]
    means = [series["mean_iou"][2] for series in content["series"].values()]
    assert contrast == pytest.approx(means[1] - means[0])
    for figure in (files.courses, files.examples):
        assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_first_score_is_that_of_the_evaluation(corrected: Corrected, tmp_path: Path) -> None:
    files, content = evaluate_checkpoint(
        EvaluateSettings(checkpoint=corrected.base, split="val", output=tmp_path, **CPU)
    )
    assert content is not None
    assert content["targets"] == "label_maps"
    assert content["by_class"].keys() == set(LABELS)
    with segment(corrected.base, "val") as segmented:
        of_image = image_ious(
            torch.from_numpy(segmented.predictions), torch.from_numpy(segmented.truths)
        )
        records = [json.loads(line) for line in files.predictions.read_text().splitlines()]
        for record in records:
            place = segmented.images.tolist().index(record["image_index"])
            runs = [label for label, count in record["labels"]["runs"] for _ in range(count)]
            assert runs == segmented.predictions[place].flatten().tolist()
            assert record["mean_iou"] == pytest.approx(float(of_image[place]))


def test_a_correction_is_reported_without_figures_that_cannot_be_drawn(
    corrected: Corrected, tmp_path: Path, no_figures: None, capsys
) -> None:
    files, _ = report(corrected.base, corrected.sweep, tmp_path, hints=1)
    assert files.report.exists()
    assert not files.courses.exists()
    assert capsys.readouterr().err.count("; continuing without it") == 2


def test_what_cannot_be_corrected_is_refused(
    corrected: Corrected, trained_answers: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"makes no label maps; give a network of model=film_lab"):
        hint(trained_answers, tmp_path / "hints", splits=["val"])
    with pytest.raises(UserError, match="language acts on this network"):
        report(corrected.sweep / "film_0", corrected.sweep, tmp_path)
    with pytest.raises(UserError, match="no runs in it"):
        report(corrected.base, tmp_path / "none", tmp_path)
    sweep = tmp_path / "sweep"
    for run in ("film_0", "film_1", "guide_0"):
        shutil.copytree(corrected.sweep / run, sweep / run)
    with pytest.raises(UserError, match=r"guide have the seeds \[0\], those of film \[0, 1\]"):
        report(corrected.base, sweep, tmp_path)
    (sweep / "guide_0/best.pt").write_bytes(b"")
    shutil.copytree(corrected.sweep / "guide_1", sweep / "guide_1")
    with pytest.raises(UserError, match=r"guide_0/best\.pt"):
        report(corrected.base, sweep, tmp_path)


def test_the_first_rows_of_images() -> None:
    images, rows = find_first_rows(torch.tensor([7, 3, 3, 9, 7]))
    assert images.tolist() == [3, 7, 9]
    assert rows.tolist() == [1, 0, 3]
