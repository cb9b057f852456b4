from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from filmvqa.cli.ablations import read_ablations
from filmvqa.studies.paper_results import ABLATIONS, COLUMNS, TEST_ACCURACY
from filmvqa.studies.sweep_report import report_sweep
from filmvqa.studies.sweeps import format_value, read_runs, summarize
from filmvqa.system.errors import UserError
from filmvqa.system.layout import RunLayout
from filmvqa.training.curves import draw_curves, update_curves
from filmvqa.worlds.engine.programs import QUESTION_TYPES

ACCURACY_BY_TYPE = {"count": 0.25, "exist": 0.5}


def write_run(folder: Path, train: float, val: float, **config: Any) -> None:
    """Write the folder of a run with a config and two evaluations; the second is the best."""
    path = folder / ",".join(f"{k}={v}" for k, v in config.items())
    path.mkdir(parents=True)
    nested: dict[str, Any] = {}
    for key, value in config.items():
        node = nested
        *groups, name = key.split(".")
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    (path / "config.yaml").write_text(yaml.safe_dump(nested))
    records = [
        {"step": 5, "loss": 1.0},
        {"step": 10, "val_accuracy": val - 0.1, "train_accuracy": 0.99, "gap": 0.0, "seconds": 6.0},
        {
            "step": 20, "val_accuracy": val, "train_accuracy": train, "gap": train - val,
            "val_by_type": ACCURACY_BY_TYPE, "seconds": 10.0,
        },
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_when_accuracies_were_reached(tmp_path: Path) -> None:
    """Two runs reach 0.6, at steps 20 and 10; one reaches 0.85; none reaches 0.95."""
    for seed, val in ((0, 0.9), (1, 0.65)):
        write_run(tmp_path, 0.9, val, **{"optim.lr": 0.1, "trainer.batch_size": 100, "seed": seed})
    table = report_sweep(tmp_path, key="optim.lr", reach=[0.6, 0.85, 0.95])
    header, _, row = table.splitlines()
    assert header.endswith("| to 60% | to 85% | to 95% |")
    assert row.endswith("| 2, 8 s | 2, 10 s (1 of 2) |  |")


def test_a_sweep_becomes_table_and_figure(tmp_path: Path) -> None:
    for decay, seed, train, val in (
        (0.0, 0, 0.95, 0.60), (1e-5, 0, 0.9, 0.80), (1e-5, 1, 0.8, 0.70), (1e-3, 0, 0.5, 0.5),
    ):  # fmt: skip
        write_run(
            tmp_path, train, val, **{"optim.weight_decay": decay, "optim.lr": 0.1, "seed": seed}
        )
    sweep = summarize(read_runs(tmp_path))
    assert (sweep.key, sweep.series_key) == ("optim.weight_decay", None)
    assert [p.value for p in sweep.points] == [0.0, 1e-5, 1e-3]
    assert [len(p.runs) for p in sweep.points] == [1, 2, 1]
    assert sweep.points[1].val == pytest.approx(0.75)
    assert sweep.points[1].val_spread == pytest.approx(0.0707, abs=1e-4)
    assert sweep.points[0].gap == pytest.approx(0.35)
    table = report_sweep(tmp_path)
    assert table == (tmp_path / "report.md").read_text()
    assert "| 1e-5 | 2 | 85.00 | 75.00 ± 7.07 | +10.00 |" in table
    with (tmp_path / "report.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(r["val_accuracy"]) for r in rows] == [0.6, 0.75, 0.5]
    assert float(rows[0]["count"]) == 0.25
    with Image.open(tmp_path / "report.png") as image:
        assert image.size == (900, 600)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), ([], "–"), ([128, 128], "[128, 128]"), ("adam", "adam"), (3, "3"), (0.0, "0"),
        (1.0, "1"), (0.1, "0.1"), (2e-3, "0.002"), (1e-3, "1e-3"), (1e-4, "1e-4"), (2.5e-5, "2.5e-5"),
        (-1e-6, "-1e-6"),
    ],
)  # fmt: skip
def test_values_as_tables_have_them(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_words_are_rows_and_two_models_over_fractions_are_curves(tmp_path: Path) -> None:
    for name in ("gru", "lstm"):
        write_run(tmp_path / "words", 0.6, 0.5, **{"model.generator.decoder": name})
    assert "| gru | 1 | 60.00 | 50.00 | +10.00 |" in report_sweep(tmp_path / "words")
    for name, lr in (("film", 2e-3), ("mac", 1e-3)):
        for fraction in (1.0, 0.1, 0.25):
            config = {"model.name": name, "data.fraction": fraction, "optim.lr": lr}
            write_run(tmp_path / "models", 0.9, fraction, **config)
    sweep = summarize(read_runs(tmp_path / "models"))
    assert (sweep.key, sweep.series_key) == ("data.fraction", "model")
    assert [(p.series, p.value) for p in sweep.points] == [
        (name, f) for name in ("film", "mac") for f in (0.1, 0.25, 1.0)
    ]
    assert "| mac | 0.25 | 1 | 90.00 | 25.00 | +65.00 |" in report_sweep(tmp_path / "models")


def test_data_that_were_moved_meanwhile_are_not_what_a_sweep_varied(tmp_path: Path) -> None:
    for lr, root in ((0.1, "here"), (0.2, "there")):
        write_run(tmp_path / "moved", 0.9, 0.5, **{"optim.lr": lr, "data.root": root})
    assert summarize(read_runs(tmp_path / "moved")).key == "optim.lr"
    for root in ("one", "other"):
        write_run(tmp_path / "sets", 0.9, 0.5, **{"optim.lr": 0.1, "data.root": root})
    assert summarize(read_runs(tmp_path / "sets")).key == "data.root"


def test_ablations_are_compared_with_the_paper(tmp_path: Path) -> None:
    for name, val in (("no_film_1_4", 0.3), ("none", 0.9), ("beta_zero", 0.88), ("own", 0.5)):
        write_run(tmp_path, 0.9, val, **{"ablation": name, "model.block.film_position": name})
    table = report_sweep(tmp_path)
    lines = [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]]
    assert lines == ["none", "beta_zero", "no_film_1_4", "own"]
    assert "| beta_zero | 1 | 90.00 | 88.00 | +2.00 | 96.9 | -2.0 | -0.5 |" in table
    assert "| own | 1 | 90.00 | 50.00 | +40.00 |  | -40.0 |  |" in table


def test_models_are_compared_with_the_paper_by_question_type(tmp_path: Path) -> None:
    for name, backbone in (("mac", "x"), ("film", "x"), ("film", "pixels"), ("mine", "x")):
        write_run(tmp_path, 0.9, 0.8, **{"model.name": name, "data.backbone.name": backbone})
    table = report_sweep(tmp_path)
    assert "| human | paper, on CLEVR | 92.6 | 86.7 | 96.6 | 86.5 | 95.0 | 96.0 |" in table
    assert "| film_pixels | ours | 80.0 | 25.0 | 50.0 |  |  |  |" in table
    assert table.index("| film | ours") < table.index("| mac | ours") < table.index("| mine | ours")


def test_the_published_results_are_complete() -> None:
    assert ("overall", *QUESTION_TYPES) == COLUMNS
    assert all(len(row) == 6 for row in TEST_ACCURACY.values())
    assert ABLATIONS.keys() <= read_ablations().keys()


def test_a_sweep_without_runs_or_a_varied_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs in it"):
        read_runs(tmp_path)
    write_run(tmp_path, 0.9, 0.6, **{"optim.lr": 0.1})
    with pytest.raises(UserError, match="nothing differs"):
        summarize(read_runs(tmp_path))
    assert summarize(read_runs(tmp_path), "optim.lr").points[0].value == 0.1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", b'{"step": 5}\n{"st\n', "line 2: JSON is malformed"),
        ("metrics.jsonl", b'{"step": 5}\n[3]\n', "line 2: Expected `object`, got `array`"),
        ("metrics.jsonl", b'{"val_accuracy": 0.5, "step": 3}\n', "line 1: .*`train_accuracy`"),
        ("metrics.jsonl", b'{"val_accuracy": "\xff"}\n', "line 1: "),
        ("config.yaml", b"optim: {lr: 0.1", "expected"),
        ("config.yaml", b"optim: \xff", "config.yaml"),
        ("config.yaml", b"3", "is no run's config"),
    ],
)
def test_broken_files_of_a_run_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write_run(tmp_path, 0.9, 0.6, seed=0)
    path = tmp_path / "seed=0" / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        report_sweep(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_is_writing_a_line_is_drawn_without_it(tmp_path: Path) -> None:
    write_run(tmp_path, 0.9, 0.6, seed=0)
    metrics = tmp_path / "seed=0/metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 30, "val_acc')
    assert [r.step for r in read_runs(tmp_path)] == [20]
    draw_curves(metrics, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1650, 600)  # the first evaluation has no scores by type


def test_curves_without_types_are_one_panel(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 10, "train_accuracy": 0.5, "val_accuracy": 0.4}\n')
    draw_curves(metrics, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (900, 600)


def test_figures_that_cannot_be_drawn_cost_no_report_and_no_run(
    tmp_path: Path, no_figures: None, capsys
) -> None:
    for lr in (0.1, 0.2):
        write_run(tmp_path, 0.9, 0.6, lr=lr)
    assert "60.00" in report_sweep(tmp_path)
    assert (tmp_path / "report.csv").exists()
    (run, _) = sorted(tmp_path.glob("*/"))
    update_curves(RunLayout(run))
    drawn, curves = capsys.readouterr().err.splitlines()
    for line, path in ((drawn, "report.png"), (curves, f"{run.name}/curves.png")):
        assert line == (
            f"warning: {tmp_path}/{path}: Matplotlib cannot draw it (RuntimeError: latex was not "
            "able to process the string); continuing without it"
        )
