"""Checkpoints: all that is needed to go on, to evaluate and to ask, in one file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError, one_line
from filmvqa.files import write_file
from filmvqa.models import build_model

FORMAT = "filmvqa-checkpoint-3"
#: What every checkpoint holds, and of which kind; one that training goes on with has more.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "weights": (dict,),
    "average": (dict, type(None)),
    "config": (dict,),
    "vocabulary": (dict,),
    "data": (dict,),
    "inputs": (dict,),
    "train_images": (torch.Tensor, type(None)),
    "progress": (dict,),
}
_INNER = {
    "model": ("name", "kwargs"),
    "vocabulary": ("question", "program", "answer"),
    "data": ("folder", "features_folder", "backbone", "train_split", "val_split"),
    "progress": ("step", "finished"),
}


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of plain data and tensors, whole or not at all."""
    # In memory first: then it is known how much room it needs, and a full disk is one clean error.
    stream = io.BytesIO()
    torch.save({"format": FORMAT, **content}, stream)
    write_file(path, stream.getbuffer())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in the file is executed.

    Raises
    ------
    UserError
        If it is missing, unreadable or no checkpoint of this project and version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():  # torch does not compare checksums
                raise zipfile.BadZipFile(f"{broken} has another checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; train one with scripts/train.py") from None
    except Exception as error:  # torch raises half a dozen kinds for a file it cannot read
        reason = one_line(error, 120)
        raise UserError(f"{path}: not a readable checkpoint ({reason}); {remedy(path)}") from None
    if not isinstance(content, dict):
        content = {}
    found = content.get("format")
    if found != FORMAT:
        what = f"{found!r}" if isinstance(found, str) else "no checkpoint of this project"
        raise UserError(f"{path}: is {what}, not {FORMAT!r}; {remedy(path)}")
    for name, kinds in _ENTRIES.items():
        inner = content.get(name)
        if not isinstance(inner, kinds) or any(
            key not in inner for key in _INNER.get(name, ()) if isinstance(inner, dict)
        ):
            raise UserError(f"{path}: its entry {name!r} is missing or broken; {remedy(path)}")
    _upgrade(content)
    return content


#: Options of FilmNet and of its blocks: the name that older files have, and today's.
_RENAMED = {"filmed": "film_blocks"}
_RENAMED_OF_BLOCK = {"place": "film_position", "projection": "input_proj_kernel"}


def _upgrade(content: dict[str, Any]) -> None:
    """Give the model's options, in place, the names that they have today."""
    kwargs = content["model"]["kwargs"]
    if content["model"]["name"] != "film" or not isinstance(kwargs, dict):
        return
    _rename(kwargs, _RENAMED)
    if isinstance(kwargs.get("block"), dict):
        _rename(kwargs["block"], _RENAMED_OF_BLOCK)


def _rename(options: dict[str, Any], names: dict[str, str]) -> None:
    for old, new in names.items():
        if old in options:
            options[new] = options.pop(old)


def remedy(path: str | Path) -> str:
    """What to do about a checkpoint that is of no use, to end a message with."""
    if Path(path).name == "last.pt":
        return "copy best.pt over it to go on from there, or delete it to train from the start"
    return "give a checkpoint that this version of scripts/train.py wrote, or train again"


def scored_weights(content: dict[str, Any]) -> dict[str, Any]:
    """The weights that a checkpoint's scores are those of: averaged ones where it has them."""
    found: dict[str, Any] = content["average"] or content["weights"]
    return found


def vocabulary_of(content: dict[str, Any], path: str | Path) -> Vocabulary:
    """The vocabulary that a checkpoint holds.

    Raises
    ------
    UserError
        If it is none.
    """
    try:
        maps = msgspec.convert(content["vocabulary"], dict[str, dict[str, int]])
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: its vocabulary is none ({error}); {remedy(path)}") from None
    vocabulary = Vocabulary.from_dict(maps)
    vocabulary.check(str(path))
    return vocabulary


def model_from_checkpoint(
    content: dict[str, Any], path: str | Path
) -> tuple[nn.Module, Vocabulary]:
    """The model, in evaluation mode, and the vocabulary that a checkpoint holds.

    Raises
    ------
    UserError
        For an unknown model, weights that do not fit its options, or a vocabulary of other size.
    """
    vocabulary = vocabulary_of(content, path)
    name, kwargs = content["model"]["name"], content["model"]["kwargs"]
    weights = scored_weights(content)
    try:
        # Without memory first: what does not fit shall not allocate what it claims to be.
        with torch.device("meta"):
            sketch = build_model(name, **kwargs)
        sketch.load_state_dict(weights, assign=True)
        model = build_model(name, **kwargs)
        model.load_state_dict(weights)
    except (UserError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its model and its weights do not fit ({one_line(error)}); {remedy(path)}"
        ) from None
    sizes = (len(vocabulary.question), len(vocabulary.answer))
    if sizes != (kwargs["vocab_size"], kwargs["num_answers"]):
        raise UserError(
            f"{path}: its vocabulary has {sizes[0]} words and {sizes[1]} answers, its model "
            f"{kwargs['vocab_size']} and {kwargs['num_answers']}; {remedy(path)}"
        )
    return model.eval(), vocabulary
