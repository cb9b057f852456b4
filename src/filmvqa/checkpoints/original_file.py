"""The file of a checkpoint of the original FiLM code, or of clevr-iep: entries, options, weights.

It is a dictionary that ``torch.save`` wrote, with torch from version 0.1 on. Versions differ in
what they save: batch norm's ``num_batches_tracked`` exists from 0.4.1 on. Weights of any
floating-point type are read, and converted to float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import torch
from torch import Tensor

from filmvqa.models import build_model
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError, one_line

#: A number of layers or the like: none of the original's is near the limit, which keeps a broken
#: file from building a huge model.
Count = Annotated[int, msgspec.Meta(ge=0, le=1000)]
#: The original writes flags as booleans or as 0 and 1.
Flag = bool | int
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class OriginalModel:
    """A checkpoint of the original code, translated.

    Attributes
    ----------
    name
        Name of the model in ``MODELS``.
    kwargs
        Options of the model.
    weights
        State dictionary of the model, in float32.
    vocabulary
    """

    name: str
    kwargs: dict[str, Any]
    weights: dict[str, Tensor]
    vocabulary: Vocabulary


def read_content(path: str | Path) -> dict[str, Any]:
    """The dictionary that a file holds; no code in it is executed.

    Raises
    ------
    UserError
        If the file is missing, cannot be read, or is no such checkpoint.
    """
    try:
        with open(path, "rb") as stream, warnings.catch_warnings(action="ignore"):
            # torch warns of other protocols of pickle, which either can be read or are refused.
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a checkpoint of the original code") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({one_line(error)}); see to that and try again"
        ) from None
    except Exception as error:  # torch raises errors of many types for a broken file
        raise UserError(
            f"{path}: not a readable checkpoint ({one_line(error, 120)}); give a file that the "
            "original code's train_model.py wrote"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: is a {type(content).__name__}, not a checkpoint of the original code, which "
            "is a dictionary"
        )
    return content


def read_entry(content: Mapping[str, Any], name: str, path: str | Path) -> dict[str, Any]:
    """An entry of the checkpoint, or of its vocabulary, that is a dictionary with strings as its
    keys."""
    entry = content.get(name)
    if not isinstance(entry, dict):
        what = "lacks" if entry is None else "has no dictionary as"
        raise UserError(
            f"{path}: not a FiLM checkpoint of the original code nor one of its baselines: it "
            f"{what} {name!r}"
        )
    if odd := [key for key in entry if not isinstance(key, str)]:
        raise UserError(f"{path}: {name} has the key {odd[0]!r}, which is no name")
    return entry


def read_vocabulary(content: Mapping[str, Any], path: str | Path) -> Vocabulary:
    """The checkpoint's vocabulary, checked."""
    entry = read_entry(content, "vocab", path)
    maps = []
    for key in ("question_token_to_idx", "program_token_to_idx", "answer_token_to_idx"):
        try:
            maps.append(msgspec.convert(read_entry(entry, key, path), dict[str, int]))
        except msgspec.ValidationError as error:
            raise UserError(f"{path}: vocab, {key}: {one_line(error)}") from None
    vocabulary = Vocabulary(*maps)
    vocabulary.check(path)
    return vocabulary


Options = TypeVar("Options", bound=msgspec.Struct)


def read_options(
    content: Mapping[str, Any],
    name: str,
    options_type: type[Options],
    ignored: Iterable[str],
    path: str | Path,
) -> Options:
    """The options in an entry of the checkpoint; those that it lacks have the defaults of the
    original's classes, and ``ignored`` ones change nothing."""
    given = {k: v for k, v in read_entry(content, name, path).items() if k not in ignored}
    if unknown := sorted(given.keys() - set(options_type.__struct_fields__)):
        raise UserError(f"{path}: {name} has {unknown[0]!r}, which the original code does not")
    try:
        return msgspec.convert(given, options_type)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {name}: {one_line(error)}") from None


class WeightReader:
    """The weights in an entry of the checkpoint, taken one by one.

    ``rest`` are the names of those that were not taken.
    """

    def __init__(self, content: Mapping[str, Any], name: str, path: str | Path) -> None:
        self._state, self._name, self._path = read_entry(content, name, path), name, path
        self.rest = set(self._state)

    def rows(self, name: str) -> int:
        """The number of rows of a weight."""
        return len(self._tensor(name))

    def take(self, name: str, shape: Iterable[int]) -> Tensor:
        """The weight of that name as float32, in memory of its own.

        Raises
        ------
        UserError
            If it is missing, of another shape, or not of floating-point numbers.
        """
        if name.endswith(_COUNTER):
            return self._counter(name)
        value, shape = self._tensor(name), tuple(shape)
        self.rest.discard(name)
        if tuple(value.shape) != shape:
            raise UserError(
                f"{self._path}: its weights do not fit its options: {name!r} is "
                f"{tuple(value.shape)}, they ask for {shape}"
            )
        weight: Tensor = value.detach().to(torch.float32, copy=True)
        return weight

    def _tensor(self, name: str) -> Tensor:
        value = self._state.get(name)
        if value is None:
            raise UserError(
                f"{self._path}: lacks {name!r} in {self._name}, which its options ask for"
            )
        is_strided = isinstance(value, Tensor) and value.layout == torch.strided
        if not is_strided or value.ndim == 0 or not value.dtype.is_floating_point:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{self._path}: {name!r} in {self._name} is no weight ({what})")
        weight: Tensor = value
        return weight

    def _counter(self, name: str) -> Tensor:
        """Batch norm's count of batches, which changes nothing that is computed; 0 in a checkpoint
        of a version of torch that had none."""
        self.rest.discard(name)
        value = self._state.get(name)
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            return torch.tensor(int(value))
        return torch.tensor(0)

    def refuse_rest(self, ignored: tuple[str, ...] = ()) -> None:
        """Raise ``UserError`` for a weight that was not taken, unless its name begins with one of
        ``ignored``."""
        odd = sorted(name for name in self.rest if not name.startswith(ignored or ("\0",)))
        if odd:
            raise UserError(
                f"{self._path}: has {odd[0]!r} in {self._name}, which its options do not ask for"
            )


def expected_weights(
    name: str, kwargs: dict[str, Any], vocabulary: Vocabulary, path: str | Path
) -> dict[str, Tensor]:
    """The weights of a model, on the meta device, after the vocabulary's sizes were added to its
    options.

    Raises
    ------
    UserError
        If the options do not make a model.
    """
    kwargs["vocab_size"], kwargs["num_answers"] = len(vocabulary.question), len(vocabulary.answer)
    try:
        with torch.device("meta"):
            return build_model(name, **kwargs).state_dict()
    except (UserError, RuntimeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise UserError(f"{path}: its options make no model ({one_line(error)})") from None


def check_sizes(words: int, answers: int, vocabulary: Vocabulary, path: str | Path) -> None:
    """Raise ``UserError`` unless the vocabulary has as many words and answers as the weights."""
    sizes = len(vocabulary.question), len(vocabulary.answer)
    if (words, answers) != sizes:
        raise UserError(
            f"{path}: its vocabulary has {sizes[0]} words and {sizes[1]} answers, its weights "
            f"{words} and {answers}"
        )


def encoder_name(name: str) -> str:
    """The name of a weight of ``QuestionEncoder``'s recurrent layers in torch's own module, as
    ``weight_ih_l1_reverse`` for ``encoder.layers.1.1.weight_ih_l0``."""
    _, _, layer, direction, parameter = name.split(".")
    return f"{parameter.removesuffix('_l0')}_l{layer}{'_reverse' if direction == '1' else ''}"
