"""How much hints help: the report of a sweep over networks that read hints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.bootstrap import Difference, estimate_difference
from filmvqa.studies.sweeps import SweepRun, read_runs, report_unfinished
from filmvqa.system.errors import UserError
from filmvqa.system.files import atomic_write, check_output, write_file
from filmvqa.system.layout import CorrectionLayout, RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.side_output import going_on_without
from filmvqa.system.tables import markdown_table
from filmvqa.tasks.label_maps import image_ious, overall_ious
from filmvqa.uses.correction.drawing import draw_courses, draw_examples
from filmvqa.uses.correction.rounds import Course, correct
from filmvqa.uses.correction.segmented_images import (
    LabelMaps,
    SegmentedImages,
    open_segmented_images,
)
from filmvqa.uses.correction.settings import CorrectSettings

#: The key whose values are compared.
KEY = "model.block.conditioning"
#: Number of images that are drawn.
EXAMPLES = 4

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """The S runs of one conditioning, one for each seed.

    Attributes
    ----------
    courses
        The correction by each run, with hints about each image.
    scores, other_scores
        (S, K + 1, N) mean IoU of each image before and after each hint; ``other_scores`` are with
        hints about other images.
    """

    runs: list[SweepRun]
    courses: list[Course]
    scores: Scores
    other_scores: Scores


def report_correction(settings: CorrectSettings) -> tuple[CorrectionLayout, str]:
    """Correct a split's images hint by hint with each network of a sweep.

    Returns
    -------
    tuple
        The written files, and the table.

    Raises
    ------
    UserError
        For checkpoints or data that cannot be read or do not match.
    """
    split = settings.split
    files = CorrectionLayout(Path(settings.output or settings.dir), split)
    check_output(files.report)
    with (
        open_segmented_images(settings, split) as segmented,
        folder_lock(files.folder, split),
    ):
        series = {}
        all_runs = read_runs(settings.dir)
        report_unfinished(all_runs)
        for name, runs in _by_conditioning(all_runs).items():
            courses, scores, other_scores = [], [], []
            for run in runs:
                model, vocabulary = _corrector(run, segmented)
                course, other_course = (
                    correct(
                        segmented, model, vocabulary, hints=settings.hints, others=others,
                        seed=settings.seed, batch_size=settings.batch_size,
                        precision=settings.precision,
                    )
                    for others in (False, True)
                )  # fmt: skip
                courses.append(course)
                scores.append(_scores(course, segmented.truths))
                other_scores.append(_scores(other_course, segmented.truths))
            series[name] = Series(runs, courses, np.stack(scores), np.stack(other_scores))
        report = _report(segmented, series)
        table = format_correction(report)
        _write_hints(files, segmented, series)
        write_file(files.report, json.dumps(report, indent=1) + "\n")
        write_file(files.table, table)
        with going_on_without(str(files.courses)):
            draw_courses(report, files.courses)
        with going_on_without(str(files.examples)):
            draw_examples(segmented, {name: s.courses[0] for name, s in series.items()},
                          files.examples, EXAMPLES)  # fmt: skip
    return files, table


def _by_conditioning(runs: list[SweepRun]) -> dict[str, list[SweepRun]]:
    """Group runs by conditioning, ordered by seed; all conditionings must have the same seeds."""
    grouped: dict[str, list[SweepRun]] = {}
    for run in sorted(runs, key=lambda run: int(run.config.get("seed", 0))):
        grouped.setdefault(str(run.config.get(KEY)), []).append(run)
    seeds = {name: [run.config.get("seed") for run in group] for name, group in grouped.items()}
    first, first_seeds = next(iter(seeds.items()))
    for name, name_seeds in seeds.items():
        if len(set(map(str, name_seeds))) < len(name_seeds) or name_seeds != first_seeds:
            raise UserError(
                f"{runs[0].folder.parent}: the runs of {KEY}={name} have the seeds {name_seeds}, "
                f"those of {first} {first_seeds}; train each with the same seeds, once"
            )
    order = {"film": 0, "guide": 1}
    return dict(sorted(grouped.items(), key=lambda item: order.get(item[0], len(order))))


def _corrector(run: SweepRun, segmented: SegmentedImages) -> tuple[nn.Module, Vocabulary]:
    """Load a run's best network, whose features and maps must match the base network's."""
    path = RunLayout(run.folder).best_checkpoint
    content = load_checkpoint(path)
    model, vocabulary = model_from_checkpoint(content, path)
    options, base = content["model"]["kwargs"], segmented.asked.content["model"]["kwargs"]
    for key in ("feature_shape", "mask_size", "num_maps"):
        if options.get(key) != base.get(key):
            raise UserError(
                f"{path}: has {key}={options.get(key)}, but {segmented.asked.checkpoint} has "
                f"{base.get(key)}; give the network that it began from"
            )
    model = model.to(segmented.asked.loader.device)
    accelerate(model)
    return model, vocabulary


def _scores(course: Course, truths: LabelMaps) -> Scores:
    """The mean IoU (K + 1, N) of each image."""
    truth = torch.from_numpy(truths)
    scores = [image_ious(torch.from_numpy(maps), truth).numpy() for maps in course.predictions]
    return np.stack(scores).astype(np.float64)


def _report(segmented: SegmentedImages, series: dict[str, Series]) -> dict[str, Any]:
    images = segmented.images.numpy().astype(np.int64)
    truth = torch.from_numpy(segmented.truths)

    def compare(first: Scores, second: Scores) -> dict[str, float]:
        return asdict(estimate_difference(first, second, images))

    def gains(scores: Scores) -> list[dict[str, float]]:
        return [compare(scores[:, k], scores[:, 0]) for k in range(1, scores.shape[1])]

    report: dict[str, Any] = {
        "base": str(segmented.asked.checkpoint), "split": segmented.split, "images": len(images),
        "series": {}, "contrasts": {},
    }  # fmt: skip
    for name, s in series.items():
        rounds = range(1, s.scores.shape[1])
        hinted = [[course.hinted(k) for course in s.courses] for k in rounds]
        overall = [
            [float(overall_ious(torch.from_numpy(maps), truth).nanmean()) for maps in c.predictions]
            for c in s.courses
        ]
        report["series"][name] = {
            "runs": [str(run.folder) for run in s.runs],
            "mean_iou": s.scores.mean((0, 2)).tolist(),
            "overall_iou": np.mean(overall, 0).tolist(),
            "gain": gains(s.scores),
            "gain_of_hint": [compare(s.scores[:, k], s.scores[:, k - 1]) for k in rounds],
            "others_gain": gains(s.other_scores),
            "images_hinted": [float(np.mean(counts)) for counts in hinted],
        }
    (first, reference), *rest = series.items()
    for name, s in rest:
        pairs = list(zip(s.scores.swapaxes(0, 1), reference.scores.swapaxes(0, 1), strict=True))
        report["contrasts"][f"{name} - {first}"] = [compare(*pair) for pair in pairs[1:]]
    return report


def format_correction(report: dict[str, Any]) -> str:
    """Format the report as a Markdown table, in percent and points."""
    rows = []
    for name, series in report["series"].items():
        for k, scores in enumerate(zip(series["mean_iou"], series["overall_iou"], strict=True)):
            mean, overall = (f"{100 * score:.1f}" for score in scores)
            kinds = ("gain_of_hint", "gain", "others_gain")
            gains = [_points(series[kind][k - 1]) if k else "" for kind in kinds]
            hinted = f"{series['images_hinted'][k - 1]:.0f}" if k else ""
            rows.append([name, str(k), mean, *gains, overall, hinted])
    table = markdown_table(
        ["conditioning", "hints", "mean IoU", "gain of this hint", "gain of all",
         "gain of hints about other images", "overall IoU", "images hinted"], rows, 2,
    )  # fmt: skip
    if report["contrasts"]:
        contrasts = [
            [name, *(_points(difference) for difference in differences)]
            for name, differences in report["contrasts"].items()
        ]
        hints = [f"{k} hint{'s' * (k > 1)}" for k in range(1, len(contrasts[0]))]
        table += "\n" + markdown_table(["mean IoU", *hints], contrasts, 1)
    return table


def _points(difference: dict[str, float]) -> str:
    return Difference(**difference).format_points()


def _write_hints(
    files: CorrectionLayout, segmented: SegmentedImages, series: dict[str, Series]
) -> None:
    """Write a line for each run and image: its hints, and its mean IoU before and after each."""
    with atomic_write(files.hints) as stream:
        for name, s in series.items():
            for run, course, scores in zip(s.runs, s.courses, s.scores, strict=True):
                for i, image in enumerate(segmented.images.tolist()):
                    line = {
                        "conditioning": name, "seed": run.config.get("seed"), "image_index": image,
                        "hints": course.hints[i], "mean_iou": scores[:, i].round(4).tolist(),
                    }  # fmt: skip
                    stream.write(json.dumps(line).encode() + b"\n")
