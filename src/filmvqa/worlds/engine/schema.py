"""Typed records of CLEVR v1.0's JSON files (Johnson et al., CVPR 2017).

The fields are those of the release, so code for CLEVR reads generated files, and this module reads
CLEVR's files. It also reads questions in the form of CLEVR's generator, which the sets made with
that generator have (Super-CLEVR, CLEVR-Math).
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from filmvqa.system.errors import UserError
from filmvqa.system.files import atomic_write, read_bytes
from filmvqa.system.layout import image_number


class Info(msgspec.Struct, omit_defaults=True):
    """The ``info`` record of a CLEVR file."""

    split: str
    license: str = ""
    version: str = ""
    date: str = ""


def check_filename(name: str) -> None:
    """Raise ``ValueError`` if an image's name is not a plain file name.

    In a struct's ``__post_init__``, msgspec adds the position in the JSON file to the error.
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise ValueError(f"image_filename {name!r} is not a plain file name")


def check_relationships(
    relationships: dict[str, list[list[int]]], count: int, relations: Sequence[str]
) -> None:
    """Raise ``ValueError`` unless each relation has a row of valid indices for every object."""
    for relation in relations:
        rows = relationships.get(relation, [])
        if len(rows) != count or any(not 0 <= j < count for row in rows for j in row):
            raise ValueError(f"relationships {relation!r} do not fit {count} objects")


class Function(msgspec.Struct):
    """One step of a functional program; ``inputs`` are indices of earlier steps."""

    function: str
    inputs: list[int]
    value_inputs: list[str] = []


class _QuestionFields(msgspec.Struct):
    image_filename: str
    question: str
    image_index: int | None = None
    split: str | None = None
    question_index: int | None = None
    question_family_index: int | None = None

    def __post_init__(self) -> None:
        check_filename(self.image_filename)


class Question(_QuestionFields, omit_defaults=True):
    """One question about an image.

    Questions of CLEVR's test split have no answer, program or family, and those of CLEVR-Humans
    have no program. A referring expression has no answer, but the indices of the ``objects`` that
    it refers to. ``question_type`` is for sets without programs. ``template_filename`` is for
    templates other than the world's.
    """

    answer: str | None = None
    program: list[Function] | None = None
    objects: list[int] | None = None
    question_type: str | None = None
    template_filename: str | None = None


class StepRecord(msgspec.Struct, gc=False):
    """A step of a program in a question file. CLEVR's generator writes ``type`` for ``function``,
    and in earlier versions ``side_inputs`` for ``value_inputs``."""

    inputs: list[int]
    function: str | None = None
    type: str | None = None
    value_inputs: list[str | int] | None = None
    side_inputs: list[str | int] | None = None

    def name_and_values(self) -> tuple[str, list[str | int]]:
        """The function and its values, under either name; ``ValueError`` if there is no function,
        or if two fields contradict each other."""
        name, values = self.function or self.type, self.value_inputs or self.side_inputs or []
        if not name:
            raise ValueError("a step of its program has no function")
        if self.type is not None and self.type != name:
            raise ValueError(f"a step of its program has the function {name!r}, type {self.type!r}")
        if self.side_inputs and self.side_inputs != values:
            raise ValueError(
                f"a step of its program has the value_inputs {values}, "
                f"side_inputs {self.side_inputs}"
            )
        return name, values


def plain_text(value: bool | int | float | str | None) -> str | None:
    """A JSON value as text, as in the release: booleans are ``yes`` and ``no``, and whole numbers
    have no decimal point. Returns None for None or an empty string."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


class QuestionRecord(_QuestionFields, gc=False):
    """A question in a question file. Its answer may be a boolean or a number. If it names a
    template file, its family number may be counted within that file."""

    template_filename: str | None = None
    answer: bool | int | float | str | None = None
    program: list[StepRecord] | None = None
    objects: list[int] | None = None
    question_type: bool | int | float | str | None = None

    def answer_text(self) -> str | None:
        """The answer as ``plain_text``."""
        return plain_text(self.answer)

    def type_text(self) -> str | None:
        """The question type as ``plain_text``."""
        return plain_text(self.question_type)

    def normalised(self) -> Question:
        """The question in the release's form, with the image's index from its name if there is no
        ``image_index``; ``ValueError`` if a step contradicts itself."""
        index = self.image_index
        index = image_number(self.image_filename) if index is None else index
        program = None
        if self.program is not None:
            steps = [(step, *step.name_and_values()) for step in self.program]
            program = [
                Function(name, s.inputs, [str(v) for v in values]) for s, name, values in steps
            ]
        return Question(
            self.image_filename, self.question, index, self.split, self.question_index,
            self.question_family_index, self.answer_text(), program, self.objects, self.type_text(),
            self.template_filename,
        )  # fmt: skip


class QuestionFile(msgspec.Struct):
    questions: list[Question]
    info: Info | None = None


class _RecordFile(msgspec.Struct):
    questions: list[QuestionRecord]
    info: Info | None = None


T = TypeVar("T")
#: Remedies for a missing JSON file of a set, a damaged one, and one with invalid content.
FETCH = "download it (scripts/download_clevr.py) or generate it (scripts/generate_clevr.py)"
FETCH_AGAIN = "fetch or generate it again"
CORRECT = "correct it there"
_GZIP = b"\x1f\x8b"


def decode_json(content: bytes, record_type: type[T], name: str | Path, remedy: str) -> T:
    """Decode JSON bytes into typed records.

    ``name`` begins the error message, and ``remedy`` ends it.

    Raises
    ------
    UserError
        If the JSON is malformed or does not match the type; the message names the position.
    """
    try:
        return msgspec.json.decode(utf8_json(content, name), type=record_type)
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: {error}; {CORRECT}") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{name}: {error}; {remedy}") from None
    except UnicodeDecodeError as error:
        raise not_utf8(name, error) from None


def utf8_json(content: bytes, name: str | Path) -> bytes:
    """Decompress JSON bytes if they are gzip's, and remove a byte-order mark.

    Raises
    ------
    UserError
        If the gzip data are damaged, or the text is UTF-16 or UTF-32.
    """
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{name}: is a damaged gzip file ({error}); {FETCH_AGAIN}") from None
    content = content.removeprefix(codecs.BOM_UTF8)
    # In UTF-16 and UTF-32, one of the first two bytes of JSON is 0, or they are a byte-order mark.
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in content[:2]:
        raise UserError(f"{name}: is text in UTF-16 or UTF-32; save it as UTF-8")
    return content


def not_utf8(name: str | Path, error: UnicodeDecodeError) -> UserError:
    """Return the error for bytes that are not UTF-8."""
    return UserError(f"{name}: is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8")


def read_questions(path: str | Path) -> QuestionFile:
    """Read a CLEVR question file; ``UserError`` if it is missing or damaged."""
    file = decode_json(read_bytes(path, FETCH), _RecordFile, path, FETCH_AGAIN)
    questions = []
    for number, record in enumerate(file.questions):
        try:
            questions.append(record.normalised())
        except ValueError as error:
            raise UserError(f"{path}: question {number}: {error}; {CORRECT}") from None
    return QuestionFile(questions, file.info)


class SceneObjects(msgspec.Struct):
    """The objects of a scene of any world."""

    image_index: int
    objects: list[dict[str, Any]]


class _SceneObjectsFile(msgspec.Struct):
    scenes: list[SceneObjects]


def read_scene_objects(path: str | Path) -> dict[int, list[dict[str, Any]]]:
    """Read the objects of each scene, by the index of its image; ``UserError`` if the file is
    missing or damaged."""
    file = decode_json(read_bytes(path, FETCH), _SceneObjectsFile, path, FETCH_AGAIN)
    return {scene.image_index: scene.objects for scene in file.scenes}


def encode_json(record: Any) -> bytes:
    """Encode a record as compact JSON."""
    return msgspec.json.encode(record)


def numbered(questions: Iterable[Question]) -> Iterator[Question]:
    """Set ``question_index`` of the questions of a file to their positions."""
    for i, question in enumerate(questions):
        question.question_index = i
        yield question


def write_records(path: Path, info: Info, key: str, records: Iterable[Any]) -> int:
    """Write a CLEVR file ``{"info": ..., key: [...]}`` record by record, to bound memory; return
    the number of records."""
    count = 0
    with atomic_write(path) as stream:
        stream.write(b'{"info":' + encode_json(info) + f',"{key}":['.encode())
        for record in records:
            stream.write((b",\n" if count else b"\n") + encode_json(record))
            count += 1
        stream.write(b"\n]}\n")
    return count
