"""A table of questions and a folder of pictures of one's own to CLEVR's layout, without programs.

All is checked before anything is written; a split's questions are written after its pictures.
"""

from __future__ import annotations

import io
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from filmvqa.features.images import IMAGES, read_picture, resize_picture
from filmvqa.features.prefetch import prefetch
from filmvqa.questions.question_table import MAX_TYPES
from filmvqa.questions.read_rows import Row, read_rows
from filmvqa.questions.settings import ImportQuestionsSettings
from filmvqa.questions.vocabulary import tokenize
from filmvqa.system.errors import UserError
from filmvqa.system.files import is_litter, names_in, write_file
from filmvqa.system.layout import DatasetLayout, image_number
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.engine.schema import CORRECT, Info, Question, QuestionFile, encode_json

#: The endings of pictures that a table names without.
_ENDINGS = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
_Size = tuple[int, int]
_THREADS = 16


class _Asked(NamedTuple):
    """A question of the table."""

    place: str
    picture: Path
    question: str
    answer: str
    type: str
    split: str


@dataclass(frozen=True)
class ImportedSplit:
    """What is written of a split: its pictures by the names that they get, in the order of their
    numbers, the size (H, W) to which each is brought (None: it is copied as it is), and the content
    of its question file. ``was_there`` is whether that was there from the start."""

    split: str
    pictures: Mapping[str, Path]
    sizes: Mapping[str, _Size | None]
    num_questions: int
    content: bytes
    was_there: bool

    def describe(self) -> str:
        """The numbers of questions and pictures, to print."""
        state = "complete already" if self.was_there else "written"
        changed = sum(size is not None for size in self.sizes.values())
        resized = f", {changed:,} of them converted" if changed else ""
        return (
            f"{self.num_questions:,} questions, {len(self.pictures):,} pictures{resized}, {state}"
        )

    def picture(self, name: str) -> bytes:
        """The content of the file of a picture."""
        path, size = self.pictures[name], self.sizes[name]
        if size is None:
            return path.read_bytes()
        shown = Image.fromarray(read_picture(path))
        content = io.BytesIO()
        resized = np.ascontiguousarray(resize_picture(shown, size).transpose(1, 2, 0))
        Image.fromarray(resized).save(content, format="PNG")
        return content.getvalue()

    def write(self, folder: Path, name: str) -> None:
        """Write the file of a picture."""
        write_file(folder / name, self.picture(name))


def import_questions(settings: ImportQuestionsSettings) -> list[ImportedSplit]:
    """Write ``images/<split>`` and ``questions/CLEVR_<split>_questions.json`` of a table's splits.

    Raises
    ------
    UserError
        For a table that ``read_rows`` refuses; a row that lacks a question, or an answer or type
        that others have; a picture that is missing or cannot be read; two answers to one question
        about one picture; a split that is not known; and a file of another content in the way.
    """
    layout = settings.data.layout
    asked = _read(settings)
    with folder_lock(layout.root, "import"):
        splits = [
            _plan(layout, split, [one for one in asked if one.split == split], settings)
            for split in dict.fromkeys(one.split for one in asked)
        ]
        for planned in splits:
            folder = layout.image_folder(planned.split)
            absent = [*planned.pictures.keys() - names_in(folder)]
            # In threads, since each waits for the disk.
            for _ in prefetch(partial(planned.write, folder), absent, threads=_THREADS, depth=64):
                pass
            if not planned.was_there:
                write_file(layout.question_json(planned.split), planned.content)
    return splits


def _read(settings: ImportQuestionsSettings) -> list[_Asked]:
    """The questions of the table, checked."""
    source, given = Path(settings.source), settings
    named = (given.picture, given.question, given.answer, given.type, given.split)
    rows = read_rows(source, [column for column in named if column is not None])
    folder = source.parent if given.pictures is None else Path(given.pictures)
    asked, missing = [], []
    for row in rows:
        picture, question, answer, of_type, split = (
            "" if column is None else row.values[column] for column in named
        )
        if not picture or not "".join(tokenize(question)):
            what = "question" if picture else "picture"
            raise UserError(f"{source}: {row.place}: has no {what}; {CORRECT}")
        if (path := _find(folder / picture)) is None:
            missing.append((row, picture))
        else:
            split = _split_of(source, row, split, given)
            asked.append(_Asked(row.place, path, question, answer, of_type, split))
    if missing:
        (row, picture), pictures = missing[0], {name for _, name in missing}
        others = f" (of {len(pictures):,} that are missing)" if len(pictures) > 1 else ""
        raise UserError(
            f"{source}: {row.place}: is about {picture}{others}, which is not in {folder}; add it, "
            "or give pictures=<folder>"
        )
    _check_answers(source, asked)
    if given.split is None and given.into is None:
        asked = _hold_out(asked, given)
    return asked


def _find(path: Path) -> Path | None:
    """The file of a picture, whose ending the table may lack."""
    candidates = [path, *(Path(f"{path}{ending}") for ending in _ENDINGS)]
    return next((one for one in candidates if one.is_file()), None)


def _split_of(source: Path, row: Row, value: str, settings: ImportQuestionsSettings) -> str:
    if settings.split is None:
        return settings.into or settings.data.train_split
    names = settings.data.train_split, settings.data.val_split, "test"
    known = dict(zip(names, names, strict=True)) if settings.splits is None else settings.splits
    if value not in known:
        raise UserError(
            f"{source}: {row.place}: has the split {value!r}, which is none of {', '.join(known)}; "
            f"{CORRECT}, or give splits={{{value}: <split>}} with all of them"
        )
    return known[value]


def _check_answers(source: Path, asked: Sequence[_Asked]) -> None:
    """Raise ``UserError`` for a question that lacks what others have, or has two answers."""
    answered = {one.split for one in asked if one.answer}
    types = {one.type for one in asked if one.type}
    before: dict[tuple[Path, tuple[str, ...]], _Asked] = {}
    for one in asked:
        lacks_type = types and not one.type
        if lacks_type or (one.split in answered and not one.answer):
            what = "type" if lacks_type else "answer"
            raise UserError(f"{source}: {one.place}: has no {what}, and others have one; {CORRECT}")
        if not one.type.isprintable():
            raise UserError(f"{source}: {one.place}: its type has control characters; {CORRECT}")
        other = before.setdefault((one.picture, tuple(tokenize(one.question))), one)
        if other.answer != one.answer:
            raise UserError(
                f"{source}: {one.place}: answers {one.answer!r}, and {other.place} answers "
                f"{other.answer!r} to the same question about {one.picture.name}; keep one of them"
            )
    if len(types) > MAX_TYPES:
        raise UserError(
            f"{source}: has {len(types):,} types of question, and at most {MAX_TYPES} are read; "
            "name another column, or none"
        )


def _hold_out(asked: Sequence[_Asked], settings: ImportQuestionsSettings) -> list[_Asked]:
    """The questions, of which those about a part of the pictures go to the validation split: no
    picture without which training would lack a word or an answer."""
    tokens: dict[Path, set[str]] = {}
    for one in asked:
        tokens.setdefault(one.picture, set()).update([*tokenize(one.question), f"= {one.answer}"])
    left = Counter(token for of_picture in tokens.values() for token in of_picture)
    order = sorted(tokens)
    random.Random(0).shuffle(order)
    held_out: set[Path] = set()
    for picture in order:
        if len(held_out) >= round(settings.held_out * len(order)):
            break
        if all(left[token] > 1 for token in tokens[picture]):
            held_out.add(picture)
            left.subtract(tokens[picture])
    names = settings.data.train_split, settings.data.val_split
    return [one._replace(split=names[one.picture in held_out]) for one in asked]


def _plan(
    layout: DatasetLayout, split: str, asked: Sequence[_Asked], settings: ImportQuestionsSettings
) -> ImportedSplit:
    """What is to be written of a split; raises ``UserError`` for what cannot be."""
    paths = list(dict.fromkeys(one.picture for one in asked))
    headers = {path: _header(path) for path in paths}
    is_one_size = len({size for size, _ in headers.values()}) == 1
    sizes: dict[Path, _Size | None] = {}
    for path, (size, is_plain) in headers.items():
        wanted = size if is_one_size else settings.data.image_size
        sizes[path] = None if is_plain and size == wanted else wanted
    numbers = [image_number(path.name) for path in paths]
    known = {number for number in numbers if number is not None}
    keeps_names = (
        len(known) == len(paths) and max(known) - min(known) + 1 == len(paths)
        and max(known) < 2**31 - 1
        and not any(is_litter(path.name) or "\\" in path.name for path in paths)
    )  # fmt: skip
    names: dict[Path, str] = {}
    indices: dict[Path, int] = {}
    for i, path in enumerate(paths):
        stem = path.stem if keeps_names else re.sub(r"[^\w-]+", "_", path.stem)[:60] + f"_{i:06d}"
        names[path] = stem + (path.suffix if sizes[path] is None else ".png")
        indices[path] = numbers[i] if keeps_names else i  # type: ignore[assignment]
    questions = [
        Question(
            names[one.picture], one.question, indices[one.picture], split, i,
            answer=one.answer or None, question_type=one.type or None,
        )
        for i, one in enumerate(asked)
    ]  # fmt: skip
    content = encode_json(QuestionFile(questions, Info(split))) + b"\n"
    target = layout.question_json(split)
    was_there = target.exists()
    if was_there and target.read_bytes() != content:
        raise UserError(f"{target}: is there, of other questions; give another data.root")
    planned = ImportedSplit(
        split,
        {names[path]: path for path in sorted(paths, key=indices.__getitem__)},
        {names[path]: sizes[path] for path in paths},
        len(asked), content, was_there,
    )  # fmt: skip
    _check_folder(layout.image_folder(split), planned)
    return planned


def _header(path: Path) -> tuple[_Size, bool]:
    """The size (H, W) of a picture, and whether it is one as data sets have it. Others are read, as
    far as Pillow knows them, and so are checked."""
    try:
        width, height = IMAGES.size(path)
        return (height, width), path.suffix.lower() in IMAGES.suffixes
    except UserError:
        height, width, _ = read_picture(path).shape
        return (height, width), False


def _check_folder(folder: Path, planned: ImportedSplit) -> None:
    """Raise ``UserError`` for a picture in the folder that is another one."""
    for name in names_in(folder):
        if is_litter(name):
            continue
        if name not in planned.pictures:
            raise UserError(
                f"{folder / name}: is none of the pictures of {planned.split}; give another "
                "data.root"
            )
        path = folder / name
        if not path.samefile(planned.pictures[name]) and path.read_bytes() != planned.picture(name):
            raise UserError(f"{path}: is another picture than the one that would be written there; "
                            "give another data.root")  # fmt: skip
