"""Convert question JSON to numbers in one pass.

As Python records, 700,000 CLEVR questions would take four gigabytes. Each record is therefore
decoded, converted to token numbers and dropped. Tokens are numbered in the order of their first
occurrence; the vocabulary, known only at the end, renumbers them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from filmvqa.questions.vocabulary import END, SPECIAL_TOKENS, START, tokenize
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import names_in, read_bytes
from filmvqa.system.layout import image_number, image_stem, refuse_table
from filmvqa.worlds.engine.programs import answering_step, last_steps, prefix_order, token
from filmvqa.worlds.engine.schema import (
    CORRECT,
    FETCH,
    FETCH_AGAIN,
    Function,
    QuestionRecord,
    StepRecord,
    decode_json,
    not_utf8,
)
from filmvqa.worlds.engine.world import CLEVR, World

#: Stands for an answer, family or type that a question does not have.
MISSING = -1


class Numbering(dict[str, int]):
    """Numbers of tokens. A lookup of a new token gives it the next number."""

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

    def row_of(self, place: int) -> int:
        """The row of the number at an index of ``values``."""
        ends = np.frombuffer(self.lengths, np.int32).cumsum()
        return int(np.searchsorted(ends, place, side="right"))

    def append(self, row: list[int]) -> None:
        self.values.extend(row)
        self.lengths.append(len(row))

    def select(self, kept: NDArray[np.bool_]) -> Rows:
        """Select rows by a mask (N,)."""
        lengths = np.frombuffer(self.lengths, np.int32)
        values = np.frombuffer(self.values, np.int32)[np.repeat(kept, lengths)]
        return Rows(array("i", values.tobytes()), array("i", lengths[kept].tobytes()))

    def counts(self, numbering: Mapping[str, int]) -> dict[str, int]:
        """The count of each token."""
        counts = np.bincount(np.frombuffer(self.values, np.int32), minlength=len(numbering))
        return {name: int(counts[number]) for name, number in numbering.items()}

    def padded(self, table: NDArray[np.int32]) -> NDArray[np.int32]:
        """Renumber by ``table``, and pad with 0 to one array (N, T)."""
        lengths = np.frombuffer(self.lengths, np.int32)
        padded = np.zeros((len(lengths), int(lengths.max(initial=1))), np.int32)
        is_token = np.arange(padded.shape[1]) < lengths[:, None]
        padded[is_token] = table[np.frombuffer(self.values, np.int32)]
        return padded


#: Columns that a file may have for all, some or none of its questions; what a question then lacks.
OPTIONAL_COLUMNS = {
    "answers": "answer", "types": "program", "families": "family", "objects": "objects",
}  # fmt: skip
#: Sets of objects are stored as the bits of a positive 64-bit integer.
MAX_OBJECTS = 63
#: The largest number of question types: a report with more rows would be unreadable.
MAX_TYPES = 500


@dataclass
class QuestionTable:
    """All questions of a file.

    Attributes
    ----------
    questions, programs
        Rows of numbers of ``words`` and ``steps``, between those of START and END. A missing
        program is an empty row.
    answers, families, types, objects, groups
        ``MISSING`` if a question has none. Types index the world's ``type_names`` followed by its
        ``referring_functions``; if no question has a program, ``own_types``: the sorted type names
        that the questions themselves give. ``objects`` are the set that an expression refers to, as
        bits; ``groups`` are numbers of the ``template_files`` that questions name.
    numbers
        The place of each question in the file.
    left_out
        How many questions were left out, by what they lack.
    """

    path: Path
    world: World = CLEVR
    words: Numbering = field(default_factory=_special_numbering)
    steps: Numbering = field(default_factory=_special_numbering)
    answer_names: Numbering = field(default_factory=Numbering)
    questions: Rows = field(default_factory=Rows)
    programs: Rows = field(default_factory=Rows)
    answers: array[int] = field(default_factory=_empty)
    families: array[int] = field(default_factory=_empty)
    template_files: Numbering = field(default_factory=Numbering)
    groups: array[int] = field(default_factory=_empty)
    types: array[int] = field(default_factory=_empty)
    objects: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=_empty)
    original_index: array[int] = field(default_factory=_empty)
    numbers: array[int] = field(default_factory=_empty)
    image_names: dict[int, str] = field(default_factory=dict)
    own_types: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_words: Counter[str] = field(default_factory=Counter)
    left_out_steps: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def question_types(self) -> Mapping[str, tuple[str, ...]]:
        """The names that types index, by question type."""
        return {name: (name,) for name in self.own_types} or self.world.question_types

    def incomplete(self) -> dict[str, NDArray[np.bool_]]:
        """Masks (N,) of questions that lack something that others have, by what they lack."""
        names = OPTIONAL_COLUMNS | ({"types": "type"} if self.own_types else {})
        lacking = {name: np.asarray(getattr(self, key)) == MISSING for key, name in names.items()}
        return {name: rows for name, rows in lacking.items() if rows.any() and not rows.all()}

    def leave_out(self, rows: NDArray[np.bool_], lacking: str) -> None:
        """Remove the questions that a mask (N,) selects; ``lacking`` says what they lack."""
        self.questions, self.programs = self.questions.select(~rows), self.programs.select(~rows)
        for name, column in [*vars(self).items()]:
            if isinstance(column, array):
                setattr(self, name, array(column.typecode, np.asarray(column)[~rows].tobytes()))
        images = set(self.images)
        self.image_names = {i: name for i, name in self.image_names.items() if i in images}
        self.left_out[lacking] += int(rows.sum())


class _File(msgspec.Struct):
    questions: list[msgspec.Raw]


def read_question_table(
    path: Path,
    images_folder: Path | None = None,
    *,
    leave_out: bool = False,
    world: World = CLEVR,
) -> QuestionTable:
    """Read a question file, in the format of CLEVR's release or of CLEVR's generator.

    Parameters
    ----------
    images_folder
        The folder that must have every image that a question names; None: images are not checked.
    leave_out
        Leave out questions about missing images instead of refusing them.
    world
        The world of the questions; it defines the functions that give answers.

    Raises
    ------
    UserError
        If JSON or a program is malformed, an image is missing, or an image's index and name
        contradict each other or an earlier question.
    """
    refuse_table(path)
    records = decode_json(read_bytes(path, FETCH), _File, path, FETCH_AGAIN).questions
    if not records:
        raise UserError(f"{path}: no questions in it; {FETCH}")
    builder = _TableBuilder(QuestionTable(path, world), images_folder, leave_out)
    decode = msgspec.json.Decoder(QuestionRecord).decode
    number = 0
    try:
        for number, raw in enumerate(records):
            builder.add(number, decode(raw))
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path}: question {number}", error) from None
    except msgspec.DecodeError as error:
        message = str(error).replace("`$", f"`$.questions[{number}]")
        if message == str(error):  # the message gives no place in the record
            message = f"question {number}: {message}"
        remedy = CORRECT if isinstance(error, msgspec.ValidationError) else FETCH_AGAIN
        raise UserError(f"{path}: {message}; {remedy}") from None
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: question {number}: {error}") from None
    if not len(builder.table):
        raise UserError(
            f"{path}: none of the images of its {len(records):,} questions is in {images_folder}; "
            "add them"
        )
    builder.number_families()
    builder.take_own_types()
    return builder.table


class _TableBuilder:
    """Adds question records to a table."""

    def __init__(self, table: QuestionTable, images_folder: Path | None, leave_out: bool) -> None:
        self.table = table
        self._images_folder, self._leave_out = images_folder, leave_out
        self._image_files = None
        if images_folder is not None:
            self._image_files = set(map(image_stem, names_in(images_folder)))
        self._image_index: dict[str, int] = {}
        self._first_question: dict[int, int] = {}
        self._type_names, self._own_types = Numbering(), _empty()
        self._start, self._end = table.words[START], table.words[END]
        ends = (*table.world.type_names, *table.world.referring_functions)
        self._types = {name: i for i, name in enumerate(ends)}
        # Programs of a family share their structure, and most steps recur. Results are cached by
        # the inputs of a program's steps, and by a step's function and values.
        self._order_of, self._only_order_of = cache(prefix_order), cache(_only_order)
        self._number_of_step = cache(
            lambda name, *values: table.steps[token(Function(name, [], [str(v) for v in values]))]
        )

    def add(self, number: int, question: QuestionRecord) -> None:
        """Add record ``number`` of the file; raise ``ValueError`` if it is inconsistent."""
        table, image = self.table, question.image_filename
        index = self._image_index.get(image)
        if index is None:
            index = self._new_image(number, question)
        elif question.image_index is not None and question.image_index != index:
            raise ValueError(
                f"has image_index {question.image_index} for {image}, question "
                f"{self._first_question[index]} has {index}; {CORRECT}"
            )
        if self._image_files is not None and image_stem(image) not in self._image_files:
            if not self._leave_out:
                raise ValueError(
                    f"is about {image}, which is not in {self._images_folder}; add the image, or "
                    "leave such questions out with data.missing_images=leave_out"
                )
            table.left_out["image"] += 1
            # The vocabulary must not depend on which images exist.
            table.left_out_words.update(tokenize(question.question))
            for step in question.program or []:
                name, values = step.name_and_values()
                table.left_out_steps[token(Function(name, [], [str(v) for v in values]))] += 1
            if (answer := question.answer_text()) is not None:
                table.answer_names[answer]  # the lookup numbers the answer
            return
        table.images.append(index)
        table.image_names[index] = image
        table.numbers.append(number)
        original_index = question.question_index
        table.original_index.append(number if original_index is None else original_index)
        words = [table.words[word] for word in tokenize(question.question)]
        table.questions.append([self._start, *words, self._end])
        answer, family = question.answer_text(), question.question_family_index
        if family is not None and family < 0:
            raise ValueError(f"has question_family_index {family}; {CORRECT}")
        table.answers.append(MISSING if answer is None else table.answer_names[answer])
        table.families.append(MISSING if family is None else family)
        template = question.template_filename
        table.groups.append(MISSING if template is None else table.template_files[template])
        own_type = question.type_text()
        self._own_types.append(MISSING if own_type is None else self._type_names[own_type])
        self._add_program(question.program, refers=question.objects is not None)
        table.objects.append(MISSING if question.objects is None else _bits(question.objects))

    def number_families(self) -> None:
        """Give families the numbers of the release, or warn that their numbers are ambiguous.

        CLEVR's generator numbers families from 0 in each template file. The release's numbers are
        known for the world's own template files only.
        """
        table, files = self.table, self.table.template_files
        templates = np.array(table.groups, np.int32)
        families = np.frombuffer(table.families, np.int32)
        if all(Path(name).stem in table.world.family_groups for name in files):
            # Families alone identify these files. Drop the groups, as the release has none.
            table.template_files, table.groups = Numbering(), array("i", [MISSING] * len(templates))
        if not files or (families == MISSING).any() or (templates == MISSING).any():
            return
        names, groups = [Path(name).stem for name in files], table.world.family_groups
        first = dict(zip(groups, accumulate(groups.values(), initial=0), strict=False))
        counts = np.array([groups.get(name, 0) for name in names])
        if (families < counts[templates]).all():
            offsets = np.array([first[name] for name in names], np.int32)
            table.families = array("i", (offsets[templates] + families).tobytes())
            return
        pairs = np.unique(np.stack([families, templates]), axis=1)
        if len(np.unique(pairs[0])) < pairs.shape[1]:
            warn(
                f"{table.path}: the numbers of its question families start again in each template "
                f"file ({', '.join(sorted(files))}), so that tables by family mix them"
            )

    def take_own_types(self) -> None:
        """Take the types that questions name, unless programs determine them."""
        table, names = self.table, sorted(self._type_names)
        if table.programs.values or not names:
            return
        if len(names) > MAX_TYPES:
            count = f"{len(names):,} values of question_type, and at most {MAX_TYPES} are read"
            raise UserError(f"{table.path}: has {count}; give fewer, or none")
        if odd := [name for name in names if not name.isprintable()]:
            raise UserError(f"{table.path}: has the question_type {odd[0]!r}; {CORRECT}")
        rank = {self._type_names[name]: i for i, name in enumerate(names)}
        table.own_types = tuple(names)
        table.types = array("i", [rank.get(number, MISSING) for number in self._own_types])

    def _new_image(self, number: int, question: QuestionRecord) -> int:
        """Register an image that no earlier question is about, and return its index."""
        image, in_name = question.image_filename, image_number(question.image_filename)
        index = in_name if question.image_index is None else question.image_index
        if index is None:
            raise ValueError(f"no image_index, and none in its name {image}; {CORRECT}")
        if not 0 <= index < 2**31 - 1:
            raise ValueError(f"has image_index {index}; {CORRECT}")
        if in_name is not None and in_name != index:
            raise ValueError(
                f"has image_index {index}, and its image_filename {image} says {in_name}; {CORRECT}"
            )
        if index in self._first_question:
            first = self._first_question[index]
            other = next(name for name, i in self._image_index.items() if i == index)
            raise ValueError(
                f"has image_index {index} for {image}, question {first} has it for {other}; "
                f"{CORRECT}"
            )
        self._image_index[image] = index
        self._first_question[index] = number
        return index

    def _add_program(self, program: list[StepRecord] | None, *, refers: bool) -> None:
        if not program:
            self.table.programs.append([])
            self.table.types.append(MISSING)
            return
        steps, number_of = [], self._number_of_step
        for step in program:
            name, values = step.function, step.value_inputs
            if name is None or step.type is not None or step.side_inputs is not None:
                name, values = step.name_and_values()
            steps.append(number_of(name, *values) if values else number_of(name))
        inputs = tuple([tuple(step.inputs) for step in program])
        order = self._only_order_of(inputs)
        if order is None:
            names = [step.name_and_values()[0] for step in program]
            order = self._order_of(inputs, answering_step(names, inputs, self.table.world))
        self.table.programs.append([self._start, *[steps[j] for j in order], self._end])
        last = program[order[0]].name_and_values()[0]
        gives_objects = last in self.table.world.referring_functions
        if last not in self._types or gives_objects != refers:
            wanted, world = "objects" if refers else "answer", self.table.world
            raise ValueError(
                f"its program ends in {last!r}, which gives no {wanted} in the world of "
                f"{world.dataset or world.name}; {CORRECT}, or choose its world"
            )
        self.table.types.append(self._types[last])


def _bits(objects: list[int]) -> int:
    """Encode a set of objects as bits; raise ``ValueError`` if it is not a valid set."""
    if any(not 0 <= i < MAX_OBJECTS for i in objects) or len(set(objects)) < len(objects):
        raise ValueError(f"has the objects {objects}; {CORRECT}")
    return sum(1 << i for i in objects)


def _only_order(inputs: tuple[tuple[int, ...], ...]) -> list[int] | None:
    """The prefix order of a program, or None if several of its steps could give the answer."""
    ends = last_steps(inputs)
    return prefix_order(inputs, ends[0]) if len(ends) == 1 else None
