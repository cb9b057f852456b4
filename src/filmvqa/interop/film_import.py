"""Checkpoints of the original FiLM code as checkpoints of this project."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from filmvqa.checkpoint import save_checkpoint
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError
from filmvqa.interop.original_film import read_original_film
from filmvqa.training.run import DataFiles


def import_original_film(
    source: str | Path, target: str | Path, data: DataFiles, padded_length: int = 46
) -> Vocabulary:
    """Turn a checkpoint of the original code into one that ``evaluate_checkpoint`` takes.

    ``vocab.json`` beside ``target`` gets its vocabulary, by which questions are to be encoded.

    Parameters
    ----------
    data
        Where evaluation finds questions and features if it is told nothing else.
    padded_length
        To which the questions that it was trained on were padded, CLEVR's longest one: the
        backward direction of a bidirectional encoder reads the padding.

    Raises
    ------
    UserError
        For a file that cannot be loaded, a target that exists, or another vocabulary beside it.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target}: exists already; choose another output, or delete it")
    found = read_original_film(source)
    vocabulary = Vocabulary(*found.vocabulary.values())
    vocabulary.check(str(source))
    beside = target.parent / "vocab.json"
    if beside.exists() and Vocabulary.load(beside) != vocabulary:
        raise UserError(f"{beside}: is another vocabulary; choose an output in another folder")
    if found.kwargs["encoder"]["bidirectional"]:  # our batches are padded no more than they need
        found.kwargs["encoder"]["padded_length"] = padded_length
    target.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.save(beside)
    save_checkpoint(
        target,
        {
            "model": {"name": "film", "kwargs": found.kwargs},
            "weights": found.weights,
            "average": None,
            "config": {"imported_from": Path(source).name},
            "vocabulary": vocabulary.to_dict(),
            "data": {name: str(value) for name, value in asdict(data).items()},
            "inputs": {"vocabulary": vocabulary.sha256()},
            "train_images": None,
            "progress": {"step": 0, "finished": True},
        },
    )
    return vocabulary
