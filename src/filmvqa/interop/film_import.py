"""Checkpoints of the original FiLM code as checkpoints of this project."""

from __future__ import annotations

from pathlib import Path

from filmvqa.checkpoint import save_checkpoint
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError
from filmvqa.interop.original_film import read_original_film
from filmvqa.layout import DatasetLayout


def import_original_film(
    source: str | Path,
    target: str | Path,
    data: DatasetLayout,
    *,
    train_split: str = "train",
    val_split: str = "val",
    padded_length: int = 46,
) -> Vocabulary:
    """Write a checkpoint of the original code as one of this project, and its vocabulary as
    ``vocab.json`` beside it; questions are to be encoded with that vocabulary.

    Parameters
    ----------
    data
        Where evaluation looks for questions and features by default.
    padded_length
        The length to which the questions that it was trained on were padded, by default that of
        CLEVR's longest: the backward direction of a bidirectional encoder reads the padding.

    Returns
    -------
    Vocabulary
        The checkpoint's.

    Raises
    ------
    UserError
        For a file that cannot be loaded, a target that exists, or another vocabulary beside it.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target}: exists already; choose another output, or delete it")
    original = read_original_film(source)
    vocabulary = Vocabulary(*original.vocabulary.values())
    vocabulary.check(source)
    vocabulary_path = DatasetLayout.under(target.parent, h5=target.parent).vocabulary
    if vocabulary_path.exists() and Vocabulary.load(vocabulary_path) != vocabulary:
        raise UserError(
            f"{vocabulary_path}: is another vocabulary; choose an output in another folder"
        )
    if original.kwargs["encoder"]["bidirectional"]:  # our batches are padded no more than they need
        original.kwargs["encoder"]["padded_length"] = padded_length
    target.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.save(vocabulary_path)
    save_checkpoint(
        target,
        {
            "model": {"name": "film", "kwargs": original.kwargs},
            "weights": original.weights,
            "ema_weights": None,
            "config": {"imported_from": Path(source).name},
            "vocabulary": vocabulary.to_dict(),
            "data": {
                "h5": str(data.h5),
                "features": str(data.features),
                "backbone": data.backbone,
                "train_split": train_split,
                "val_split": val_split,
            },
            "backbone": None,
            "inputs": {"vocabulary": vocabulary.sha256()},
            "train_images": None,
            "progress": {"step": 0, "finished": True},
        },
    )
    return vocabulary
