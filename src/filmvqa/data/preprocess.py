"""Question JSON to vocabulary and question HDF5."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from filmvqa.clevr.programs import ANSWER_FUNCTIONS
from filmvqa.data.hdf5 import HDF5_ERRORS, arrays_sha256
from filmvqa.data.question_table import MISSING, Numbering, QuestionTable, read_question_table
from filmvqa.data.vocabulary import SPECIAL_TOKENS, UNK, Vocabulary
from filmvqa.errors import UserError, one_line, warn
from filmvqa.files import refuse_overwriting, write_file
from filmvqa.layout import DatasetLayout
from filmvqa.locks import folder_lock

FORMAT = "filmvqa-questions-2"


@dataclass(frozen=True)
class PreprocessedSplit:
    """A split's number of questions, and whether its file was complete from the start."""

    split: str
    num_questions: int
    was_there: bool


def names_sha256(names: Iterable[str]) -> str:
    """Hash of image names in index order: ties a question file to its features."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def preprocess_questions(
    layout: DatasetLayout,
    *,
    train_split: str = "train",
    vocab: str | Path | None = None,
    extend_vocab: bool = False,
    allow_unknown: bool = False,
    min_count: int = 1,
) -> list[PreprocessedSplit]:
    """Write ``vocab.json`` and ``<split>_questions.h5`` for every split that has question JSON.

    Where the folder of a split's images exists, every image that a question names must be in it.

    Parameters
    ----------
    train_split
        The split whose words, answers and program steps make the vocabulary.
    vocab
        An existing vocabulary to encode with; None builds one from train alone.
    extend_vocab
        Add train's new tokens to ``vocab``, after its own.
    allow_unknown
        Encode unknown question words as ``<UNK>`` instead of refusing them.
    min_count
        Question words rarer than this in train stay out of a new or extended vocabulary.

    Raises
    ------
    UserError
        For malformed JSON, an unknown word, answer or program step, a missing image, or
        existing files of another vocabulary; nothing half-written is left.
    """
    sources = layout.question_json_by_split()
    if extend_vocab and vocab is not None:
        refuse_overwriting(layout.vocabulary, vocab)
    train = None
    if train_split in sources:
        train = _read(sources[train_split], layout, train_split)
    train_source = sources.get(train_split, layout.questions)
    vocabulary = _choose_vocabulary(
        train, train_source, layout.vocabulary, vocab, extend_vocab, min_count
    )
    splits = []
    with folder_lock(layout.h5, "questions"):
        if not layout.vocabulary.exists() or (
            Vocabulary.load(layout.vocabulary).sha256() != vocabulary.sha256()
        ):
            vocabulary.save(layout.vocabulary)
        for split, source in sources.items():
            target = layout.question_h5(split)
            count = _count_finished(target, source, vocabulary)
            if count is None:
                table = train if split == train_split and train else _read(source, layout, split)
                _write(target, split, table, vocabulary, allow_unknown)
                splits.append(PreprocessedSplit(split, len(table), was_there=False))
            else:
                splits.append(PreprocessedSplit(split, count, was_there=True))
    return splits


def _read(source: Path, layout: DatasetLayout, split: str) -> QuestionTable:
    folder = layout.image_folder(split)
    return read_question_table(source, folder if folder.is_dir() else None)


def _choose_vocabulary(
    train: QuestionTable | None,
    source: Path,
    existing: Path,
    given: str | Path | None,
    extend: bool,
    min_count: int,
) -> Vocabulary:
    base = Vocabulary.load(given) if given is not None else None
    if base is not None and not extend:
        return base
    if train is None:
        if existing.exists():
            return Vocabulary.load(existing)
        raise UserError(
            f"{source}: no train questions to build a vocabulary "
            "from; add them, or give vocab=<vocab.json>"
        )
    words, steps = (
        {name: count for name, count in counts.items() if name not in SPECIAL_TOKENS}
        for counts in (train.questions.counts(train.words), train.programs.counts(train.steps))
    )
    return Vocabulary.build(words, steps, train.answer_names, min_count, base)


def _count_finished(target: Path, source: Path, vocabulary: Vocabulary) -> int | None:
    """Questions in a file that was made from this source with this vocabulary, else None."""
    try:
        with h5py.File(target, "r") as file:
            up_to_date = (
                file.attrs.get("format") == FORMAT
                and file.attrs["vocab_sha256"] == vocabulary.sha256()
                and file.attrs["source_size"] == source.stat().st_size
                and file.attrs["source_mtime_ns"] == source.stat().st_mtime_ns
            )
            return len(file["questions"]) if up_to_date else None
    except FileNotFoundError:
        return None
    except HDF5_ERRORS as error:
        warn(f"{target}: not readable ({one_line(error)}); it is made again")
        return None


def _write(
    target: Path, split: str, table: QuestionTable, vocabulary: Vocabulary, allow_unknown: bool
) -> None:
    unknown = vocabulary.question[UNK] if allow_unknown else None
    words = _renumber(table, "questions", table.words, vocabulary.question, unknown)
    arrays = {
        "questions": table.questions.padded(words),
        "image_idxs": np.frombuffer(table.images, np.int32),
        "orig_idxs": np.frombuffer(table.original_index, np.int32),
    }
    answers, families, types = (
        np.frombuffer(values, np.int32) for values in (table.answers, table.families, table.types)
    )
    if (answers != MISSING).all():
        arrays["answers"] = _renumber(
            table, "answers", table.answer_names, vocabulary.answer, None
        )[answers]
    if (families != MISSING).all():
        arrays["question_families"] = families
    if (types != MISSING).all():
        steps = _renumber(table, "programs", table.steps, vocabulary.program, None)
        arrays["programs"] = table.programs.padded(steps)
        arrays["types"] = types
    names, source = table.image_names, table.path
    # Made in memory: HDF5 does not recover from a disk that fills while it writes.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        file.attrs["format"] = FORMAT
        file.attrs["split"] = split
        file.attrs["sha256"] = arrays_sha256(arrays)
        file.attrs["vocab_sha256"] = vocabulary.sha256()
        file.attrs["type_names"] = list(ANSWER_FUNCTIONS)
        file.attrs["num_images"] = max(names) + 1
        if len(names) == max(names) + 1:
            file.attrs["image_names_sha256"] = names_sha256(names[i] for i in range(len(names)))
        file.attrs["source_size"] = source.stat().st_size
        file.attrs["source_mtime_ns"] = source.stat().st_mtime_ns
    write_file(target, content.getbuffer())


def _renumber(
    table: QuestionTable,
    column: str,
    numbering: Numbering,
    vocabulary: dict[str, int],
    unknown: int | None,
) -> NDArray[np.int32]:
    """The vocabulary's index of each number.

    An unknown token gets the index ``unknown``; where that is None, the first question with one is
    named in a ``UserError``.
    """
    indices = np.array([vocabulary.get(name, MISSING) for name in numbering], np.int32)
    is_unknown = indices == MISSING
    if unknown is not None:
        indices[is_unknown] = unknown
    elif is_unknown.any():
        raise _unknown_token(table, column, np.array(list(numbering)), is_unknown, len(vocabulary))
    return indices


def _unknown_token(
    table: QuestionTable,
    column: str,
    names: NDArray[np.str_],
    is_unknown: NDArray[np.bool_],
    size: int,
) -> UserError:
    rows = getattr(table, column)
    values = np.frombuffer(rows if column == "answers" else rows.values, np.int32)
    first = int(is_unknown[values].argmax())
    name = str(names[values[first]])
    if column == "answers":
        return UserError(
            f"{table.path}: question {first}: the answer {name!r} is not in the vocabulary's "
            f"{size} answers; train has none like it"
        )
    ends = np.frombuffer(rows.lengths, np.int32).cumsum()
    number = int(np.searchsorted(ends, first, side="right"))
    return UserError(
        f"{table.path}: question {number}: {name!r} is not in the vocabulary; allow_unknown=true "
        f"reads unknown question words as {UNK}, extend_vocab=true adds train's"
    )
