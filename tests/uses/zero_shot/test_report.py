"""The report on arithmetic, from evaluations that are written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from filmvqa.uses.zero_shot.report import ARMS, COGENT, DIRECT, draw_arms, report_zero_shot


def write_evaluation(run: Path, split: str, right: dict[int, bool], change: str = "") -> None:
    """Write whether each question is answered correctly; images have four questions each."""
    folder = run / "evaluation" / change
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question_index": i, "image_index": i // 4, "answer": "yes", "truth": "yes" if r else "no"}
        for i, r in right.items()
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}_predictions.jsonl").write_text(text)


def test_the_report_compares_the_questions_concerned(tmp_path: Path) -> None:
    """Every second of 200 questions is rewritten. The network answers half of these correctly, and
    arithmetic all. The first 40 questions are left out for the fine-tuned network."""
    film, tuned = tmp_path / "film", tmp_path / "tuned"
    concerned = {i: i % 4 == 0 for i in range(0, 200, 2)}
    write_evaluation(film, "valA", dict.fromkeys(range(100), True))
    write_evaluation(film, "valB", {i: concerned.get(i, True) for i in range(200)})
    write_evaluation(tuned, "valB", dict.fromkeys(range(40, 200), True))
    for arm in ARMS:
        right = dict.fromkeys(concerned, True) if arm == COGENT else concerned
        write_evaluation(film, "valB", right, arm)
    for arm in (DIRECT, COGENT):
        write_evaluation(film, "valA", dict.fromkeys(range(0, 100, 2), True), f"{arm}_has")
    report, table = report_zero_shot(film, {"fine-tuned on B": tuned}, "valA", "valB")
    assert (report["questions"], report["concerned"]) == (160, 80)
    assert report["accuracy"][DIRECT] == pytest.approx({"all": 0.75, "concerned": 0.5})
    assert report["accuracy"][COGENT] == pytest.approx({"all": 1.0, "concerned": 1.0})
    assert report["gain"]["mean"] == pytest.approx(0.5)
    assert report["gain"]["verdict"] == report["not_needed"]["verdict"] == "shows"
    assert "fine-tuned on B" in table
    json.dumps(report)
    draw_arms(report, tmp_path / "arms.png")
    assert (tmp_path / "arms.png").stat().st_size > 10_000
