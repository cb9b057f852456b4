"""Question JSON to numbers in one pass.

700,000 CLEVR questions as Python records would take four gigabytes, so each record is decoded,
turned into token numbers and dropped. Tokens are numbered in the order in which they first occur;
the vocabulary, which is known only at the end, renumbers them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from filmvqa.clevr.programs import ANSWER_FUNCTIONS, prefix_order, token
from filmvqa.clevr.schema import FETCH, FETCH_AGAIN, Function, Question, decode_json
from filmvqa.data.vocabulary import END, SPECIAL_TOKENS, START, tokenize
from filmvqa.errors import UserError
from filmvqa.files import read_bytes

#: The number of an answer, family or type that a question does not have.
MISSING = -1


class Numbering(dict[str, int]):
    """Numbers of tokens; looking up a new token gives it the next number."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


def _special_numbering() -> Numbering:
    return Numbering({name: i for i, name in enumerate(SPECIAL_TOKENS)})


def _empty() -> array[int]:
    return array("i")


@dataclass
class Rows:
    """Rows of numbers of different lengths, stored one after another."""

    values: array[int] = field(default_factory=_empty)
    lengths: array[int] = field(default_factory=_empty)

    def append(self, row: list[int]) -> None:
        self.values.extend(row)
        self.lengths.append(len(row))

    def counts(self, numbering: Mapping[str, int]) -> dict[str, int]:
        """How often each token occurs."""
        counts = np.bincount(np.frombuffer(self.values, np.int32), minlength=len(numbering))
        return {name: int(counts[number]) for name, number in numbering.items()}

    def padded(self, table: NDArray[np.int32]) -> NDArray[np.int32]:
        """Renumbered by ``table``, as one array (N, T) padded with 0."""
        lengths = np.frombuffer(self.lengths, np.int32)
        padded = np.zeros((len(lengths), int(lengths.max(initial=1))), np.int32)
        is_token = np.arange(padded.shape[1]) < lengths[:, None]
        padded[is_token] = table[np.frombuffer(self.values, np.int32)]
        return padded


@dataclass
class QuestionTable:
    """All questions of a file.

    Rows of ``questions`` and ``programs`` are numbers of ``words`` and ``steps`` between those of
    START and END. A missing program is an empty row; a missing answer, family or type is
    ``MISSING``. ``image_names`` has the image names by index.
    """

    path: Path
    words: Numbering = field(default_factory=_special_numbering)
    steps: Numbering = field(default_factory=_special_numbering)
    answer_names: Numbering = field(default_factory=Numbering)
    questions: Rows = field(default_factory=Rows)
    programs: Rows = field(default_factory=Rows)
    answers: array[int] = field(default_factory=_empty)
    families: array[int] = field(default_factory=_empty)
    types: array[int] = field(default_factory=_empty)
    images: array[int] = field(default_factory=_empty)
    original_index: array[int] = field(default_factory=_empty)
    image_names: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)


class _File(msgspec.Struct):
    questions: list[msgspec.Raw]


def read_question_table(path: Path, images_folder: Path | None = None) -> QuestionTable:
    """Read a question file.

    Parameters
    ----------
    images_folder
        Every image that a question names must be in it; None: this is not checked.

    Raises
    ------
    UserError
        For malformed JSON, a record or program of another shape, or an absent image.
    """
    records = decode_json(read_bytes(path, FETCH), _File, path, FETCH_AGAIN).questions
    if not records:
        raise UserError(f"{path}: no questions in it")
    builder = _TableBuilder(QuestionTable(path), images_folder)
    decode = msgspec.json.Decoder(Question).decode
    number = 0
    try:
        for number, raw in enumerate(records):
            builder.add(number, decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = str(error).replace("`$", f"`$.questions[{number}]")
        if message == str(error):  # it does not say where in the record
            message = f"question {number}: {message}"
        raise UserError(f"{path}: {message}; {FETCH_AGAIN}") from None
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: question {number}: {error}") from None
    return builder.table


class _TableBuilder:
    """Adds question records to a table."""

    def __init__(self, table: QuestionTable, images_folder: Path | None) -> None:
        self.table = table
        self._images_folder = images_folder
        self._image_files = (
            None if images_folder is None else {path.name for path in images_folder.iterdir()}
        )
        self._start, self._end = table.words[START], table.words[END]
        self._answer_functions = {name: i for i, name in enumerate(ANSWER_FUNCTIONS)}
        # Programs of one family share their structure, and most steps recur.
        self._order_of = cache(prefix_order)
        self._number_of_step = cache(
            lambda name, *values: table.steps[token(Function(name, [], list(values)))]
        )

    def add(self, number: int, question: Question) -> None:
        """Add record ``number`` of the file; raises ``ValueError`` where it makes no sense."""
        table, image = self.table, question.image_filename
        index = question.image_index
        if index is None:
            index = _index_in_name(image)
        if index < 0:
            raise ValueError(f"image_index {index}")
        if self._image_files is not None and image not in self._image_files:
            raise ValueError(
                f"is about {image}, which is not in {self._images_folder}; "
                "fetch or generate the images again"
            )
        table.images.append(index)
        table.image_names[index] = image
        original = question.question_index
        table.original_index.append(number if original is None else original)
        words = [table.words[word] for word in tokenize(question.question)]
        table.questions.append([self._start, *words, self._end])
        answer, family = question.answer, question.question_family_index
        table.answers.append(MISSING if answer is None else table.answer_names[answer])
        table.families.append(MISSING if family is None else family)
        self._add_program(question.program)

    def _add_program(self, program: list[Function] | None) -> None:
        if not program:
            self.table.programs.append([])
            self.table.types.append(MISSING)
            return
        steps = [self._number_of_step(step.function, *step.value_inputs) for step in program]
        order = self._order_of(tuple([tuple(step.inputs) for step in program]))
        self.table.programs.append([self._start, *[steps[j] for j in order], self._end])
        last = program[-1].function
        if last not in self._answer_functions:
            raise ValueError(f"its program ends in {last!r}")
        self.table.types.append(self._answer_functions[last])


def _index_in_name(name: str) -> int:
    digits = re.search(r"(\d+)\.png$", name)
    if digits is None:
        raise ValueError("no image_index, and none in its name")
    return int(digits[1])
