from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.studies.bootstrap import Difference, estimate_difference
from filmvqa.studies.claims import Claim, find_runs, read_claim
from filmvqa.studies.judging import (
    Setting,
    group_settings,
    judge,
    judge_difference,
)
from filmvqa.studies.laboratory import ClaimReport, list_verdicts, report_claim
from filmvqa.studies.raw_results import score_run
from filmvqa.studies.verdicts import list_sentences
from filmvqa.system.errors import UserError
from tests.studies.test_sweeps import write_run

pytestmark = pytest.mark.filterwarnings("error")

CLAIM = {
    "title": "Weight decay", "claim": "It helps.", "source": "somebody",
    "sweeps": {"decay": ["sweep=weight_decay"]}, "runs": 6, "minutes": 2,
    "keys": [{"key": "optim.weight_decay", "name": "weight decay"}],
    "contrasts": [{"text": "some - none", "first": {"optim.weight_decay": 0.1},
                   "second": {"optim.weight_decay": 0.0}, "claimed": 10}],
}  # fmt: skip


def make_claim(folder: Path, **changes: Any) -> Claim:
    path = folder / "decay.yaml"
    path.write_text(yaml.safe_dump(CLAIM | changes))
    return read_claim(path)


def report(folder: Path, **changes: Any) -> tuple[ClaimReport, str]:
    """Report the claim; return the report and the page."""
    claim = make_claim(folder, **changes)
    split = claim.split or "test"
    found = report_claim(claim, folder, folder / "kept", folder / "out", split, 0.01)
    return found, (folder / "out/decay.md").read_text()


def find_settings(folder: Path, **changes: Any) -> tuple[Claim, list[Setting]]:
    claim = make_claim(folder, **changes)
    runs = [score_run(run, "test", folder) for run in find_runs(claim, folder)]
    return claim, group_settings(claim, runs)


def write_scored_run(folder: Path, correct: list[bool], **config: Any) -> None:
    """Write a run with test predictions, correct or not, about images with three questions each."""
    write_run(folder, 0.9, 0.8, **config)
    run = folder / ",".join(f"{k}={v}" for k, v in config.items())
    (run / "best.pt").touch()
    rows = [
        {"question_index": i, "image_index": i // 3, "answer": "yes" if c else "no", "truth": "yes"}
        for i, c in enumerate(correct)
    ]
    (run / "evaluation").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "evaluation/test_predictions.jsonl").write_text(lines)


def write_decay(
    folder: Path, decay: float, seed: int, correct: list[bool], lr: float = 0.1
) -> None:
    config = {"optim.weight_decay": decay, "seed": seed, "optim.lr": lr}
    write_scored_run(folder / "decay", correct, **config)


def write_decays(folder: Path) -> None:
    """Write three seeds with weight decay, each of which answers 80 of 90 questions correctly, and
    three without, which answer 70, 71 and 72."""
    for seed in range(3):
        for decay, count in ((0.1, 80), (0.0, 70 + seed)):
            write_decay(folder, decay, seed, [i * 37 % 90 < count for i in range(90)])


def simulated(
    generator: np.random.Generator, seeds: int, gain: float = 0.0, seed_spread: float = 0.15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulate two networks that differ by ``gain`` in log odds, with random difficulties of images
    and seeds."""
    images, per_image = 200, 6
    image = np.repeat(np.arange(images), per_image)
    ease = generator.normal(1.0, 0.7, images)[image]
    of_seed = generator.normal(0.0, seed_spread, (2, seeds, 1)) + np.array([[[gain]], [[0.0]]])
    chance = 1 / (1 + np.exp(-(ease + of_seed)))
    first, second = generator.random(chance.shape) < chance
    return first, second, image


@pytest.mark.parametrize("seed_spread", [0.15, 0.5])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_no_difference_as_often_as_they_say(seeds: int, seed_spread: float) -> None:
    """95% of 400 pairs of equal networks, within three standard errors. With the larger spread,
    seeds differ by much more than the chance of single questions."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        networks = simulated(generator, seeds, seed_spread=seed_spread)
        difference = estimate_difference(*networks, resamples=500)
        held += difference.low <= 0 <= difference.high
    assert 0.918 <= held / 400 <= 0.983


def test_an_interval_is_that_of_students_t_where_seeds_alone_differ() -> None:
    gains = np.array([0.1, 0.3, 0.8])
    images = np.arange(50)
    first = np.repeat(gains[:, None], 50, 1)
    difference = estimate_difference(first, np.zeros_like(first), images, resamples=100_000)
    half = 4.303 * gains.std(ddof=1) / np.sqrt(3)
    assert difference.mean == pytest.approx(0.4)
    assert difference.high - difference.mean == pytest.approx(half, rel=0.02)
    assert difference.mean - difference.low == pytest.approx(half, rel=0.02)


def test_a_clear_difference_is_found() -> None:
    difference = estimate_difference(*simulated(np.random.default_rng(1), 5, gain=1.0))
    assert 0.05 < difference.low < difference.mean < difference.high < 0.4


def test_the_interval_of_one_seed_is_that_over_images() -> None:
    """Compare it with the normal interval of a mean over images."""
    first, second, image = simulated(np.random.default_rng(2), 1)
    difference = estimate_difference(first, second, image)
    gains = (first[0].astype(float) - second[0]).reshape(200, 6).mean(1)
    half = 1.96 * gains.std(ddof=1) / np.sqrt(200)
    assert difference.mean == pytest.approx(gains.mean())
    assert difference.high - difference.low == pytest.approx(2 * half, rel=0.1)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_differences_turn_round(seeds: int, questions: int, number: int) -> None:
    """Exchanging the networks negates the difference; equal networks have none."""
    generator = np.random.default_rng(number)
    first, second = generator.random((2, seeds, questions)) < 0.6
    image = np.sort(generator.integers(0, 5, questions)) * 7
    there = estimate_difference(first, second, image, resamples=50)
    back = estimate_difference(second, first, image, resamples=50)
    assert there.mean == pytest.approx(first.mean() - second.mean())
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low - 1e-9 <= there.high
    assert estimate_difference(first, first, image, resamples=50) == Difference(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "expected", "claimed", "verdict"),
    [
        (0.02, 0.09, "more", None, "shows"),
        (-0.09, -0.02, "more", None, "the opposite"),
        (-0.02, 0.005, "more", None, "does not show"),
        (-0.02, 0.05, "more", None, "cannot be told"),
        (-0.009, 0.009, "same", None, "shows"),
        (0.011, 0.03, "same", None, "does not show"),
        (-0.03, -0.011, "same", None, "does not show"),
        (-0.03, 0.009, "same", None, "cannot be told"),
        (-0.03, 0.009, "no more", None, "shows"),
        (-0.03, 0.02, "no more", None, "cannot be told"),
        (0.011, 0.02, "no more", None, "does not show"),
        (0.005, 0.09, "more", None, "shows"),
        (0.02, 0.08, "more", 10, "shows, but less"),
        (0.02, 0.08, "more", 4, "shows"),
        (0.02, 0.08, "more", 1, "shows, and more"),
        (-0.02, 0.08, "more", 10, "cannot be told"),
    ],
)
def test_verdicts(
    low: float, high: float, expected: str, claimed: float | None, verdict: str
) -> None:
    difference = Difference((low + high) / 2, low, high)
    assert judge_difference(difference, expected, 0.01, claimed) == verdict


def test_each_part_of_a_claim_has_a_contrast_that_decides_it(tmp_path: Path) -> None:
    """A part whose runs are missing is not run; no other contrast decides it."""
    write_decays(tmp_path)
    (found,) = CLAIM["contrasts"]
    missing = found | {"text": "much - none", "first": {"optim.weight_decay": 0.5}}
    contrasts = [missing | {"decides": "Much helps."}, found, found | {"decides": "Some helps."}]
    of_parts, page = report(tmp_path, contrasts=contrasts)
    rows = list_verdicts(of_parts)
    assert [(row.claim, row.verdict) for row in rows] == [
        ("Much helps.", "not run yet"), ("Some helps.", "shows"),
    ]  # fmt: skip
    assert rows[0].measured == ""
    assert rows[1].measured.startswith("+10.0 (+")
    assert "| much - none | +10 |  | not run yet |" in page
    of_first, _ = report(tmp_path, contrasts=[missing, found])
    (row,) = list_verdicts(of_first)
    assert (row.measured, row.verdict) == ("", "not run yet")


def test_a_network_on_its_plateau_is_not_judged(tmp_path: Path) -> None:
    """The runs of ``write_decays`` end at a training accuracy of 90%."""
    write_decays(tmp_path)
    for plateau, verdict in ((95, "still on its plateau"), (85, "shows")):
        outcomes = report(tmp_path, plateau=plateau)[0].outcomes
        assert [outcome.verdict for outcome in outcomes] == [verdict]


def test_common_seeds_are_compared_and_one_is_not_judged(tmp_path: Path) -> None:
    write_decays(tmp_path)
    write_decay(tmp_path, 0.1, 7, [True] * 90)
    claim, settings = find_settings(tmp_path)
    (outcome,) = judge(claim, settings, 0.01)
    assert outcome.seeds == [0, 1, 2]
    first = [replace(setting, runs=setting.runs[:1]) for setting in settings]
    (outcome,) = judge(claim, first, 0.01)
    assert outcome.verdict == "too few seeds"
    assert outcome.difference.low > 0


def test_a_claim_is_reported(tmp_path: Path) -> None:
    write_decays(tmp_path)
    of_claim, page = report(tmp_path, note="Settled beforehand.")
    assert "\n\nSettled beforehand.\n\n" in page
    header = "| weight decay | seeds | training, at the end | training | validation | test | gap |"
    assert header in page
    assert "| 0 | 3 | 90.0 | 90.0 | 80.0 | 78.9 ± 1.1 | +11.1 |" in page
    assert "| 0.1 | 3 | 90.0 | 90.0 | 80.0 | 88.9 ± 0.0 | +1.1 |" in page
    assert re.search(r"\| some - none \| \+10 \| \+10\.0 \(\+\d.* to \+1\d.*\) \| shows \|", page)
    assert "6 of 6 runs" in page
    for name in ("decay", "decay_courses"):
        with Image.open(tmp_path / f"out/{name}.png") as image:
            assert image.width == 960
    sentences = list_sentences(list_verdicts(of_claim))
    assert "- *It helps* (somebody): **shows**. some - none: +10.0 (+" in sentences
    assert " points, where the source has +10 (3 seeds; the page has 6 runs, 0.0 h)." in sentences


def test_a_claim_is_reported_without_figures_that_cannot_be_drawn(
    tmp_path: Path, no_figures: None, capsys
) -> None:
    write_decays(tmp_path)
    report(tmp_path)
    assert (tmp_path / "kept/decay.csv").exists()
    errors = capsys.readouterr().err
    assert errors.count("warning: ") == errors.count("; continuing without it") == 2


def test_labels_a_curve_along_an_axis_and_question_types(tmp_path: Path) -> None:
    write_decays(tmp_path)
    key = "optim.weight_decay"
    keys = [CLAIM["keys"][0] | {"labels": {"0": "without"}}]
    _, page = report(tmp_path, keys=keys, axis=key, panels=key, by_type=True)
    assert "| count, validation | exist, validation |" in page
    assert "| without | 3 |" in page


def test_masks_are_compared_by_their_iou(tmp_path: Path) -> None:
    """All networks draw the first of two masks correctly, and half of the second with decay."""
    for seed in range(3):
        for decay in (0.1, 0.0):
            write_decay(tmp_path, decay, seed, [True] * 2)
    for path in tmp_path.rglob("metrics.jsonl"):
        path.write_text(path.read_text().replace("_accuracy", "_mean_iou"))
    mask = {"size": [2, 2], "counts": [4]}
    for path in tmp_path.rglob("test_predictions.jsonl"):
        iou = 0.5 if "weight_decay=0.1" in str(path) else 0.0
        path.write_text("".join(
            json.dumps({"question_index": i, "image_index": i, "mask": mask, "iou": value}) + "\n"
            for i, value in enumerate((1.0, iou))
        ))  # fmt: skip
    of_masks, page = report(tmp_path)
    (outcome,) = of_masks.outcomes
    assert outcome.difference.mean == pytest.approx(0.25)
    assert "| 75.0 ± 0.0 |" in page
    assert "Scores are the mean IoU in percent" in page


def test_the_papers_results_stand_beside(tmp_path: Path) -> None:
    for name in ("film", "lstm"):
        write_scored_run(tmp_path / "decay", [True] * 90, **{"model.name": name, "seed": 0})
    keys = [{"key": "model", "name": "model", "values": ["lstm", "film"]}]
    _, page = report(tmp_path, keys=keys, contrasts=[], paper="models", by_type=True)
    assert "| gap | paper, CLEVR | count, validation |" in page
    assert "| 46.8 |" in page.split("| lstm |")[1].split("\n")[0]
    assert "the paper's |  |  |  |  |  |  |  | 94.3 | 99.1 | 96.8 | 99.1 | 99.1 |" in page


def test_macs_published_curve_stands_beside(tmp_path: Path) -> None:
    for name in ("film", "mac"):
        for fraction in (0.05, 0.1, 1.0):
            config = {"model.name": name, "data.fraction": fraction, "seed": 0}
            write_scored_run(tmp_path / "decay", [True] * 90, **config)
    keys = [{"key": "model", "name": "model"}, {"key": "data.fraction", "name": "fraction"}]
    changes = {"contrasts": [], "paper": "data_efficiency", "axis": "data.fraction"}
    _, page = report(tmp_path, keys=keys, **changes)
    rows = [re.split(r" *\| *", line) for line in page.splitlines()
            if line.startswith(("| film ", "| mac "))]  # fmt: skip
    assert [(row[1], row[2], row[-2]) for row in rows] == [
        ("film", "0.05", ""), ("film", "0.1", ""), ("film", "1", ""),
        ("mac", "0.05", ""), ("mac", "0.1", "86.0"), ("mac", "1", "98.9"),
    ]  # fmt: skip


def test_a_claim_without_runs(tmp_path: Path) -> None:
    """Also if a sweep was killed before its first evaluation."""
    (tmp_path / "decay/seed@0").mkdir(parents=True)
    of_claim, page = report(tmp_path)
    assert "Nothing was trained yet." in page
    assert "**not run yet**" in list_sentences(list_verdicts(of_claim))
    assert not (tmp_path / "kept/decay.csv").exists()


def test_runs_that_are_not_what_the_claim_is_about(tmp_path: Path) -> None:
    """Settings that the claim leaves out are ignored; a run that differs from others of its setting
    is refused, also if the others are read from the raw results."""
    write_decays(tmp_path)
    write_decay(tmp_path, 0.5, 0, [True] * 90)
    keys = [CLAIM["keys"][0] | {"values": [0.1, 0.0]}]
    settings = report(tmp_path, keys=keys)[0].settings
    assert [s.values["optim.weight_decay"] for s in settings] == [0.1, 0.0]
    write_decay(tmp_path, 0.1, 9, [True] * 90, lr=0.3)
    with pytest.raises(UserError, match=r"in optim\.lr, which the claim decay does not vary"):
        find_settings(tmp_path, keys=keys)
    for run in (tmp_path / "decay").glob("optim.weight_decay=0.1,*,optim.lr=0.1"):
        shutil.rmtree(run)
    with pytest.raises(UserError, match=r"in optim\.lr, which the claim decay does not vary"):
        report(tmp_path, keys=keys)


def test_networks_that_were_asked_other_questions_are_not_compared(tmp_path: Path) -> None:
    write_decay(tmp_path, 0.1, 0, [True] * 90)
    write_decay(tmp_path, 0.0, 0, [True] * 60)
    with pytest.raises(UserError, match="test questions are not those of"):
        judge(*find_settings(tmp_path), 0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": 0}, "runs=0: must be a whole number from 1"),
        ({"key": "x"}, "key: no such key; did you mean keys?"),
        ({"contrasts": [{"text": "x", "first": {}, "second": {}, "expectd": "same"}]},
         "contrasts.expectd: no such key; did you mean contrasts.expected?"),
        ({"keys": []}, "keys=.*at least one"),
        ({"axis": "optim.lr"}, "axis: optim.lr is not one of its keys, optim.weight_decay"),
        ({"panels": "weight_decay"}, "panels: weight_decay is not one of its keys"),
        ({"contrasts": [{"text": "x", "first": {"decay": 0.1}, "second": {}}]},
         "contrasts: decay is not one of its keys"),
    ],
)  # fmt: skip
def test_a_claim_with_a_slip_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"decay.yaml: {message}"):
        make_claim(tmp_path, **changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_index": 3}', r"test_predictions.jsonl: line 1: has no .*`answer`"),
        ('{"question_index": 3, "image_index": 1, "answer": "yes"}',
         r"test_predictions.jsonl: question 3 has no true answer"),
    ],
)  # fmt: skip
def test_predictions_that_cannot_be_scored_are_named(
    tmp_path: Path, line: str, message: str
) -> None:
    write_decays(tmp_path)
    path = next(tmp_path.rglob("test_predictions.jsonl"))
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        find_settings(tmp_path)
