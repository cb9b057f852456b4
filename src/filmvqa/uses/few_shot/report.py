"""A comparison of few-shot learners: their results, a table and a figure."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from filmvqa.features.store import open_feature_store
from filmvqa.studies.bootstrap import Difference, estimate_difference
from filmvqa.system.errors import UserError
from filmvqa.system.figures import add_legend, add_plots, draw_figure
from filmvqa.system.files import write_file
from filmvqa.system.locks import folder_lock
from filmvqa.system.side_output import going_on_without
from filmvqa.system.tables import markdown_table
from filmvqa.uses.few_shot.concepts import CONCEPTS, Bools, hold_out, present_classes
from filmvqa.uses.few_shot.episodes import SHOTS, Episode, Episodes, answer_ideally
from filmvqa.uses.few_shot.learners import KINDS
from filmvqa.uses.few_shot.network import ConceptNetwork
from filmvqa.uses.few_shot.settings import FewShotSettings
from filmvqa.uses.few_shot.training import answer_all, train, train_words
from filmvqa.worlds.clevr.scene_file import read_scenes

#: Learners that are compared on held-out concepts: the first minus the second.
CONTRASTS = (
    ("film", "all_weights"), ("film", "last_layer"), ("film", "prototypes"),
    ("tadam_linear", "prototypes"), ("tadam_mlp", "tadam_linear"),
    ("tadam_linear", "tadam_linear_free"), ("tadam_mlp", "tadam_mlp_free"),
)  # fmt: skip
#: Two learners whose gap between seen and held-out concepts, and whose widths, are compared.
_CLAIMED = ("film", "all_weights")

Scores = NDArray[np.float64]


def read_pictures(settings: FewShotSettings, split: str) -> tuple[Tensor, Bools, str]:
    """Read features (N, P, C) of a split's pictures, max-pooled over 2×2 places.

    Also returns the classes (N, 96) that each picture has, and a hash of the features. Raises
    ``UserError`` if scenes or features cannot be read or do not match.
    """
    layout = settings.data.layout
    path = layout.scene_json(split)
    scenes = read_scenes(path).scenes
    with open_feature_store(layout.feature_h5(split)) as store:
        if store.image_idxs.tolist() != [scene.image_index for scene in scenes]:
            raise UserError(
                f"{layout.feature_h5(split)}: has features of {store.num_images} images, {path} "
                f"{len(scenes)} scenes, in the order of their images; give those of one set"
            )
        maps = store.read(torch.from_numpy(store.image_idxs.astype(np.int64)))
        pooled = [
            max_pool2d(part.float(), 2, ceil_mode=True).half() for part in torch.split(maps, 256)
        ]
        return (
            torch.cat(pooled).flatten(2).transpose(1, 2).contiguous(),
            present_classes(scenes),
            store.sha256,
        )


def measure_few_shot(settings: FewShotSettings) -> tuple[Path, dict[str, Any]]:
    """Train the learners whose results are missing, and compare all learners.

    Returns the folder and the report, which is written there as ``few_shot.json``, ``.md`` and
    ``.png``. ``episodes.json`` has the test episodes, and ``<learner>_<width>_<seed>.json`` the
    answers. Raises ``UserError`` for unusable data, and for a result with other settings.
    """
    folder, split = Path(settings.output), settings.split or settings.data.val_split
    with folder_lock(folder):
        features, present, train_hash = read_pictures(settings, settings.data.train_split)
        test_features, test_present, test_hash = read_pictures(settings, split)
        held, numbers = hold_out(), np.arange(len(CONCEPTS))
        episodes = Episodes(present, numbers[~held], settings.data.train_split)
        tests = [
            episode
            for concepts in (numbers[~held], numbers[held])
            for episode in Episodes(test_present, concepts, split).draw_many(
                np.random.default_rng(0), settings.episodes
            )
        ]
        write_file(folder / "episodes.json", json.dumps([_plain(each) for each in tests]) + "\n")
        record = {
            "features": [train_hash, test_hash], "word_steps": settings.word_steps,
            "steps": settings.steps, "lr": settings.lr, "episodes": settings.episodes,
        }  # fmt: skip
        results: dict[tuple[str, int, int], Any] = {}
        for seed, width in product(settings.seeds, settings.widths):
            network: ConceptNetwork | None = None
            for name in settings.learners:
                target = folder / f"{name}_{width}_{seed}.json"
                if (result := _read_result(target, record)) is None:
                    torch.manual_seed(seed)
                    if network is None:
                        network = ConceptNetwork(features.shape[2], width)
                        train_words(
                            network, features, episodes, steps=settings.word_steps, seed=seed
                        )
                    torch.manual_seed(seed)
                    learner = KINDS[name](deepcopy(network))
                    train(
                        learner, features, episodes, steps=settings.steps, rate=settings.lr,
                        seed=seed, name=target.stem,
                    )  # fmt: skip
                    answers = answer_all(learner, test_features, tests)
                    result = {
                        "record": record,
                        "adapted": learner.adapted,
                        "answers": ["".join("01"[a] for a in row) for row in answers.tolist()],
                    }
                    write_file(target, json.dumps(result) + "\n")
                results[name, width, seed] = result
        labels = Episodes(test_present, numbers, split).labels
        ideal = np.stack([answer_ideally(labels, episode) for episode in tests])
        report = compare(settings, tests, results, ideal)
        write_file(folder / "few_shot.json", json.dumps(report, indent=1) + "\n")
        write_file(folder / "few_shot.md", format_few_shot(report))
        with going_on_without(str(folder / "few_shot.png")):
            draw_few_shot(report, folder / "few_shot.png")
    return folder, report


def _plain(episode: Episode) -> dict[str, Any]:
    shown = 2 * SHOTS
    return {
        "concept": CONCEPTS[episode.concept],
        "shown": episode.pictures[:shown].tolist(),
        "shown_labels": episode.labels[:shown].tolist(),
        "asked": episode.pictures[shown:].tolist(),
    }


def _read_result(path: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        recorded = result["record"]
        right = [len(result["answers"]), *map(len, result["answers"])]
        is_whole = right == [2 * record["episodes"]] + [2 * SHOTS] * right[0]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path}: no result of few_shot.py ({error!r}); give another output"
        ) from None
    if recorded != record or not is_whole:
        raise UserError(f"{path}: was made with other settings or features; give another output")
    return result


def compare(
    settings: FewShotSettings, tests: list[Episode], results: dict[tuple[str, int, int], Any],
    ideal: Bools,
) -> dict[str, Any]:  # fmt: skip
    """Make the report: shares of correct answers, and differences with intervals.

    The intervals are over seeds and concepts: in ``estimate_difference``, concepts take the place
    of images.
    """
    truth = np.stack([episode.labels[2 * SHOTS :] for episode in tests])
    concepts = np.array([episode.concept for episode in tests])
    is_held = hold_out()[concepts]

    def scores(name: str, width: int) -> Scores:  # (S, E)
        answers = [results[name, width, seed]["answers"] for seed in settings.seeds]
        answered = np.array([[list(row) for row in of_seed] for of_seed in answers]) == "1"
        right: Scores = (answered == truth).mean(2)
        return right

    def row(name: str, right: Scores, **more: Any) -> dict[str, Any]:
        seen, unseen = right[:, ~is_held].mean(1), right[:, is_held].mean(1)
        return {"learner": name, "seen": seen.tolist(), "held_out": unseen.tolist(), **more}

    rows = [row("ideal", (ideal == truth).mean(1)[None])]
    for width, name in product(settings.widths, settings.learners):
        adapted = results[name, width, settings.seeds[0]]["adapted"]
        rows.append(row(name, scores(name, width), width=width, adapted=adapted))
    contrasts: dict[str, Any] = {}

    def contrast(text: str, first: Scores, second: Scores, rows: Bools) -> None:
        difference = estimate_difference(first[:, rows], second[:, rows], concepts[rows])
        contrasts[text] = asdict(difference)

    for width in settings.widths:
        for one, other in CONTRASTS:
            if {one, other} <= {*settings.learners}:
                text = f"{one} - {other}, width {width}"
                contrast(text, scores(one, width), scores(other, width), is_held)
        if {*_CLAIMED} <= {*settings.learners}:
            # Half of the episodes are on seen concepts: the mean of these is the gap.
            signed = 2 * np.where(is_held, -1.0, 1.0)
            first, second = (signed * scores(name, width) for name in _CLAIMED)
            text = f"gap from seen to held-out, {_CLAIMED[0]} - {_CLAIMED[1]}, width {width}"
            contrast(text, first, second, np.ones_like(is_held))
    narrow, wide = min(settings.widths), max(settings.widths)
    for claimed in _CLAIMED:
        if narrow < wide and claimed in settings.learners:
            text = f"{claimed}: width {wide} - width {narrow}"
            contrast(text, scores(claimed, wide), scores(claimed, narrow), is_held)
    return {"seeds": list(settings.seeds), "learners": rows, "contrasts": contrasts}


def format_few_shot(report: dict[str, Any]) -> str:
    """Format the report as two Markdown tables, in percent and points."""
    rows = []
    for row in report["learners"]:
        seen, unseen = np.mean(row["seen"]), np.mean(row["held_out"])
        seeds = row["held_out"]
        spread = f" ± {100 * np.std(seeds, ddof=1):.1f}" if len(seeds) > 1 else ""
        rows.append([
            row["learner"], str(row.get("width", "")), f"{row.get('adapted', '')}",
            f"{100 * seen:.1f}", f"{100 * unseen:.1f}{spread}",
            f"{100 * (seen - unseen):+.1f}",
        ])  # fmt: skip
    header = ["learner", "width", "numbers adapted", "seen", "held out", "gap"]
    table = markdown_table(header, rows)
    contrasts = [[t, Difference(**d).format_points()] for t, d in report["contrasts"].items()]
    if contrasts:
        table += "\n" + markdown_table(["difference", "points, 95% interval"], contrasts)
    return table


def draw_few_shot(report: dict[str, Any], target: Path) -> None:
    """Write a PNG of the learners' correct answers on seen and on held-out concepts."""
    rows = report["learners"][::-1]
    with draw_figure(target, 7, 0.6 + 0.3 * len(rows)) as figure:
        (axes,) = add_plots(figure)
        for key, look, label in (
            ("seen", "o", "concepts of training"), ("held_out", "D", "held-out concepts"),
        ):  # fmt: skip
            points = [(100 * x, i) for i, row in enumerate(rows) for x in row[key]]
            axes.plot(*zip(*points, strict=True), look, fillstyle="none", label=label)
        labels = [f"{r['learner']}, {r['width']}" if "width" in r else r["learner"] for r in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.axvline(50, color="gray", linestyle=":")
        axes.set(xlabel="right answers (%)")
        add_legend(figure, 2)
