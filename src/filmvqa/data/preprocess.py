"""Question JSON to vocabulary and question HDF5."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from filmvqa.clevr.programs import LAST_FUNCTIONS, prefix_tokens
from filmvqa.clevr.schema import Question, read_questions
from filmvqa.data.text import END, NULL, START, UNK, Vocabulary, tokenize
from filmvqa.errors import UserError
from filmvqa.files import atomic_write

FORMAT = "filmvqa-questions-1"


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
    train = None
    if train_split in sources:
        train = _read(sources[train_split], images_folder, train_split)
    source = sources.get(train_split, Path(questions_folder))
    vocabulary = _choose_vocabulary(train, source, output, vocab, extend_vocab, min_count)
    if not (output / "vocab.json").exists() or (
        Vocabulary.load(output / "vocab.json").sha256() != vocabulary.sha256()
    ):
        vocabulary.save(output / "vocab.json")
    done = []
    for split, source in sources.items():
        target = output / f"{split}_questions.h5"
        count = _finished(target, source, vocabulary)
        if count is None:
            records = train if split == train_split else None
            records = records or _read(source, images_folder, split)
            _write(target, source, split, records, vocabulary, allow_unknown)
            done.append(Preprocessed(split, len(records), was_there=False))
        else:
            done.append(Preprocessed(split, count, was_there=True))
    return done


def _read(source: Path, images_folder: str | Path | None, split: str) -> list[Question]:
    records = read_questions(source).questions
    if not records:
        raise UserError(f"{source}: no questions in it")
    for i, record in enumerate(records):
        if record.image_index is None:
            digits = re.search(r"(\d+)\.png$", record.image_filename)
            if digits is None:
                raise UserError(f"{source}: question {i}: no image_index, and none in its name")
            record.image_index = int(digits[1])
        if not 0 <= record.image_index < 2**31:
            raise UserError(f"{source}: question {i}: image_index {record.image_index}")
    folder = Path(images_folder) / split if images_folder is not None else None
    if folder is not None and folder.is_dir():
        present = {path.name for path in folder.iterdir()}
        for i, record in enumerate(records):
            if record.image_filename not in present:
                raise UserError(
                    f"{source}: question {i} is about {record.image_filename}, which is not in "
                    f"{folder}; fetch or generate the images again"
                )
    return records


def _choose_vocabulary(
    train: list[Question] | None,
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
    return Vocabulary.build(
        (tokenize(q.question) for q in train),
        (prefix_tokens(q.program, f"{source}: question {i}")
         for i, q in enumerate(train) if q.program),
        (q.answer for q in train if q.answer is not None),
        min_count,
        base,
    )  # fmt: skip


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
    except OSError:
        return None


def _padded(rows: list[list[int]]) -> NDArray[np.int32]:
    """Rows of different lengths as one array (N, T), padded with 0."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.zeros((len(rows), int(lengths.max(initial=1))), np.int32)
    filled = np.arange(out.shape[1]) < lengths[:, None]
    out[filled] = np.fromiter((t for row in rows for t in row), np.int32, int(lengths.sum()))
    return out


def _write(
    target: Path,
    source: Path,
    split: str,
    records: list[Question],
    vocabulary: Vocabulary,
    allow_unknown: bool,
) -> None:
    words = [
        _encode(tokenize(q.question), vocabulary.question, allow_unknown, f"{source}: question {i}")
        for i, q in enumerate(records)
    ]
    arrays: dict[str, NDArray[np.int32]] = {
        "questions": _padded(words),
        "image_idxs": np.array([q.image_index for q in records], np.int32),
        "orig_idxs": np.array(
            [i if q.question_index is None else q.question_index for i, q in enumerate(records)],
            np.int32,
        ),
    }
    if all(q.answer is not None for q in records):
        arrays["answers"] = np.array(
            [_answer(q, vocabulary, f"{source}: question {i}") for i, q in enumerate(records)],
            np.int32,
        )
    if all(q.question_family_index is not None for q in records):
        arrays["question_families"] = np.array([q.question_family_index for q in records], np.int32)
    if all(q.program for q in records):
        steps, types = [], []
        for i, q in enumerate(records):
            place = f"{source}: question {i}"
            program = q.program or []
            steps.append(_encode(prefix_tokens(program, place), vocabulary.program, False, place))
            if program[-1].function not in LAST_FUNCTIONS:
                raise UserError(f"{place}: its program ends in {program[-1].function!r}")
            types.append(LAST_FUNCTIONS.index(program[-1].function))
        arrays["programs"] = _padded(steps)
        arrays["types"] = np.array(types, np.int32)
    names = {int(q.image_index or 0): q.image_filename for q in records}
    with atomic_write(target) as stream, h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs["format"] = FORMAT
        file.attrs["split"] = split
        file.attrs["vocab_sha256"] = vocabulary.sha256()
        file.attrs["type_names"] = list(LAST_FUNCTIONS)
        file.attrs["num_images"] = max(names) + 1
        if len(names) == max(names) + 1:
            file.attrs["image_names_sha256"] = names_sha256(names[i] for i in range(len(names)))
        file.attrs["source_size"] = source.stat().st_size
        file.attrs["source_mtime_ns"] = source.stat().st_mtime_ns


def _encode(
    tokens: list[str], vocabulary: dict[str, int], allow_unknown: bool, place: str
) -> list[int]:
    """Indices of START, the tokens, END."""
    row = [vocabulary[START]]
    for token in tokens:
        index = vocabulary.get(token)
        if index is None:
            if not allow_unknown:
                raise UserError(
                    f"{place}: {token!r} is not in the vocabulary; allow_unknown=true reads "
                    f"unknown question words as {UNK}, extend_vocab=true adds train's"
                )
            index = vocabulary[UNK]
        row.append(index)
    row.append(vocabulary[END])
    return row


def _answer(question: Question, vocabulary: Vocabulary, place: str) -> int:
    index = vocabulary.answer.get(question.answer or NULL)
    if index is None:
        raise UserError(
            f"{place}: the answer {question.answer!r} is not in the vocabulary's "
            f"{len(vocabulary.answer)} answers; train has none like it"
        )
    return index
