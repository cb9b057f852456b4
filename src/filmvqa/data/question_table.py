"""Question JSON to numbers in one pass.

700,000 CLEVR questions as Python records would take four gigabytes, so each is decoded, turned into
token numbers and let go. Numbers are given in the order in which tokens come; the vocabulary, which
is known only at the end, renumbers them.
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
from filmvqa.clevr.schema import Function, Question, decode_json
from filmvqa.data.vocabulary import END, SPECIAL_TOKENS, START, tokenize
from filmvqa.errors import UserError
from filmvqa.files import read_bytes

_REMEDY = "download it (scripts/download_clevr.py) or generate it (scripts/generate_clevr.py)"
_FETCH_AGAIN = "fetch or generate it again"
MISSING = -1


class Numbering(dict[str, int]):
    """Numbers of tokens, a new one for each token not met before."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


@dataclass
class Rows:
    """Rows of numbers of different lengths, one behind the other."""

    values: array[int] = field(default_factory=lambda: array("i"))
    lengths: array[int] = field(default_factory=lambda: array("i"))

    def append(self, row: list[int]) -> None:
        self.values.extend(row)
        self.lengths.append(len(row))

    def counts(self, numbering: Mapping[str, int]) -> dict[str, int]:
        """How often each token comes."""
        found = np.bincount(np.frombuffer(self.values, np.int32), minlength=len(numbering))
        return {name: int(found[number]) for name, number in numbering.items()}

    def padded(self, table: NDArray[np.int32]) -> NDArray[np.int32]:
        """Renumbered by ``table``, as one array (N, T) padded with 0."""
        lengths = np.frombuffer(self.lengths, np.int32)
        out = np.zeros((len(lengths), int(lengths.max(initial=1))), np.int32)
        filled = np.arange(out.shape[1]) < lengths[:, None]
        out[filled] = table[np.frombuffer(self.values, np.int32)]
        return out


@dataclass
class QuestionTable:
    """All questions of a file. Rows of ``questions`` and ``programs`` are numbers of ``words`` and
    ``steps`` between START's and END's; a program that is not there is an empty row, an answer,
    family or type that is not there ``MISSING``. ``names`` has the image names by index.
    """

    path: Path
    words: Numbering
    steps: Numbering
    answer_names: Numbering
    questions: Rows
    programs: Rows
    answers: array[int]
    families: array[int]
    types: array[int]
    images: array[int]
    original: array[int]
    names: dict[int, str]

    def __len__(self) -> int:
        return len(self.images)


class _File(msgspec.Struct):
    questions: list[msgspec.Raw]


def read_question_table(path: Path, images_folder: Path | None = None) -> QuestionTable:
    """Read a question file.

    Parameters
    ----------
    images_folder
        Every image that a question names must be in it; None: wherever they are.

    Raises
    ------
    UserError
        For malformed JSON, a record or program of another shape, or an absent image.
    """
    records = decode_json(read_bytes(path, _REMEDY), _File, path, _FETCH_AGAIN).questions
    if not records:
        raise UserError(f"{path}: no questions in it")
    special = {name: i for i, name in enumerate(SPECIAL_TOKENS)}
    words, steps, answer_names = Numbering(special), Numbering(special), Numbering()
    start, end = special[START], special[END]
    questions, programs = Rows(), Rows()
    answers, families, types, images, original = (array("i") for _ in range(5))
    names: dict[int, str] = {}
    there = None if images_folder is None else {path.name for path in images_folder.iterdir()}
    decode = msgspec.json.Decoder(Question).decode
    answer_functions = {name: i for i, name in enumerate(ANSWER_FUNCTIONS)}
    order_of = cache(prefix_order)
    step_of = cache(lambda name, *values: steps[token(Function(name, [], list(values)))])
    i = 0
    try:
        for i, raw in enumerate(records):
            question = decode(raw)
            index = question.image_index
            if index is None:
                index = _index_in_name(question.image_filename)
            if index < 0:
                raise ValueError(f"image_index {index}")
            if there is not None and question.image_filename not in there:
                raise ValueError(
                    f"is about {question.image_filename}, which is not in {images_folder}; "
                    "fetch or generate the images again"
                )
            images.append(index)
            names[index] = question.image_filename
            original.append(i if question.question_index is None else question.question_index)
            questions.append([start, *[words[word] for word in tokenize(question.question)], end])
            answer, family = question.answer, question.question_family_index
            answers.append(MISSING if answer is None else answer_names[answer])
            families.append(MISSING if family is None else family)
            program = question.program
            if not program:
                programs.append([])
                types.append(MISSING)
                continue
            numbers = [step_of(step.function, *step.value_inputs) for step in program]
            order = order_of(tuple([tuple(step.inputs) for step in program]))
            programs.append([start, *[numbers[j] for j in order], end])
            last = program[-1].function
            if last not in answer_functions:
                raise ValueError(f"its program ends in {last!r}")
            types.append(answer_functions[last])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = str(error).replace("`$", f"`$.questions[{i}]")
        if place == str(error):  # it does not say where in the record
            place = f"question {i}: {place}"
        raise UserError(f"{path}: {place}; {_FETCH_AGAIN}") from None
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: question {i}: {error}") from None
    return QuestionTable(
        path, words, steps, answer_names, questions, programs, answers, families, types, images,
        original, names,
    )  # fmt: skip


def _index_in_name(name: str) -> int:
    digits = re.search(r"(\d+)\.png$", name)
    if digits is None:
        raise ValueError("no image_index, and none in its name")
    return int(digits[1])
