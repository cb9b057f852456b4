"""CLOSURE: a network's accuracy on new combinations of what its questions taught.

CLEVR's questions have matching expressions ("the same size as the cube") and relations. The seven
tests put a matching expression where CLEVR has only a relation: inside conjunctions, disjunctions,
chains and comparisons (Bahdanau et al. 2019, arXiv 1912.05783).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from msgspec import structs

from filmvqa.backbones.build import backbone_from_spec
from filmvqa.backbones.extraction import Extraction
from filmvqa.checkpoints.checkpoint import load_checkpoint, vocabulary_of
from filmvqa.evaluation.evaluate import evaluate_checkpoint, output_folder
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.settings import EncodingSettings
from filmvqa.studies.settings import ClosureSettings
from filmvqa.system.devices import choose_device
from filmvqa.system.errors import UserError
from filmvqa.system.figures import add_legend, add_plots, draw_figure
from filmvqa.system.files import write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.tables import text_table
from filmvqa.tasks.reports import percent, percent_interval, wilson_interval
from filmvqa.worlds.clevr.generate import MAKER
from filmvqa.worlds.engine.ask_scenes import AskScenesSettings, ask_scenes
from filmvqa.worlds.engine.scene_records import RELATE
from filmvqa.worlds.engine.schema import Info, Question, read_questions, write_records

#: CLEVR's families (numbers of the release) whose programs equal those of a test, except for a
#: relation in place of the match. Keys: the test's names in the paper and in its code's templates.
NEAREST: dict[tuple[str, str], tuple[int, ...]] = {
    ("and_mat_spa", "and_sim_loc"): (32, 33, 34, 35),
    ("or_mat", "or_sim"): (71,),
    ("or_mat_spa", "or_sim_loc"): (67,),
    ("embed_spa_mat", "chain_loc_sim"): (79,),
    ("embed_mat_spa", "chain_sim_loc"): (79,),
    ("compare_mat", "compare_sim"): (13, 16, 22),
    ("compare_mat_spa", "compare_sim_loc"): (15, 18, 24),
}
_FAMILIES = {name: families for names, families in NEAREST.items() for name in names}
_ALL_NEAREST: list[str | int] = sorted({*chain(*NEAREST.values())})


def measure_closure(settings: ClosureSettings) -> tuple[Path, dict[str, Any]]:
    """Ask a network the questions of the tests, and CLEVR's, about the scenes of a split.

    Of CLEVR's questions there are two files: of the nearest families, and of all families. Missing
    scenes, images and features are made as the checkpoint's were. Questions are generated again in
    each call and replace earlier ones.

    Returns
    -------
    tuple
        The folder, and the report, which is written there as ``closure.json`` and
        ``closure.png``. The folders ``closure``, ``nearest`` and ``clevr`` in it contain the
        questions and evaluations; ``mixed`` contains the questions of ``clevr`` and ``closure``
        together, to adapt a network with.

    Raises
    ------
    UserError
        For an unusable checkpoint, data set or template folder, and for unknown words.
    """
    data, world = settings.data, settings.data.world
    split = settings.split or data.val_split
    content = load_checkpoint(settings.checkpoint)
    vocabulary, spec = vocabulary_of(content, settings.checkpoint), content["backbone"]
    if spec is None:
        raise UserError(
            f"{settings.checkpoint}: does not record how its features were made; evaluate.py takes "
            "features=<folder>"
        )
    layout = replace(data.layout, backbone=content["data"]["backbone"])
    scenes = layout.scene_json(split)
    if not scenes.exists():
        generator: Any = data.set_settings("generator")
        MAKER.generate(data.root, generator, settings.workers)
    folder = Path(settings.output or output_folder(settings.checkpoint) / "closure")
    reports = {}
    encoding = EncodingSettings(allow_unknown=settings.allow_unknown)
    layouts = {
        name: replace(
            DatasetLayout.under(folder / name, prefix=layout.prefix),
            images=layout.images, features=layout.features,
        )
        for name in ("clevr", "nearest", "closure", "mixed")
    }  # fmt: skip
    with folder_lock(folder):
        for name, templates, families in (
            ("clevr", None, None),
            ("nearest", None, _ALL_NEAREST),
            ("closure", settings.templates, None),
        ):
            destination = layouts[name]
            questions = destination.question_json(split)
            questions.unlink(missing_ok=True)
            asking = AskScenesSettings(
                scenes=str(scenes), output=str(questions), world=world.name, templates=templates,
                families=families, questions_per_image=settings.questions_per_image,
                seed=settings.seed, workers=settings.workers,
            )  # fmt: skip
            ask_scenes(asking, RELATE.get(world.name))
            preprocess_questions(destination, encoding, vocabulary=vocabulary, world=world)
            if name == "clevr":
                Extraction(
                    layout.image_folder(split), layout.feature_h5(split), split,
                    backbone_from_spec(spec, settings.weights), tuple(spec["image_size"]),
                    device=choose_device(settings.device), missing_images=data.missing_images,
                ).run()  # fmt: skip
            evaluation = EvaluateSettings(
                checkpoint=settings.checkpoint, split=split, h5=str(destination.h5),
                features=str(layout.features), output=str(destination.root),
                batch_size=settings.batch_size, device=settings.device,
                accelerate=settings.accelerate,
            )  # fmt: skip
            reports[name] = evaluate_checkpoint(evaluation)[1] or {}
        clevr, closure = (
            read_questions(layouts[name].question_json(split)).questions
            for name in ("clevr", "closure")
        )
        numbered = (structs.replace(q, question_index=i) for i, q in enumerate(clevr + closure))
        mixed = layouts["mixed"]
        write_records(mixed.question_json(split), Info(split), "questions", numbered)
        preprocess_questions(mixed, encoding, vocabulary=vocabulary, world=world)
        tests = _compare(reports["closure"], reports["nearest"], _commonest(closure))
        report = {
            "checkpoint": settings.checkpoint,
            "split": split,
            "mean": mean(row["accuracy"] for row in tests.values()),
            "tests": tests,
            "clevr": {key: reports["clevr"][key] for key in ("overall", "by_type")},
        }
        write_file(folder / "closure.json", json.dumps(report, indent=1) + "\n")
        draw_tests(report, folder / "closure.png")
    return folder, report


def _commonest(questions: Sequence[Question]) -> dict[str, float]:
    """The share of the commonest answer among the questions of each template file."""
    answers: dict[str, Counter[str]] = {}
    for question in questions:
        group = Path(question.template_filename or "").stem
        answers.setdefault(group, Counter())[question.answer or ""] += 1
    return {group: max(counts.values()) / counts.total() for group, counts in answers.items()}


def _compare(
    closure: dict[str, Any], clevr: dict[str, Any], commonest: dict[str, float]
) -> dict[str, Any]:
    """Join each test's row with the row of its nearest questions of CLEVR."""
    tests = {}
    for name, row in closure["by_group"].items():
        rows = [clevr["by_family"].get(str(i)) for i in _FAMILIES.get(name, ())]
        correct, count = (sum(r[key] for r in rows if r) for key in ("correct", "questions"))
        nearest = {
            "accuracy": correct / count if count else None,
            "questions": count,
            "interval": list(wilson_interval(correct, count)),
        }
        tests[name] = {**row, "commonest_answer": commonest[name], "nearest": nearest}
    return tests


def format_tests(report: dict[str, Any]) -> str:
    """Format the report as a table to print."""

    def cells(row: dict[str, Any]) -> list[str]:
        interval = percent_interval(row["interval"])
        return [percent(row["accuracy"]), interval, f"{row['questions']:,}"]

    rows = [["", "accuracy", "95% interval", "questions", "nearest of CLEVR", "commonest answer"]]
    for name, row in report["tests"].items():
        nearby = [percent(row["nearest"]["accuracy"]), percent(row["commonest_answer"])]
        rows.append([name, *cells(row), *nearby])
    rows.append([f"mean of the {len(report['tests'])}", percent(report["mean"]), *[""] * 4])
    rows.append(["CLEVR's own", *cells(report["clevr"]["overall"]), "", ""])
    return text_table(rows)


def draw_tests(report: dict[str, Any], target: Path) -> None:
    """Write a PNG of each test's accuracy with its 95% interval, the accuracy on the nearest
    questions of CLEVR, and the share of the commonest answer."""
    names = list(report["tests"])[::-1]  # the first is at the top
    with draw_figure(target, 7, 1.4 + 0.34 * len(names)) as figure:
        (axes,) = add_plots(figure)
        tests = [report["tests"][name] for name in names]
        nearest = [test["nearest"] for test in tests]
        for label, rows, look in (
            ("CLOSURE", tests, {"color": "C0"}),
            ("nearest questions of CLEVR", nearest, {"color": "C1", "mfc": "white"}),
        ):
            heights = [i for i, row in enumerate(rows) if row["accuracy"] is not None]
            values = [100 * rows[i]["accuracy"] for i in heights]
            bounds = 100 * np.array([rows[i]["interval"] for i in heights]).reshape(-1, 2).T
            errors = np.abs(bounds - values)
            axes.errorbar(values, heights, xerr=errors, fmt="o", capsize=3, label=label, **look)
        shares = [100 * test["commonest_answer"] for test in tests]
        axes.plot(shares, range(len(names)), "k|", markersize=10, label="commonest answer")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="accuracy (%)", xlim=(0, 101))
        axes.grid(visible=False, axis="y")
        add_legend(figure, 3)
