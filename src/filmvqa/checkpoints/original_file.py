"""Read the entries, options and weights of a checkpoint of the original FiLM code or clevr-iep.

The file is a dictionary that ``torch.save`` wrote, in any version of torch from 0.1 on. Versions
differ in what they save: batch norm's ``num_batches_tracked`` exists from 0.4.1 on. Weights of any
floating-point type are converted to float32.
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

#: A number of layers. The limit is far above any of the original code's, and prevents a broken file
#: from building a huge model.
Count = Annotated[int, msgspec.Meta(ge=0, le=1000)]
#: The original code writes flags as booleans or as 0 and 1.
Flag = bool | int
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class OriginalModel:
    """A checkpoint of the original code, converted to a model of this project.

    Attributes
    ----------
    name
        The model's name in ``MODELS``.
    kwargs
        The model's options.
    weights
        The model's state dictionary, in float32.
    vocabulary
    """

    name: str
    kwargs: dict[str, Any]
    weights: dict[str, Tensor]
    vocabulary: Vocabulary


def read_content(path: str | Path) -> dict[str, Any]:
    """Read the dictionary in a file; no code in the file is executed.

    Raises
    ------
    UserError
        If the file is missing, unreadable, or not a checkpoint of the original code.
    """
    try:
        with open(path, "rb") as stream, warnings.catch_warnings(action="ignore"):
            # torch warns about other pickle protocols, whether it can read them or not.
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a checkpoint of the original code") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({one_line(error)}); fix that and try again"
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
    """Read an entry of a checkpoint, or of its vocabulary: a dictionary with strings as keys."""
    entry = content.get(name)
    if not isinstance(entry, dict):
        what = "lacks" if entry is None else "has no dictionary as"
        raise UserError(
            f"{path}: not a FiLM checkpoint of the original code nor one of its baselines: it "
            f"{what} {name!r}"
        )
    if odd := [key for key in entry if not isinstance(key, str)]:
        raise UserError(f"{path}: {name} has the key {odd[0]!r}, which is not a string")
    return entry


def read_vocabulary(content: Mapping[str, Any], path: str | Path) -> Vocabulary:
    """Read and check the vocabulary of a checkpoint."""
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
    """Read the options in an entry of a checkpoint, except those in ``ignored``.

    Missing options have the defaults of the original code's classes.
    """
    options = {k: v for k, v in read_entry(content, name, path).items() if k not in ignored}
    if unknown := sorted(options.keys() - set(options_type.__struct_fields__)):
        raise UserError(f"{path}: {name} has {unknown[0]!r}, which the original code does not have")
    try:
        return msgspec.convert(options, options_type)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {name}: {one_line(error)}") from None


class WeightReader:
    """Takes weights from an entry of a checkpoint one by one.

    ``rest`` has the names of the weights that were not taken yet.
    """

    def __init__(self, content: Mapping[str, Any], name: str, path: str | Path) -> None:
        self._state, self._name, self._path = read_entry(content, name, path), name, path
        self.rest = set(self._state)

    def rows(self, name: str) -> int:
        """The number of rows of a weight."""
        return len(self._tensor(name))

    def take(self, name: str, shape: Iterable[int]) -> Tensor:
        """Take a weight, copied to float32.

        Raises
        ------
        UserError
            If it is missing, has another shape, or is not of a floating-point type.
        """
        if name.endswith(_COUNTER):
            return self._counter(name)
        value, shape = self._tensor(name), tuple(shape)
        self.rest.discard(name)
        if tuple(value.shape) != shape:
            raise UserError(
                f"{self._path}: its weights do not fit its options: {name!r} is "
                f"{tuple(value.shape)}, and they require {shape}"
            )
        weight: Tensor = value.detach().to(torch.float32, copy=True)
        return weight

    def _tensor(self, name: str) -> Tensor:
        value = self._state.get(name)
        if value is None:
            raise UserError(
                f"{self._path}: lacks {name!r} in {self._name}, which its options require"
            )
        is_strided = isinstance(value, Tensor) and value.layout == torch.strided
        if not is_strided or value.ndim == 0 or not value.dtype.is_floating_point:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{self._path}: {name!r} in {self._name} is not a weight ({what})")
        weight: Tensor = value
        return weight

    def _counter(self, name: str) -> Tensor:
        """Take batch norm's count of batches, which has no effect on the computation.

        It is 0 in checkpoints of torch versions without a count.
        """
        self.rest.discard(name)
        value = self._state.get(name)
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            return torch.tensor(int(value))
        return torch.tensor(0)

    def refuse_rest(self, ignored: tuple[str, ...] = ()) -> None:
        """Raise ``UserError`` if a weight was not taken, except names starting with ``ignored``."""
        odd = sorted(name for name in self.rest if not name.startswith(ignored or ("\0",)))
        if odd:
            raise UserError(
                f"{self._path}: has {odd[0]!r} in {self._name}, which its options do not have"
            )


def expected_weights(
    name: str, kwargs: dict[str, Any], vocabulary: Vocabulary, path: str | Path
) -> dict[str, Tensor]:
    """Add the vocabulary's sizes to a model's options, and return its weights on the meta device.

    Raises
    ------
    UserError
        If no model can be built with the options.
    """
    kwargs["vocab_size"], kwargs["num_answers"] = len(vocabulary.question), len(vocabulary.answer)
    try:
        with torch.device("meta"):
            return build_model(name, **kwargs).state_dict()
    except (UserError, RuntimeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise UserError(f"{path}: no model has these options ({one_line(error)})") from None


def check_sizes(words: int, answers: int, vocabulary: Vocabulary, path: str | Path) -> None:
    """Raise ``UserError`` unless the vocabulary's sizes are those of the weights."""
    sizes = len(vocabulary.question), len(vocabulary.answer)
    if (words, answers) != sizes:
        raise UserError(
            f"{path}: its vocabulary has {sizes[0]} words and {sizes[1]} answers, its weights "
            f"{words} and {answers}"
        )


def encoder_name(name: str) -> str:
    """The name in torch's recurrent modules of a weight of ``QuestionEncoder``'s layers.

    For example, ``weight_ih_l1_reverse`` for ``encoder.layers.1.1.weight_ih_l0``.
    """
    _, _, layer, direction, parameter = name.split(".")
    return f"{parameter.removesuffix('_l0')}_l{layer}{'_reverse' if direction == '1' else ''}"
