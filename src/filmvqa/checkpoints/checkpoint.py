"""Checkpoints: one file with everything needed to resume, evaluate and answer questions."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from filmvqa.checkpoints.exported import decode_network
from filmvqa.checkpoints.places import SUFFIX, checkpoint_file
from filmvqa.features.feature_file import FEATURE_SPEC
from filmvqa.models import build_model
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.settings.renamed_keys import rename_keys
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import write_file
from filmvqa.system.memory import explained_out_of_memory

FORMAT = "filmvqa-checkpoint-4"
#: The previous format, which is still read.
FORMAT_3 = "filmvqa-checkpoint-3"
#: The entries of every checkpoint and their types. Checkpoints of training runs have more entries.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "weights": (dict,),
    "ema_weights": (dict, type(None)),
    "config": (dict,),
    "vocabulary": (dict,),
    "data": (dict,),
    "backbone": (dict, type(None)),
    "inputs": (dict,),
    "train_images": (torch.Tensor, type(None)),
    "progress": (dict,),
}
#: Keys that entries must have, by entry.
_INNER_KEYS = {
    "model": ("name", "kwargs"),
    "vocabulary": ("question", "program", "answer"),
    "data": ("h5", "features", "backbone", "train_split", "val_split"),
    "backbone": FEATURE_SPEC,
    "progress": ("step", "finished"),
}


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of plain data and tensors atomically."""
    # Serialize in memory first, so that the size is known and a full disk is reported as such:
    # torch would raise another error.
    stream = io.BytesIO()
    torch.save({"format": FORMAT, **content}, stream)
    write_file(path, stream.getbuffer())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint.

    ``path`` is a file of the current or the previous format, an exported network, a run's folder
    (its best checkpoint is loaded), or the name of a network that the package ships. No code in the
    file is executed.

    Raises
    ------
    UserError
        If the file is missing or broken, is not a checkpoint of this project or has another format,
        or there is too little memory.
    OSError
        If the system refuses to read the file, whose content may be intact. The error names the
        file.
    """
    path = checkpoint_file(path)
    # Read the whole file first, so that a system error is not mistaken for broken content.
    try:
        stored = path.read_bytes()
    except OSError as error:
        error.filename = str(path)  # errors of reading, unlike those of opening, name no file
        raise
    except MemoryError:
        raise _out_of_memory(path) from None
    content: dict[str, Any] = {"format": FORMAT}
    if path.suffix == SUFFIX:
        content |= decode_network(stored, path)
    else:
        content = _unpickled(stored, path)
    file_format = content.get("format")
    if file_format == FORMAT_3:
        content = _upgraded(content, path)
    elif file_format != FORMAT:
        problem = "is not a checkpoint of this project"
        if isinstance(file_format, str):
            problem = f"is {file_format!r}, not {FORMAT!r}"
        raise UserError(f"{path}: {problem}; {other_file_remedy(path)}")
    for name, types in _ENTRIES.items():
        entry = content.get(name)
        lacks_keys = isinstance(entry, dict) and not entry.keys() >= {*_INNER_KEYS.get(name, ())}
        if lacks_keys or not isinstance(entry, types):
            raise UserError(f"{path}: its entry {name!r} is missing or broken; {remedy(path)}")
    return content


def _unpickled(stored: bytes, path: str | Path) -> dict[str, Any]:
    """Load the content of a file that torch wrote; an empty dict if it is not a dict."""
    try:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            if corrupt_member := archive.testzip():  # torch does not compare checksums
                raise zipfile.BadZipFile(f"{corrupt_member} has a wrong checksum")
        with explained_out_of_memory(lambda: str(_out_of_memory(path))):
            content = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except (UserError, OSError):  # not about the content: torch imports modules while it loads
        raise
    except Exception as error:  # torch raises errors of many types for a broken file
        reason = one_line(error, 120)
        raise UserError(f"{path}: not a readable checkpoint ({reason}); {remedy(path)}") from None
    return content if isinstance(content, dict) else {}


def _out_of_memory(path: str | Path) -> UserError:
    return UserError(f"{path}: too little memory to read it; free some and run again")


def _upgraded(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Convert the content of a checkpoint of format 3 to the current format."""
    try:
        inputs = {
            name: _renamed(entry, made="feature_spec") if isinstance(entry, dict) else entry
            for name, entry in content["inputs"].items()
        }
        data = content["data"]
        kwargs = rename_keys(content["model"]["kwargs"], "model.")
        upgraded = {
            **content,
            "format": FORMAT,
            "model": {"name": content["model"]["name"], "kwargs": kwargs},
            "ema_weights": content["average"],
            "config": rename_keys(content["config"]),
            "data": _renamed(data, folder="h5", features_folder="features"),
            "backbone": inputs.get(data["train_split"], {}).get("feature_spec"),
            "inputs": inputs,
        }
        del upgraded["average"]
        if "window" in content:
            upgraded["window"] = _renamed(content["window"], right="correct")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: its entry {one_line(error)} is missing or broken; {remedy(path)}"
        ) from None
    return upgraded


def _renamed(entry: dict[str, Any], **new_names: str) -> dict[str, Any]:
    return {new_names.get(key, key): value for key, value in entry.items()}


def remedy(path: str | Path) -> str:
    """The remedy for a broken checkpoint, to end an error message."""
    if Path(path).name != "last.pt":
        return "give a checkpoint that this version of scripts/train.py wrote, or train again"
    begin = "delete it to train from the beginning"
    if Path(path).with_name("best.pt").exists():
        return f"copy best.pt over it to resume from there, or {begin}"
    return begin


def other_file_remedy(path: str | Path) -> str:
    """The remedy for an intact file that is not a checkpoint of this version."""
    if Path(path).name != "last.pt":
        return "give a checkpoint that this version of scripts/train.py wrote"
    return "resume with the version that wrote it, or choose another run=<name>"


def eval_weights(content: dict[str, Any]) -> dict[str, Any]:
    """The weights to evaluate: the exponential moving average, if there is one."""
    weights: dict[str, Any] = content["ema_weights"] or content["weights"]
    return weights


def feature_differences(
    content: dict[str, Any], feature_spec: Mapping[str, Any] | None
) -> list[str]:
    """List how other features differ from those of a checkpoint's training.

    ``feature_spec`` records how the other features were made; None if the file does not record it.
    An item is, for example, ``std [...], not [...]``. Differences of precision do not count, nor
    weights without a hash, such as those of imported checkpoints. A checkpoint that does not record
    its backbone has no differences.
    """
    recorded = content["backbone"]
    if recorded is None:
        return []
    is_pixels = recorded["backbone"] == "pixels"
    if feature_spec is None:
        centered = content["model"]["kwargs"].get("pixel_range", "centered") == "centered"
        return ["they do not say how pixels are scaled"] if is_pixels and centered else []
    names = ["backbone", "image_size"]
    if not is_pixels:
        names += ["stage", "mean", "std"]
        if recorded["weights_sha256"] and feature_spec["weights_sha256"]:
            names += ["weights_sha256"]
    return [
        f"{name} {_rounded(feature_spec[name])}, not {_rounded(recorded[name])}"
        for name in names
        if _rounded(feature_spec[name]) != _rounded(recorded[name])
    ]


def _rounded(value: Any) -> Any:
    """Round to the precision of float32."""
    return [round(float(v), 6) for v in value] if isinstance(value, list | tuple) else value


def vocabulary_of(content: dict[str, Any], path: str | Path) -> Vocabulary:
    """The vocabulary of a checkpoint's content; ``path`` is for error messages.

    Raises
    ------
    UserError
        If the entry is not a valid vocabulary.
    """
    try:
        maps = msgspec.convert(content["vocabulary"], dict[str, dict[str, int]])
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: its vocabulary is broken ({error}); {remedy(path)}") from None
    vocabulary = Vocabulary.from_dict(maps)
    vocabulary.check(path)
    return vocabulary


def vocabulary_in(path: str | Path) -> Vocabulary | None:
    """The vocabulary of the checkpoint at a path, as ``load_checkpoint`` takes it.

    None if the path does not name a checkpoint.
    """
    if checkpoint_file(path).suffix not in (".pt", SUFFIX):
        return None
    return vocabulary_of(load_checkpoint(path), path)


class _Uninitialized(TorchFunctionMode):
    """Make ``nn.init`` leave tensors unchanged.

    Tensors on the meta device have no values, and torch would import its compiler (3 s) to
    initialise them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def model_from_checkpoint(
    content: dict[str, Any], path: str | Path
) -> tuple[nn.Module, Vocabulary]:
    """Build the model of a checkpoint, in evaluation mode, and its vocabulary.

    Raises
    ------
    UserError
        If the model is unknown, if the weights do not fit its options, or if the vocabulary has
        another size than the model.
    """
    vocabulary = vocabulary_of(content, path)
    name, kwargs = content["model"]["name"], content["model"]["kwargs"]
    weights = eval_weights(content)
    try:
        # Use the meta device first, so that weights of wrong sizes fail before memory is allocated.
        with torch.device("meta"), _Uninitialized():
            skeleton = build_model(name, **kwargs)
        skeleton.load_state_dict(weights, assign=True)
    except (UserError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        imports = content["config"].get("imports")
        if isinstance(error, UserError) and imports:
            needed = f"its run had imports=[{', '.join(imports)}]; give them here too"
            raise UserError(f"{path}: {one_line(error)}; {needed}") from None
        raise UserError(
            f"{path}: its weights do not fit its model ({one_line(error)}); {remedy(path)}"
        ) from None
    with explained_out_of_memory(lambda: str(_out_of_memory(path))):
        model = build_model(name, **kwargs)
        model.load_state_dict(weights)
    sizes = (len(vocabulary.question), len(vocabulary.answer))
    # A model that does not answer with words has no ``num_answers``.
    model_sizes = (kwargs["vocab_size"], kwargs.get("num_answers", sizes[1]))
    if sizes != model_sizes:
        raise UserError(
            f"{path}: its vocabulary has {sizes[0]} words and {sizes[1]} answers, its model "
            f"{model_sizes[0]} and {model_sizes[1]}; {remedy(path)}"
        )
    return model.eval(), vocabulary
