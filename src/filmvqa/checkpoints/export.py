"""Export a trained network as one small file, with a model card of its run's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.checkpoints.exported import encode_network
from filmvqa.checkpoints.places import SUFFIX, checkpoint_file
from filmvqa.system.errors import UserError
from filmvqa.system.files import refuse_overwriting, write_file
from filmvqa.system.layout import RunLayout
from filmvqa.tasks.protocol import Task, task_of


def export_network(checkpoint: str | Path, output: str | Path) -> tuple[Path, Path]:
    """Write a checkpoint's network to ``output`` in float16, and its model card beside it.

    The card states the scores that ``scripts/evaluate.py`` wrote beside the checkpoint.

    Returns
    -------
    tuple
        The paths of both files.

    Raises
    ------
    UserError
        If the checkpoint is unusable or was not evaluated, or the output does not end in
        ``.safetensors``.
    """
    output = Path(output)
    if output.suffix != SUFFIX:
        raise UserError(f"output={output}: must end in {SUFFIX}")
    path = checkpoint_file(checkpoint)
    refuse_overwriting(output, path)
    content = load_checkpoint(path)
    model, _ = model_from_checkpoint(content, path)  # raises if it is unusable
    num_weights = sum(weight.numel() for weight in model.parameters())
    reports = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(RunLayout(path.parent).evaluation.glob("*.json"))
    ]
    reports = [r for r in reports if "overall" in r and r["step"] == content["progress"]["step"]]
    if not reports:
        raise UserError(
            f"{path}: has no evaluation beside it for its model card; run "
            f"scripts/evaluate.py checkpoint={path} first"
        )
    network = encode_network(content, path)
    write_file(output, network)
    card = output.with_suffix(".md")
    write_file(card, model_card(output.stem, content, reports, num_weights, len(network)))
    return output, card


def model_card(
    name: str,
    content: dict[str, Any],
    reports: list[dict[str, Any]],
    num_weights: int,
    num_bytes: int,
) -> str:
    """Write what the network is, its training, its scores and its limits."""
    config, progress = content["config"], content["progress"]
    task = task_of(content["model"]["name"])
    # A set without a generator, such as CLEVR itself, is downloaded.
    data_note = (
        " The figures above are of the project's own images and questions, not of CLEVR's."
        if config.get("data", {}).get("generator") else ""
    )  # fmt: skip
    lines = [
        f"# {name}",
        "",
        f"`{content['model']['name']}`, {num_weights:,} weights, {num_bytes / 1e6:.1f} MB in "
        f"float16. It {task.does}, {_words(content['vocabulary'])}.",
        "",
        "## Trained on",
        "",
        *_training(config, content, progress),
        "",
        "## How well it does",
        "",
        task.scored_as,
        "",
        *_table(reports, task),
        "",
        "## What it is not for",
        "",
        "It knows one world: three shapes, two sizes, two materials and eight colours on a grey "
        f"floor, and the sentences of CLEVR's templates. It gives {task.gives} to any picture "
        "and to any question whose words it knows, and its probabilities say little about pictures "
        f"of another kind.{data_note}",
        "",
    ]
    return "\n".join(lines)


def _words(vocabulary: dict[str, dict[str, int]]) -> str:
    words, answers = (
        sum(not token.startswith("<") for token in vocabulary[part])
        for part in ("question", "answer")
    )
    return f"with {words} words" + (f" and {answers} answers" if answers else "")


def _training(
    config: dict[str, Any], content: dict[str, Any], progress: dict[str, Any]
) -> list[str]:
    data, lines = config.get("data", {}), []
    generator = data.get("generator")
    if generator:
        rules, images = generator["rules"], f"{generator['images'].get(data['train_split']):,}"
        if content["train_images"] is not None:
            images = f"{len(content['train_images']):,} of {images}"
        short = (generator.get("short_questions") or {}).get(data["train_split"])
        lines += [
            f"- `data={data['name']}`: {images} images of {rules['min_objects']} to "
            f"{rules['max_objects']} objects, of the project's own generator (seed "
            f"{generator['seed']}), with {generator['questions_per_image']} questions each, of "
            f"{_families(generator['families'])}"
            + (f"; {short:.1%} of the questions are short ones." if short else ".")
        ]
    elif "name" in data:
        lines += [f"- `data={data['name']}`."]
    if data.get("families") is not None:
        lines += [f"- Of these, the questions of {_families(data['families'])} alone."]
    if spec := content["backbone"]:
        height, width = spec["image_size"]
        lines += [
            f"- Features of `{spec['backbone']}` (SHA-256 of its weights "
            f"`{str(spec['weights_sha256'])[:12]}…`) from pictures that were resized to "
            f"{width}×{height} pixels."
        ]
    if start := config.get("train", {}).get("init_from"):
        lines += [f"- Training began with the weights of `{start}`."]
    trainer = config.get("trainer", {})
    lines += [
        f"- {progress['step']:,} steps of {trainer.get('batch_size')} questions in "
        f"{_counted(max(1, round(progress['seconds'] / 60)), 'minute')}."
    ]
    if environments := progress.get("environments"):
        places = {
            f"{e['processor']}, {_counted(e['threads'], 'thread')}, {e['device']}"
            for e in environments
        }
        lines += [f"- Where: {'; '.join(sorted(places))}."]
    return lines


def _families(names: list[Any] | None) -> str:
    """Name question families by number, or by their template file; None: all."""
    return "all 90 families" if names is None else f"the families {', '.join(map(str, names))}"


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _table(reports: list[dict[str, Any]], task: Task) -> list[str]:
    """A table of reports: a column per split, a row per question type."""
    columns = [f"{r['split']}, {r['overall'][task.unit]:,} {task.unit}" for r in reports]
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(reports)]
    groups = next(iter(task.sections.values()), "")
    for name in ("overall", *reports[0].get(groups, {})):
        cells = []
        for report in reports:
            row = report["overall"] if name == "overall" else report[groups][name]
            low, high = (100 * bound for bound in row["interval"])
            score = row[task.metric]
            cells.append(
                f"{'-' if score is None else f'{100 * score:.1f}'} ({low:.1f} to {high:.1f})"
            )
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return lines
