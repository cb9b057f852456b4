"""Question JSON to vocabulary and question HDF5."""

from __future__ import annotations

import hashlib
import io
import re
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
from filmvqa.locks import folder_lock

FORMAT = "filmvqa-questions-2"


@dataclass(frozen=True)
class Preprocessed:
    """What happened to one split: its number of questions, and whether it was there already."""

    split: str
    questions: int
    was_there: bool


def names_sha256(names: Iterable[str]) -> str:
    """Hash of image names in index order: ties a question file to its features."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def question_files(folder: str | Path) -> dict[str, Path]:
    """Question JSON by split of a folder in the layout of CLEVR, CoGenT or CLEVR-Humans."""
    folder = Path(folder)
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := re.fullmatch(
            r"CLEVR_(\w+)_questions\.json|CLEVR-Humans-(\w+)\.json", path.name
        ):
            found[match[1] or match[2]] = path
    if not found:
        raise UserError(
            f"{folder}: no CLEVR_<split>_questions.json in it; download the set "
            "(scripts/download_clevr.py) or generate it (scripts/generate_clevr.py)"
        )
    return found


def preprocess_questions(
    questions_folder: str | Path,
    output_folder: str | Path,
    *,
    train_split: str = "train",
    images_folder: str | Path | None = None,
    vocab: str | Path | None = None,
    extend_vocab: bool = False,
    allow_unknown: bool = False,
    min_count: int = 1,
) -> list[Preprocessed]:
    """Write ``vocab.json`` and ``<split>_questions.h5`` for every split found.

    Parameters
    ----------
    train_split
        The split whose words, answers and program steps make the vocabulary.
    images_folder
        With the splits' image folders in it; where a split's is there, every image that a
        question names must be in it.
    vocab
        An existing vocabulary to encode with; None builds one from train alone.
    extend_vocab
        Add train's new tokens to ``vocab`` behind its own.
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
    sources = question_files(questions_folder)
    output = Path(output_folder)
    images = Path(images_folder) if images_folder is not None else None
    if extend_vocab and vocab is not None:
        refuse_overwriting(output / "vocab.json", vocab)
    train = None
    if train_split in sources:
        train = _read(sources[train_split], images, train_split)
    source = sources.get(train_split, Path(questions_folder))
    vocabulary = _choose_vocabulary(train, source, output, vocab, extend_vocab, min_count)
    done = []
    with folder_lock(output, "questions"):
        if not (output / "vocab.json").exists() or (
            Vocabulary.load(output / "vocab.json").sha256() != vocabulary.sha256()
        ):
            vocabulary.save(output / "vocab.json")
        for split, source in sources.items():
            target = output / f"{split}_questions.h5"
            count = _finished(target, source, vocabulary)
            if count is None:
                table = train if split == train_split and train else _read(source, images, split)
                _write(target, split, table, vocabulary, allow_unknown)
                done.append(Preprocessed(split, len(table), was_there=False))
            else:
                done.append(Preprocessed(split, count, was_there=True))
    return done


def _read(source: Path, images: Path | None, split: str) -> QuestionTable:
    folder = images / split if images is not None else None
    return read_question_table(source, folder if folder is not None and folder.is_dir() else None)


def _choose_vocabulary(
    train: QuestionTable | None,
    source: Path,
    output: Path,
    given: str | Path | None,
    extend: bool,
    min_count: int,
) -> Vocabulary:
    base = Vocabulary.load(given) if given is not None else None
    if base is not None and not extend:
        return base
    if train is None:
        if (output / "vocab.json").exists():
            return Vocabulary.load(output / "vocab.json")
        raise UserError(
            f"{source}: no train questions to build a vocabulary "
            "from; add them, or give vocab=<vocab.json>"
        )
    words, steps = (
        {name: count for name, count in counts.items() if name not in SPECIAL_TOKENS}
        for counts in (train.questions.counts(train.words), train.programs.counts(train.steps))
    )
    return Vocabulary.build(words, steps, train.answer_names, min_count, base)


def _finished(target: Path, source: Path, vocabulary: Vocabulary) -> int | None:
    """Questions in a file that was made from this source with this vocabulary, else None."""
    try:
        with h5py.File(target, "r") as file:
            same = (
                file.attrs.get("format") == FORMAT
                and file.attrs["vocab_sha256"] == vocabulary.sha256()
                and file.attrs["source_size"] == source.stat().st_size
                and file.attrs["source_mtime_ns"] == source.stat().st_mtime_ns
            )
            return len(file["questions"]) if same else None
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
        "orig_idxs": np.frombuffer(table.original, np.int32),
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
    names, source = table.names, table.path
    # In memory first: HDF5 may not be told in the middle of it that the disk is full.
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
    what: str,
    numbering: Numbering,
    vocabulary: dict[str, int],
    unknown: int | None,
) -> NDArray[np.int32]:
    """The vocabulary's index of each number; the first question with a token that it lacks is
    named, unless there is an index for unknown ones."""
    out = np.array([vocabulary.get(name, MISSING) for name in numbering], np.int32)
    lacking = out == MISSING
    if unknown is not None:
        out[lacking] = unknown
    elif lacking.any():
        _refuse(table, what, np.array(list(numbering)), lacking, len(vocabulary))
    return out


def _refuse(
    table: QuestionTable, what: str, names: NDArray[np.str_], lacking: NDArray[np.bool_], size: int
) -> None:
    rows = getattr(table, what)
    values = np.frombuffer(rows if what == "answers" else rows.values, np.int32)
    first = int(lacking[values].argmax())
    name = str(names[values[first]])
    if what == "answers":
        raise UserError(
            f"{table.path}: question {first}: the answer {name!r} is not in the vocabulary's "
            f"{size} answers; train has none like it"
        )
    ends = np.frombuffer(rows.lengths, np.int32).cumsum()
    number = int(np.searchsorted(ends, first, side="right"))
    raise UserError(
        f"{table.path}: question {number}: {name!r} is not in the vocabulary; allow_unknown=true "
        f"reads unknown question words as {UNK}, extend_vocab=true adds train's"
    )
