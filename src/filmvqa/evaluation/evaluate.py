"""Evaluation of a checkpoint: predictions, and a report of their scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.checkpoints.checkpoint import (
    feature_differences,
    load_checkpoint,
    model_from_checkpoint,
)
from filmvqa.checkpoints.places import checkpoint_file, shipped_file
from filmvqa.evaluation.batches import Loader, open_loader
from filmvqa.evaluation.predictions import predict
from filmvqa.evaluation.provenance import changed_inputs, record_inputs
from filmvqa.evaluation.settings import AskedSettings, EvaluateSettings
from filmvqa.models import targets_of
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.settings.typed import MissingImages
from filmvqa.system import processes
from filmvqa.system.devices import choose_device
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import atomic_write, check_output, write_file
from filmvqa.system.layout import DatasetLayout, EvaluationLayout, RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.memory import explained_out_of_memory
from filmvqa.tasks.protocol import task_of
from filmvqa.tasks.reports import num_objects


@dataclass(frozen=True)
class NetworkChange:
    """A change of a network during its evaluation.

    Attributes
    ----------
    name
        The folder of the results, below the folder of the unchanged network's results.
    record
        Entries of the report that describe the change.
    applied
        Takes the opened questions; returns a context in which their model is changed. It may also
        leave out questions.
    """

    name: str
    record: dict[str, Any]
    applied: Callable[[AskedQuestions], AbstractContextManager[None]]


def evaluate_checkpoint(
    settings: EvaluateSettings, change: NetworkChange | None = None
) -> tuple[EvaluationLayout, dict[str, Any] | None]:
    """Answer a split's questions with a checkpoint's model, and score the answers.

    Several processes share the questions; the first writes the results. If the checkpoint was
    trained on some images of the split, these images are left out, and the report has their number
    as ``images_left_out``.

    Parameters
    ----------
    change
        A change of the network. Its results go to a folder of its name in the output folder.

    Returns
    -------
    tuple
        The files that were written, and the report, which is None for a split without answers. The
        files are ``<split>_predictions.jsonl`` and ``<split>.json``. Without answers the second is
        ``<split>_answers.txt``, one answer per line, the format of CLEVR's authors.

    Raises
    ------
    UserError
        If the checkpoint or a data file cannot be used, if the output folder is in use or cannot be
        written, or if memory runs out.
    """
    split, folder = settings.split, Path(settings.output or "")
    if settings.output is None:
        folder = RunLayout(output_folder(settings.checkpoint)).evaluation
    files = EvaluationLayout(folder if change is None else folder / change.name, split)
    if processes.is_first():
        check_output(files.predictions)
    with open_questions(
        settings, split, store=settings.store, missing_images=settings.missing_images
    ) as opened:
        report = _report_header(opened, split)
        altered: AbstractContextManager[None] = nullcontext()
        if change is not None:
            report |= change.record
            altered = change.applied(opened)
        questions = opened.loader.questions
        with altered, folder_lock(files.folder, split):
            predictions = predict(opened.model, opened.loader, precision=settings.precision)
            targets: Tensor | None = None
            if opened.loader.has_targets:
                targets = opened.loader.read_targets(torch.arange(len(questions))).cpu()
            if processes.is_first():
                _write_predictions(files, predictions, targets, opened)
            if targets is None:
                return files, None
            objects = num_objects(opened.layout.scene_json(split), questions.images)
            questions = replace(questions, num_objects=objects)
            report |= task_of(opened.model).report(predictions, targets, questions)
            if processes.is_first():
                write_file(files.report, json.dumps(report, indent=1) + "\n")
    return files, report


@dataclass(frozen=True)
class AskedQuestions:
    """A trained network, and the questions of a split.

    Attributes
    ----------
    checkpoint
        The checkpoint's path; ``content`` is the result of ``load_checkpoint``.
    model
        The network in evaluation mode, on the loader's device.
    layout
        The data files.
    """

    checkpoint: Path
    content: dict[str, Any]
    model: nn.Module
    vocabulary: Vocabulary
    layout: DatasetLayout
    loader: Loader


@contextmanager
def open_questions(
    settings: AskedSettings,
    split: str,
    *,
    store: str = "auto",
    missing_images: MissingImages = "refuse",
) -> Iterator[AskedQuestions]:
    """Open a checkpoint, and the questions and features of a split, within a block.

    Parameters
    ----------
    store, missing_images
        As in ``open_loader``.

    Raises
    ------
    UserError
        If the checkpoint or a data file cannot be used, or memory runs out, also in the block.
    """
    checkpoint = checkpoint_file(settings.checkpoint)
    content = load_checkpoint(checkpoint)
    model, vocabulary = model_from_checkpoint(content, checkpoint)
    layout = _data_layout(content["data"], settings.h5, settings.features)
    device = choose_device(settings.device)
    _check_folders(checkpoint, layout, settings)
    loader = open_loader(
        layout, split, vocabulary, settings.batch_size, device, store,
        missing_images=missing_images, missing_images_option="missing_images",
        targets=targets_of(model),
    )  # fmt: skip

    def out_of_memory_message() -> str:
        return (
            f"{checkpoint}: out of memory on {device}; lower batch_size={settings.batch_size}, or "
            "choose store=stream"
        )

    with closing(loader), explained_out_of_memory(out_of_memory_message):
        model = model.to(device)
        if settings.accelerate:
            print(accelerate(model))
        yield AskedQuestions(checkpoint, content, model, vocabulary, layout, loader)


def output_folder(checkpoint: str | Path) -> Path:
    """The default folder of results: the checkpoint's folder, or ``outputs/<name>`` for a network
    of the package."""
    if shipped_file(checkpoint) is not None:
        return Path("outputs", str(checkpoint))
    return checkpoint_file(checkpoint).parent


def _report_header(opened: AskedQuestions, split: str) -> dict[str, Any]:
    """The entries of the report that describe the checkpoint and the data.

    Also removes questions about images that the checkpoint was trained on from the loader.
    """
    content, loader = opened.content, opened.loader
    inputs = record_inputs(opened.vocabulary, {split: loader})
    train_images = _train_images(content, opened.layout, split)
    if train_images is not None:
        rows = (~torch.isin(loader.questions.images, train_images)).nonzero().flatten()
        loader.questions = loader.questions.select(rows)
    changed = changed_inputs(content["inputs"], inputs)
    if different := feature_differences(content, loader.store.feature_spec):
        made = f"how the features of {split} were made"
        changed = [*(c for c in changed if c != made), f"{made} ({'; '.join(different)})"]
    if changed:
        differing = " and ".join(changed)
        warn(f"{opened.checkpoint}: was not trained with these data: {differing} differ")
    return {
        "checkpoint": str(opened.checkpoint),
        "step": content["progress"]["step"],
        "split": split,
        "inputs": inputs,
        "not_as_trained_with": changed,
        "images_left_out": 0 if train_images is None else len(train_images),
    }


def _data_layout(
    data: dict[str, Any], h5: str | Path | None = None, features: str | Path | None = None
) -> DatasetLayout:
    """The layout of a checkpoint's entry ``data``; folders other than None replace the entry's."""
    if features is None:
        features = data["features"] if h5 is None else h5
    h5 = data["h5"] if h5 is None else h5
    return DatasetLayout.under(Path(h5).parent, h5=h5, features=features, backbone=data["backbone"])


def _check_folders(checkpoint: Path, layout: DatasetLayout, settings: AskedSettings) -> None:
    """Raise ``UserError`` if the checkpoint's data are missing here, as on another machine.

    The message names the options to give.
    """
    if settings.h5 is None and not layout.h5.is_dir():
        missing, remedy = layout.h5, "h5=<folder of question files>, and features=<folder> if " \
            "features are elsewhere"  # fmt: skip
    elif settings.features is None and settings.h5 is None and not layout.features.is_dir():
        missing, remedy = layout.features, "features=<folder of feature files>"
    else:
        return
    raise UserError(
        f"{checkpoint}: was trained with data in {missing}, which is not here; give {remedy}"
    )


def _train_images(content: dict[str, Any], layout: DatasetLayout, split: str) -> Tensor | None:
    """The indices (M,) of the split's images that a checkpoint was trained on.

    None if it was trained on none or all of them. Indices identify images only within one feature
    file.
    """
    data = content["data"]
    train_features = _data_layout(data).feature_h5(split).resolve()
    is_same_file = layout.feature_h5(split).resolve() == train_features
    images: Tensor | None = content["train_images"]
    return images if is_same_file and split == data["train_split"] else None


def _write_predictions(
    files: EvaluationLayout, predictions: Tensor, targets: Tensor | None, opened: AskedQuestions
) -> None:
    """Write a record per question; for a split without answers also a file of answers in words."""
    questions = opened.loader.questions
    records = task_of(opened.model).records(predictions, targets, opened.vocabulary)
    with atomic_write(files.predictions) as stream:
        rows = zip(
            questions.original_index.tolist(), questions.images.tolist(), records, strict=True
        )
        for question, image, record in rows:
            line = {"question_index": question, "image_index": image, **record}
            stream.write(json.dumps(line).encode() + b"\n")
    if targets is None and "answer" in records[0]:
        write_file(files.answers, "".join(f"{record['answer']}\n" for record in records))
