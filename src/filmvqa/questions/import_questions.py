"""Import a user's table of questions and folder of pictures into CLEVR's layout, without programs.

Everything is checked before anything is written. The questions of a split are written after its
pictures.
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

#: File name endings that a table may leave out.
_ENDINGS = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
_Size = tuple[int, int]
_THREADS = 16


class _TableQuestion(NamedTuple):
    place: str
    picture: Path
    text: str
    answer: str
    type: str
    split: str


@dataclass(frozen=True)
class ImportedSplit:
    """The files of a split.

    Attributes
    ----------
    pictures
        The source of each picture, by its new name, in the order of image numbers.
    sizes
        (H, W) to which each picture is resized; None: it is copied unchanged.
    content
        The content of the question file.
    was_there
        Whether the question file already existed.
    """

    split: str
    pictures: Mapping[str, Path]
    sizes: Mapping[str, _Size | None]
    num_questions: int
    content: bytes
    was_there: bool

    def describe(self) -> str:
        """Describe the numbers of questions and pictures."""
        state = "already complete" if self.was_there else "written"
        changed = sum(size is not None for size in self.sizes.values())
        resized = f", {changed:,} of them resized, as PNG" if changed else ""
        return (
            f"{self.num_questions:,} questions, {len(self.pictures):,} pictures{resized}, {state}"
        )

    def picture(self, name: str) -> bytes:
        """The content of a picture's new file."""
        path, size = self.pictures[name], self.sizes[name]
        if size is None:
            return path.read_bytes()
        content = io.BytesIO()
        resized = resize_picture(Image.fromarray(read_picture(path)), size)
        Image.fromarray(np.ascontiguousarray(resized.transpose(1, 2, 0))).save(content, "PNG")
        return content.getvalue()

    def write(self, folder: Path, name: str) -> None:
        """Write a picture's new file."""
        write_file(folder / name, self.picture(name))


def import_questions(settings: ImportQuestionsSettings) -> list[ImportedSplit]:
    """Write ``images/<split>`` and ``questions/CLEVR_<split>_questions.json`` for a table's splits.

    Raises
    ------
    UserError
        If ``read_rows`` refuses the table; a row lacks a question, or an answer or type that others
        have; a picture is missing or unreadable; a question about a picture has two answers; a
        split is unknown; or a file that would be written exists with other content.
    """
    layout = settings.data.layout
    questions = _read(settings)
    with folder_lock(layout.root, "import"):
        splits = [
            _plan(layout, split, [q for q in questions if q.split == split], settings)
            for split in dict.fromkeys(q.split for q in questions)
        ]
        for planned in splits:
            folder = layout.image_folder(planned.split)
            missing = [*planned.pictures.keys() - names_in(folder)]
            # In threads, since each write waits for the disk.
            for _ in prefetch(partial(planned.write, folder), missing, threads=_THREADS, depth=64):
                pass
            if not planned.was_there:
                write_file(layout.question_json(planned.split), planned.content)
    return splits


def _read(settings: ImportQuestionsSettings) -> list[_TableQuestion]:
    """Read and check the questions of the table."""
    source, names = Path(settings.source), ("picture", "question", "answer", "type", "split")
    columns = [getattr(settings, name) for name in names]
    rows = read_rows(source, [column for column in columns if column is not None])
    folder = source.parent if settings.pictures is None else Path(settings.pictures)
    questions, missing = [], []
    for row in rows:
        picture, text, answer, question_type, split = (
            "" if column is None else row.values[column] for column in columns
        )
        if not picture or not "".join(tokenize(text)):
            lacking = "question" if picture else "picture"
            raise UserError(f"{source}: {row.place}: has no {lacking}; {CORRECT}")
        candidates = [Path(f"{folder / picture}{ending}") for ending in ("", *_ENDINGS)]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            missing.append((row, picture))
        else:
            split = _split_of(source, row, split, settings)
            questions.append(_TableQuestion(row.place, path, text, answer, question_type, split))
    if missing:
        (row, picture), pictures = missing[0], {name for _, name in missing}
        others = f" (of {len(pictures):,} that are missing)" if len(pictures) > 1 else ""
        raise UserError(
            f"{source}: {row.place}: is about {picture}{others}, which is not in {folder}; add it, "
            "or give pictures=<folder>"
        )
    _check_answers(source, questions)
    if settings.split is None and settings.into is None:
        questions = _hold_out(questions, settings)
    return questions


def _split_of(source: Path, row: Row, value: str, settings: ImportQuestionsSettings) -> str:
    if settings.split is None:
        return settings.into or settings.data.train_split
    names = settings.data.train_split, settings.data.val_split, "test"
    splits = dict(zip(names, names, strict=True)) if settings.splits is None else settings.splits
    if value not in splits:
        raise UserError(
            f"{source}: {row.place}: has the split {value!r}, which is none of "
            f"{', '.join(splits)}; {CORRECT}, or give splits={{{value}: <split>}} with all of them"
        )
    return splits[value]


def _check_answers(source: Path, questions: Sequence[_TableQuestion]) -> None:
    """Raise ``UserError`` if a question lacks what others have, or has two answers."""
    answered = {q.split for q in questions if q.answer}
    types = {q.type for q in questions if q.type}
    first: dict[tuple[Path, tuple[str, ...]], _TableQuestion] = {}
    for q in questions:
        lacks_type = types and not q.type
        if lacks_type or (q.split in answered and not q.answer):
            lacking = "type" if lacks_type else "answer"
            raise UserError(
                f"{source}: {q.place}: has no {lacking}, but others have one; {CORRECT}"
            )
        if not q.type.isprintable():
            raise UserError(f"{source}: {q.place}: its type has control characters; {CORRECT}")
        other = first.setdefault((q.picture, tuple(tokenize(q.text))), q)
        if other.answer != q.answer:
            raise UserError(
                f"{source}: {q.place}: answers {q.answer!r}, and {other.place} answers "
                f"{other.answer!r} to the same question about {q.picture.name}; keep one of them"
            )
    if len(types) > MAX_TYPES:
        raise UserError(
            f"{source}: has {len(types):,} types of question, and at most {MAX_TYPES} are read; "
            "choose another column, or none"
        )


def _hold_out(
    questions: Sequence[_TableQuestion], settings: ImportQuestionsSettings
) -> list[_TableQuestion]:
    """Move the questions about some pictures to the validation split.

    A picture is not held out if training would then lack a word or an answer.
    """
    tokens: dict[Path, set[str]] = {}
    for q in questions:
        tokens.setdefault(q.picture, set()).update([*tokenize(q.text), f"= {q.answer}"])
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
    return [q._replace(split=names[q.picture in held_out]) for q in questions]


def _plan(
    layout: DatasetLayout,
    split: str,
    questions: Sequence[_TableQuestion],
    settings: ImportQuestionsSettings,
) -> ImportedSplit:
    """Plan the files of a split; raise ``UserError`` if other files are in the way."""
    paths = list(dict.fromkeys(q.picture for q in questions))
    headers = {path: _header(path) for path in paths}
    is_one_size = len({size for size, _ in headers.values()}) == 1
    sizes: dict[Path, _Size | None] = {}
    for path, (size, is_plain) in headers.items():
        target_size = size if is_one_size else settings.data.image_size
        sizes[path] = None if is_plain and size == target_size else target_size
    numbers = [image_number(path.name) for path in paths]
    distinct = {number for number in numbers if number is not None}
    # Keep the names of the pictures if their numbers are a sequence without gaps.
    keeps_names = (
        len(distinct) == len(paths) and max(distinct) - min(distinct) + 1 == len(paths)
        and max(distinct) < 2**31 - 1
        and not any(is_litter(path.name) or "\\" in path.name for path in paths)
    )  # fmt: skip
    names: dict[Path, str] = {}
    indices: dict[Path, int] = {}
    for i, path in enumerate(paths):
        stem = path.stem if keeps_names else re.sub(r"[^\w-]+", "_", path.stem)[:60] + f"_{i:06d}"
        names[path] = stem + (path.suffix if sizes[path] is None else ".png")
        indices[path] = numbers[i] if keeps_names else i  # type: ignore[assignment]
    records = [
        Question(
            names[q.picture], q.text, indices[q.picture], split, i,
            answer=q.answer or None, question_type=q.type or None,
        )
        for i, q in enumerate(questions)
    ]  # fmt: skip
    content = encode_json(QuestionFile(records, Info(split))) + b"\n"
    target = layout.question_json(split)
    was_there = target.exists()
    if was_there and target.read_bytes() != content:
        raise UserError(f"{target}: exists with other questions; give another data.root")
    planned = ImportedSplit(
        split,
        {names[path]: path for path in sorted(paths, key=indices.__getitem__)},
        {names[path]: sizes[path] for path in paths},
        len(questions), content, was_there,
    )  # fmt: skip
    folder = layout.image_folder(split)
    for name in names_in(folder):
        if is_litter(name):
            continue
        path = folder / name
        if name not in planned.pictures:
            raise UserError(f"{path}: is none of the pictures of {split}; give another data.root")
        if not path.samefile(planned.pictures[name]) and path.read_bytes() != planned.picture(name):
            raise UserError(
                f"{path}: is another picture than the one to write there; give another data.root"
            )
    return planned


def _header(path: Path) -> tuple[_Size, bool]:
    """The size (H, W) of a picture, and whether a data set can have it unchanged.

    Pictures of other formats are read whole, which also checks them.
    """
    try:
        width, height = IMAGES.size(path)
        return (height, width), path.suffix.lower() in IMAGES.suffixes
    except UserError:
        height, width, _ = read_picture(path).shape
        return (height, width), False
