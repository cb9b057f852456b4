"""Raw results: the test scores of runs, and the CSV files that store them.

A file has a row for each run, so that a diff shows what changed. Scores are sums over the questions
of each test image; with them, a claim's page can be drawn again without the runs. The number of
questions about each image is the same for all runs, and is stored once, in ``test_sets.csv``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.settings.effects import Effect
from filmvqa.studies.claims import Claim, belongs
from filmvqa.studies.sweeps import Evaluated, SweepRun, name_model
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import names_in, read_bytes, write_file
from filmvqa.system.layout import EvaluationLayout, RunLayout
from filmvqa.system.tables import csv_table
from filmvqa.tasks.protocol import read_predictions
from filmvqa.training.config_changes import effect_of, values_without

#: Columns that are not settings; all others are keys of the run's config.
_COLUMNS = (
    "run", "change", "seed", "commit", "machine", "split", "steps", "seconds", "best_step", "train",
    "val", "test", "score", "val_by_type", "course", "settings", "test_set", "test_by_image",
)  # fmt: skip
_TEST_SETS = "test_sets.csv"
#: The file with the verdicts on all claims.
VERDICTS = "verdicts.csv"
#: Keys that claims need although they change no result themselves.
_NAMES = ("ablation", "data.name", "data.backbone.name")


@dataclass(frozen=True)
class ScoredRun:
    """A run and its scores on the test questions about each of I images.

    Attributes
    ----------
    run
        The run; if ``is_kept``, its folder is the CSV file.
    name
        The run's folder, relative to the folder that contains the sweeps' folders.
    change
        The name of the change of γ and β in the evaluation; empty without one.
    split, test_set
        The split of the questions, and a hash of the questions and their true answers.
    questions
        (I,) the number of questions about each image.
    scores
        (I,) the number of correct answers about each image; for masks, the sum of their
        intersections over union with the true masks.
    commit, machine
        The code and the hardware of the training; empty if unknown.
    is_kept
        Whether the run was read from a CSV file.
    """

    run: SweepRun
    name: str
    change: str
    split: str
    test_set: str
    questions: NDArray[np.int64]
    scores: NDArray[np.float64]
    commit: str
    machine: str
    is_kept: bool = False

    @property
    def place(self) -> str:
        """The run's name in messages."""
        return f"{self.run.folder}: {self.name}" if self.is_kept else str(self.run.folder)

    @property
    def seed(self) -> int:
        return int(self.run.config.get("seed", 0))

    @property
    def test(self) -> float:
        return float(self.scores.sum() / self.questions.sum())

    @property
    def world(self) -> str:
        """The name of the run's data set."""
        return str(self.run.config.get("data.name") or "")


def score_run(run: SweepRun, split: str, runs: Path, change: str = "") -> ScoredRun:
    """Read a run's evaluation on a split, with a change of γ and β or without one.

    ``runs`` is the folder that contains the sweeps' folders.
    """
    path = EvaluationLayout(RunLayout(run.folder).evaluation / change, split).predictions
    records = read_predictions(path)
    for record in records:
        if record.score is None:
            raise UserError(
                f"{path}: question {record.question_index} has no true answer; report on a split "
                "that has them"
            )
    identities = [[r.question_index, r.image_index, getattr(r, "truth", None)] for r in records]
    images = np.unique([r.image_index for r in records], return_inverse=True)[1]
    scores = np.bincount(images, np.array([r.score for r in records])).astype(np.float64)
    test_set = hashlib.sha256(json.dumps(identities).encode()).hexdigest()[:12]
    name = run.folder.relative_to(runs).as_posix()
    return ScoredRun(
        run, name, change, split, test_set, np.bincount(images), scores, *_trace(run.folder)
    )


def _trace(folder: Path) -> tuple[str, str]:
    """The commit and the machine of a run; several if it was resumed elsewhere."""
    path = RunLayout(folder).provenance
    if not path.exists():
        return "", ""
    commits, machines = [], []
    for where in json.loads(path.read_text())["environments"]:
        commit = (where.get("commit") or "")[:10]
        commits.append(commit if where.get("clean") or not commit else f"{commit} with changes")
        device = where["device"] if where["device"] != "cpu" else where["processor"]
        threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
        torch = f"torch {where['torch'].partition('+')[0]}"
        parts = [device, where.get("instructions"), threads, torch]
        machines.append(", ".join(part for part in parts if part))
    return "; ".join(dict.fromkeys(commits)), "; ".join(dict.fromkeys(machines))


def read_kept_runs(folder: Path, claim: Claim, split: str) -> list[ScoredRun]:
    """Read the runs of a folder's CSV files that belong to a claim and were tested on a split.

    If several files have a run, the first counts.
    """
    runs: dict[tuple[str, str], ScoredRun] = {}
    for name in names_in(folder):
        if name.endswith(".csv") and name not in (_TEST_SETS, VERDICTS):
            for kept in read_results(folder / name):
                is_asked = kept.split == split and kept.name.split("/")[0] in claim.sweeps
                is_asked &= bool(kept.change) == bool(claim.film)
                if is_asked and belongs(kept.run, claim):
                    runs.setdefault((kept.name, kept.change), kept)
    return list(runs.values())


def find_complete(runs: Sequence[ScoredRun], claim: Claim) -> set[str]:
    """The names of the runs that were tested with each of a claim's changes of γ and β."""
    tests = Counter(run.name for run in runs)
    return {name for name, number in tests.items() if number >= len(claim.film)}


def read_results(path: Path) -> list[ScoredRun]:
    """Read the runs of a CSV file; none if the file does not exist.

    Raises
    ------
    UserError
        If a row lacks a value or has a wrong one.
    """
    sets = {r["test_set"]: r["questions_by_image"] for r in read_rows(path.parent / _TEST_SETS)}
    runs = []
    for number, row in enumerate(read_rows(path), 2):
        try:
            questions = np.array(sets[row["test_set"]].split(), np.int64)
            runs.append(_parse(row, questions, path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: line {number}: is no row of a run ({type(error).__name__}: "
                f"{one_line(error)}); correct it, or take the file from git again"
            ) from None
    return runs


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file by column; none if the file does not exist."""
    if not path.exists():
        return []
    text = read_bytes(path, "take it from git again").decode(errors="replace")
    return list(csv.DictReader(text.splitlines()))


def _parse(row: Mapping[str, str], questions: NDArray[np.int64], path: Path) -> ScoredRun:
    scores = np.array(row["test_by_image"].split(), np.float64)
    if len(scores) != len(questions):
        raise ValueError(f"test_by_image has {len(scores)} images, not {len(questions)}")
    varied = {key: _read_value(value) for key, value in row.items() if key not in _COLUMNS}
    config = json.loads(row["settings"]) | varied | {"seed": int(row["seed"])}
    config = values_without(config.get("model.name")) | config | {"model": name_model(config)}
    course = [
        Evaluated(int(step), *map(float, others))
        for step, *others in (part.split() for part in row["course"].split(";"))
    ]
    run = SweepRun(
        path, config, int(row["best_step"]), float(row["train"]), float(row["val"]),
        json.loads(row["val_by_type"]), course, row["score"],
    )  # fmt: skip
    return ScoredRun(
        run, row["run"], row["change"], row["split"], row["test_set"], questions, scores,
        row["commit"], row["machine"], is_kept=True,
    )  # fmt: skip


def _read_value(text: str) -> Any:
    """A config value: JSON if it parses, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def keep_runs(folder: Path, claim: Claim, runs: Sequence[ScoredRun]) -> None:
    """Write runs to a claim's CSV file; they replace its rows of the same name and split."""
    path = folder / f"{claim.name}.csv"
    rows = {(kept.name, kept.change, kept.split): kept for kept in read_results(path)}
    rows |= {(run.name, run.change, run.split): run for run in runs}
    keys = [key.key for key in claim.keys]
    if not rows:
        return
    columns = [*_COLUMNS[:2], *keys, *_COLUMNS[2:]]
    write_file(path, csv_table(columns, [_format(rows[name], keys) for name in sorted(rows)]))
    sets = {row["test_set"]: list(row.values()) for row in read_rows(folder / _TEST_SETS)}
    for run in rows.values():
        sets[run.test_set] = [run.test_set, run.split, " ".join(map(str, run.questions))]
    header = ["test_set", "split", "questions_by_image"]
    write_file(folder / _TEST_SETS, csv_table(header, sorted(sets.values())))


def _format(scored: ScoredRun, keys: Sequence[str]) -> list[Any]:
    """Format a row; its settings are those that change results and differ from the defaults."""
    run, config = scored.run, scored.run.config
    defaults = values_without(config.get("model.name"))
    settings = {
        key: value
        for key, value in sorted(config.items())
        if key not in (*keys, "seed", "model")
        and value != defaults.get(key)
        and (key in _NAMES or effect_of(key) in (Effect.RESULT, Effect.LENGTH))
    }
    values = [config.get(key) for key in keys]
    course = ";".join(f"{e.step} {e.seconds:.0f} {e.train:.6g} {e.val:.6g}" for e in run.course)
    return [
        scored.name, scored.change,
        *(v if isinstance(v, str) else json.dumps(v) for v in values), scored.seed, scored.commit,
        scored.machine, scored.split, run.course[-1].step,
        f"{run.course[-1].seconds:.0f}", run.step,
        *(f"{score:.6g}" for score in (run.train, run.val, scored.test)), run.score,
        json.dumps({name: round(value, 6) for name, value in run.by_type.items()}), course,
        json.dumps(settings), scored.test_set, " ".join(f"{s:.6g}" for s in scored.scores),
    ]  # fmt: skip
