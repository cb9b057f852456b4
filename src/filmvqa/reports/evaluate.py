"""Evaluating a checkpoint: table, JSON, predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from filmvqa.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.data.loader import QuestionSet
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.devices import choose_device
from filmvqa.errors import warn
from filmvqa.evaluation.accuracy import accuracy_report
from filmvqa.evaluation.predictions import predict
from filmvqa.files import atomic_write, write_file
from filmvqa.locks import folder_lock
from filmvqa.memory import explained_out_of_memory
from filmvqa.training.provenance import changed_inputs, inputs
from filmvqa.training.run import DataFiles


def evaluate_checkpoint(
    checkpoint: str | Path,
    split: str,
    *,
    folder: str | Path | None = None,
    features_folder: str | Path | None = None,
    output: str | Path | None = None,
    batch_size: int = 256,
    device: str = "auto",
    precision: str = "auto",
    store: str = "auto",
) -> tuple[Path, dict[str, Any] | None]:
    """Answer a split's questions with the model that a checkpoint alone describes.

    Parameters
    ----------
    folder, features_folder
        Where question and feature files lie; None: where the checkpoint's training data lay.
    output
        Where the results go; None: ``evaluation`` beside the checkpoint.

    Where the checkpoint was trained on a part of this very split, that part's images are left
    out, and ``images_left_out`` of the report counts them.

    Returns
    -------
    tuple
        The output folder and the report, None for a split without answers. Written there:
        ``<split>_predictions.jsonl`` and ``<split>.json``, or, without answers,
        ``<split>_answers.txt`` with an answer a line, as CLEVR's authors take them.
    """
    content = load_checkpoint(checkpoint)
    model, vocabulary = model_from_checkpoint(content, checkpoint)
    recorded = content["data"]
    trained = DataFiles(
        Path(recorded["folder"]), Path(recorded["features_folder"]), recorded["backbone"]
    )
    files = trained
    if folder is not None:
        files = replace(files, folder=Path(folder), features_folder=Path(folder))
    if features_folder is not None:
        files = replace(files, features_folder=Path(features_folder))
    where = choose_device(device)
    loader = files.loader(split, vocabulary, batch_size, where, store)
    now = inputs(vocabulary, {split: loader})
    # Indices name the same images only in the same features.
    own = files.features(split).resolve() == trained.features(split).resolve()
    seen = content["train_images"] if own and split == recorded["train_split"] else None
    if seen is not None:
        asked = loader.questions.images
        loader.questions = loader.questions.select((~torch.isin(asked, seen)).nonzero().flatten())
    other = changed_inputs(content["inputs"], now)
    if other:
        warn(f"{checkpoint}: was not trained with these data: {' and '.join(other)} differ")
    target = Path(output) if output is not None else Path(checkpoint).parent / "evaluation"
    with (
        folder_lock(target, split),
        explained_out_of_memory(
            lambda: (
                f"{checkpoint}: out of memory on {where}; lower batch_size={batch_size}, or "
                "choose store=stream"
            )
        ),
    ):
        found = predict(model.to(where), loader, precision=precision)
        _write_predictions(target, split, found, loader.questions, vocabulary)
        if loader.questions.answers is None:
            return target, None
        report = {
            "checkpoint": str(checkpoint),
            "step": content["progress"]["step"],
            "split": split,
            "inputs": now,
            "not_as_trained_with": other,
            "images_left_out": 0 if seen is None else len(seen),
            **accuracy_report(found, loader.questions),
        }
        write_file(target / f"{split}.json", json.dumps(report, indent=1) + "\n")
    return target, report


def _write_predictions(
    folder: Path, split: str, found: Tensor, questions: QuestionSet, vocabulary: Vocabulary
) -> None:
    answers = vocabulary.answers()
    truths = questions.answers.tolist() if questions.answers is not None else None
    with atomic_write(folder / f"{split}_predictions.jsonl") as stream:
        rows = zip(
            found.tolist(), questions.images.tolist(), questions.original.tolist(), strict=True
        )
        for i, (answer, image, number) in enumerate(rows):
            record = {"question_index": number, "image_index": image, "answer": answers[answer]}
            if truths is not None:
                record["truth"] = answers[truths[i]]
            stream.write(json.dumps(record).encode() + b"\n")
    if truths is None:
        lines = "".join(f"{answers[a]}\n" for a in found.tolist())
        write_file(folder / f"{split}_answers.txt", lines)
