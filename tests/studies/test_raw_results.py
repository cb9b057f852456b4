"""Raw results: rows of runs, pages that are drawn anew from them, and the verdicts of all pages."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from PIL import Image

from filmvqa.studies.claims import read_claim
from filmvqa.studies.laboratory import BY_HAND, ClaimReport, list_verdicts, report_claim
from filmvqa.studies.raw_results import find_complete, read_kept_runs
from filmvqa.studies.verdicts import draw_forest, keep_verdicts, read_verdicts
from filmvqa.system.errors import UserError
from tests.studies.test_laboratory import (
    CLAIM,
    make_claim,
    report,
    write_decay,
    write_decays,
)

pytestmark = pytest.mark.filterwarnings("error")


def write_provenance(folder: Path, pattern: str, commit: str, processor: str) -> None:
    where = {"commit": commit, "clean": True, "device": "cpu", "processor": processor,
             "instructions": "AVX2", "threads": 1, "torch": "2.9.0+cpu"}  # fmt: skip
    for run in folder.glob(f"decay/{pattern}"):
        (run / "provenance.json").write_text(json.dumps({"environments": [where]}))


def redraw(folder: Path, **changes: Any) -> tuple[ClaimReport, str]:
    """Report only the raw results; return the report and the page."""
    folders = (folder / "no runs", folder / "kept", folder / "redrawn")
    claim_report = report_claim(make_claim(folder, **changes), *folders, "test", 0.01, redraw=True)
    return claim_report, (folder / "redrawn/decay.md").read_text()


def test_pages_are_drawn_anew_from_raw_results_alone(tmp_path: Path) -> None:
    """Numbers, intervals and courses are the same; only the rows' origin differs."""
    write_decays(tmp_path)
    for path in tmp_path.rglob("config.yaml"):
        path.write_text(path.read_text() + "trainer: {batch_size: 128}\n")
    report_, page = report(tmp_path, by_type=True, plateau=60)
    written = (tmp_path / "kept/decay.csv").read_text()
    again, drawn = redraw(tmp_path, by_type=True, plateau=60)
    assert again.outcomes == report_.outcomes
    assert drawn == page.replace("0 read from", "6 read from")
    for name in ("decay.png", "decay_courses.png"):
        assert (tmp_path / "redrawn" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert (tmp_path / "kept/decay.csv").read_text() == written


def test_raw_results_have_a_row_for_each_run(tmp_path: Path) -> None:
    write_decays(tmp_path)
    write_provenance(tmp_path, "*", "0123456789abcdef", "EPYC")
    report(tmp_path)
    with (tmp_path / "kept/decay.csv").open() as stream:
        first, *others = csv.DictReader(stream)
    assert len(others) == 5
    assert first["run"] == "decay/optim.weight_decay=0.0,seed=0,optim.lr=0.1"
    assert (first["optim.weight_decay"], first["seed"]) == ("0.0", "0")
    assert (first["commit"], first["machine"]) == (
        "0123456789", "EPYC, AVX2, 1 thread, torch 2.9.0",
    )  # fmt: skip
    assert (first["steps"], first["seconds"], first["test"]) == ("20", "10", "0.777778")
    assert json.loads(first["val_by_type"]) == {"count": 0.25, "exist": 0.5}
    assert first["course"] == "10 6 0.99 0.7;20 10 0.9 0.8"
    assert json.loads(first["settings"])["optim.lr"] == 0.1
    right = list(map(int, first["test_by_image"].split()))
    assert (len(right), sum(right)) == (30, 70)


def test_rows_of_another_machine_are_named(tmp_path: Path) -> None:
    """Stored runs, and a new run of another seed."""
    write_decays(tmp_path)
    write_provenance(tmp_path, "*", "a" * 40, "Zen 3")
    _, page = report(tmp_path)
    assert "machines are on this page" not in page
    assert "- 6 runs, 0.0 h, of commit aaaaaaaaaa on Zen 3, AVX2, " in page
    shutil.rmtree(tmp_path / "decay")
    write_decay(tmp_path, 0.1, 7, [True] * 90)
    write_provenance(tmp_path, "*", "b" * 40, "Zen 4")
    _, page = report(tmp_path)
    assert "**Runs of 2 machines are on this page.**" in page
    assert re.search(r"- 6 runs, .*aaa on Zen 3.*, 6 read from the raw results: rows \(seeds\): "
                     r"weight decay 0 \(0, 1, 2\); weight decay 0.1 \(0, 1, 2\)\n", page)  # fmt: skip
    assert re.search(r"- 1 runs, .*bbb on Zen 4.*, 0 read .*: weight decay 0.1 \(7\)\n", page)
    assert len((tmp_path / "kept/decay.csv").read_text().splitlines()) == 8


def test_kept_runs_of_another_claim_are_reported_too(tmp_path: Path) -> None:
    """Claims share runs; a default value is not written, and is restored."""
    write_decays(tmp_path)
    report(tmp_path)
    claim = tmp_path / "rate.yaml"
    keys = [{"key": "optim.lr", "name": "rate"}]
    where = {"optim.weight_decay": 0.1, "trainer.patience": 5}
    changes = {"keys": keys, "where": where, "contrasts": [], "runs": 3}
    claim.write_text(yaml.safe_dump(CLAIM | changes))
    runs = read_kept_runs(tmp_path / "kept", read_claim(claim), "test")
    assert [(run.seed, run.run.config["optim.lr"]) for run in runs] == [(i, 0.1) for i in range(3)]
    assert not read_kept_runs(tmp_path / "kept", read_claim(claim), "val")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"optim.lr"', "optim.lr"), ("20 10 0.9", "20 ten 0.9"), (",0,,,test", ",zero,,,test"),
     ("3 2 2 3 ", "")],
)  # fmt: skip
def test_a_broken_row_of_raw_results_is_named(tmp_path: Path, old: str, new: str) -> None:
    write_decays(tmp_path)
    report(tmp_path)
    path = tmp_path / "kept/decay.csv"
    text = path.read_text().replace('""', '"') if old.startswith('"') else path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=r"decay.csv: line 2: is no row of a run"):
        redraw(tmp_path)


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    write_decays(tmp_path)
    report(tmp_path)
    with (tmp_path / "out/decay.md").open("a") as stream:
        stream.write(f"\n{BY_HAND}\nIt shows.\n")
    _, page = report(tmp_path)
    assert page.endswith(f"\n\n{BY_HAND}\nIt shows.\n")
    assert report(tmp_path)[1] == page


def test_verdicts_of_other_pages_stay_and_a_forest_is_drawn(tmp_path: Path) -> None:
    """Also a verdict whose runs are gone, until they are run again."""
    write_decays(tmp_path)
    rows = list_verdicts(report(tmp_path)[0])
    other = msgspec.structs.replace(rows[0], page="rate", world="two_cores", claimed=None)
    keep_verdicts(tmp_path, [other])
    merged = keep_verdicts(tmp_path, rows)
    assert merged == [*rows, other] == read_verdicts(tmp_path)
    lost = msgspec.structs.replace(rows[0], difference=None, seeds=0, verdict="not run yet")
    assert keep_verdicts(tmp_path, [lost]) == merged
    draw_forest(merged, tmp_path / "forest.png")
    with Image.open(tmp_path / "forest.png") as image:
        assert image.width == 1320
    (tmp_path / "verdicts.csv").write_text("page,claim\nx,y\n")
    with pytest.raises(UserError, match=r"verdicts.csv: line 2: .*missing required field"):
        read_verdicts(tmp_path)


def test_runs_are_compared_with_changes_of_gamma_and_beta(tmp_path: Path) -> None:
    """Each run counts once, and has a score for each of the claim's changes."""
    for seed in range(3):
        write_decay(tmp_path, 0.1, seed, [False] * 90)
        run = tmp_path / f"decay/optim.weight_decay=0.1,seed={seed},optim.lr=0.1"
        lines = (run / "evaluation/test_predictions.jsonl").read_text()
        for name, text in (("0.5", lines.replace('"no"', '"yes"')), ("2.0", lines)):
            (run / f"evaluation/gamma_beta_scale_{name}").mkdir()
            path = run / f"evaluation/gamma_beta_scale_{name}/val_predictions.jsonl"
            path.write_text(text)
    changes = {
        "split": "val", "film": [{"scale": 0.5}, {"scale": 2.0}],
        "keys": [{"key": "film.scale", "name": "scale"}],
        "contrasts": [{"text": "half - twice", "first": {"film.scale": 0.5},
                       "second": {"film.scale": 2.0}}],
    }  # fmt: skip
    found, page = report(tmp_path, **changes)
    assert (len(found.runs), len(found.settings)) == (3, 2)
    assert found.outcomes[0].difference.mean == 1
    assert "3 of 6 runs" in page
    claim = make_claim(tmp_path, **changes)
    kept = report_claim(claim, tmp_path, tmp_path / "kept", tmp_path / "new", "val", 0.01, True)
    assert kept.outcomes == found.outcomes
    assert read_kept_runs(tmp_path / "kept", make_claim(tmp_path, split="val"), "val") == []
    # A run that lacks one of the changes is trained and evaluated again.
    runs = read_kept_runs(tmp_path / "kept", claim, "val")
    names = {run.name for run in runs}
    assert (len(runs), len(names), find_complete(runs, claim)) == (6, 3, names)
    assert find_complete(runs[1:], claim) == names - {runs[0].name}
