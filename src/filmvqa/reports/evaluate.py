"""Evaluating a checkpoint: table, JSON, predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from filmvqa.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.data.batches import open_loader
from filmvqa.data.questions import QuestionDataset
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.devices import choose_device
from filmvqa.errors import warn
from filmvqa.evaluation.accuracy import accuracy_report
from filmvqa.evaluation.predictions import predict
from filmvqa.files import atomic_write, write_file
from filmvqa.layout import DatasetLayout, EvaluationLayout, RunLayout
from filmvqa.locks import folder_lock
from filmvqa.memory import explained_out_of_memory
from filmvqa.training.provenance import changed_inputs, record_inputs


def evaluate_checkpoint(
    checkpoint: str | Path,
    split: str,
    *,
    h5: str | Path | None = None,
    features: str | Path | None = None,
    output: str | Path | None = None,
    batch_size: int = 256,
    device: str = "auto",
    precision: str = "auto",
    store: str = "auto",
) -> tuple[EvaluationLayout, dict[str, Any] | None]:
    """Answer a split's questions with the model that a checkpoint describes.

    Where the checkpoint was trained on a part of this very split, that part's images are left
    out, and ``images_left_out`` of the report counts them.

    Parameters
    ----------
    h5, features
        Folders of question and feature files; None: those of the checkpoint's training data.
    output
        The folder of the results; None: ``evaluation`` beside the checkpoint.

    Returns
    -------
    tuple
        The files written and the report, None for a split without answers. Written are
        ``<split>_predictions.jsonl`` and ``<split>.json``, or, without answers,
        ``<split>_answers.txt`` with one answer a line, the format of CLEVR's authors.
    """
    content = load_checkpoint(checkpoint)
    model, vocabulary = model_from_checkpoint(content, checkpoint)
    layout = _data_layout(content["data"], h5, features)
    torch_device = choose_device(device)
    loader = open_loader(layout, split, vocabulary, batch_size, torch_device, store)
    with loader.store:
        inputs = record_inputs(vocabulary, {split: loader})
        left_out = _train_images(content, layout, split)
        if left_out is not None:
            rows = (~torch.isin(loader.questions.images, left_out)).nonzero().flatten()
            loader.questions = loader.questions.select(rows)
        changed = changed_inputs(content["inputs"], inputs)
        if changed:
            warn(f"{checkpoint}: was not trained with these data: {' and '.join(changed)} differ")
        folder = (
            Path(output) if output is not None else RunLayout(Path(checkpoint).parent).evaluation
        )
        files = EvaluationLayout(folder, split)
        with (
            folder_lock(folder, split),
            explained_out_of_memory(
                lambda: (
                    f"{checkpoint}: out of memory on {torch_device}; lower "
                    f"batch_size={batch_size}, or choose store=stream"
                )
            ),
        ):
            predictions = predict(model.to(torch_device), loader, precision=precision)
            _write_predictions(files, predictions, loader.questions, vocabulary)
            if loader.questions.answers is None:
                return files, None
            report = {
                "checkpoint": str(checkpoint),
                "step": content["progress"]["step"],
                "split": split,
                "inputs": inputs,
                "not_as_trained_with": changed,
                "images_left_out": 0 if left_out is None else len(left_out),
                **accuracy_report(predictions, loader.questions),
            }
            write_file(files.report, json.dumps(report, indent=1) + "\n")
    return files, report


def _data_layout(
    data: dict[str, Any], h5: str | Path | None = None, features: str | Path | None = None
) -> DatasetLayout:
    """The data of a checkpoint's entry ``data``, or those in the folders given."""
    if features is None:
        features = data["features"] if h5 is None else h5
    h5 = data["h5"] if h5 is None else h5
    return DatasetLayout.under(Path(h5).parent, h5=h5, features=features, backbone=data["backbone"])


def _train_images(content: dict[str, Any], layout: DatasetLayout, split: str) -> Tensor | None:
    """The images (M,) of this split that a checkpoint was trained on, None for none or all.

    Indices identify images only within the same feature file.
    """
    data = content["data"]
    trained_on = _data_layout(data).feature_h5(split).resolve()
    same_file = layout.feature_h5(split).resolve() == trained_on
    images: Tensor | None = content["train_images"]
    return images if same_file and split == data["train_split"] else None


def _write_predictions(
    files: EvaluationLayout, predictions: Tensor, questions: QuestionDataset, vocabulary: Vocabulary
) -> None:
    answers = vocabulary.answers()
    truths = questions.answers.tolist() if questions.answers is not None else None
    with atomic_write(files.predictions) as stream:
        rows = zip(
            predictions.tolist(),
            questions.images.tolist(),
            questions.original_index.tolist(),
            strict=True,
        )
        for i, (answer, image, number) in enumerate(rows):
            record = {"question_index": number, "image_index": image, "answer": answers[answer]}
            if truths is not None:
                record["truth"] = answers[truths[i]]
            stream.write(json.dumps(record).encode() + b"\n")
    if truths is None:
        lines = "".join(f"{answers[a]}\n" for a in predictions.tolist())
        write_file(files.answers, lines)
