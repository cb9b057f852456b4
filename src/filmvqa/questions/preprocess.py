"""Convert question JSON to a vocabulary and question HDF5."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from filmvqa.questions.question_table import MISSING, Numbering, QuestionTable, read_question_table
from filmvqa.questions.settings import EncodingSettings
from filmvqa.questions.vocabulary import SPECIAL_TOKENS, UNK, Vocabulary
from filmvqa.settings.typed import MissingImages
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.system.files import names_in, refuse_overwriting, write_file
from filmvqa.system.hdf5 import (
    HDF5_ERRORS,
    arrays_sha256,
    image_name_crc32,
    names_sha256,
    open_hdf5,
    outside_cause,
    unreadable,
)
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.engine.set_settings import check_version
from filmvqa.worlds.engine.world import CLEVR, World

FORMAT = "filmvqa-questions-3"
#: What a question can lack and still be accepted. One that lacks its image, its answer or the
#: objects that an expression refers to is left out.
LACKING = ("image", "answer", "objects", "program", "type", "family", "word")
#: The datasets that a file has only if some question has a value, by column of ``QuestionTable``.
OPTIONAL_DATASETS = {
    "answers": "answers", "objects": "objects", "families": "question_families", "types": "types",
    "groups": "groups",
}  # fmt: skip


@dataclass(frozen=True)
class PreprocessedSplit:
    """The result for a split.

    Attributes
    ----------
    was_there
        Whether the file was already complete.
    lacking
        How many questions lack something, by what they lack (``LACKING``).
    """

    split: str
    num_questions: int
    was_there: bool
    lacking: dict[str, int]

    def describe(self) -> str:
        """Describe the number of questions, and what they lack."""
        state = "already complete" if self.was_there else "written"
        parts = [f"{self.num_questions:,} questions, {state}"]
        for what, count in self.lacking.items():
            if what == "word":
                parts.append(f"{count:,} with unknown words")
            else:
                kept = "left out" if what in ("image", "answer", "objects") else "kept"
                parts.append(f"{count:,} {kept}, which have no {what}")
        return "; ".join(parts)


def preprocess_questions(
    layout: DatasetLayout,
    settings: EncodingSettings | None = None,
    *,
    train_split: str = "train",
    vocabulary: Vocabulary | None = None,
    missing_images: MissingImages = "refuse",
    world: World = CLEVR,
) -> list[PreprocessedSplit]:
    """Write ``vocab.json``, and ``<split>_questions.h5`` for each split that has question JSON.

    If a split has a folder of images, it must have every image that a question names.

    Parameters
    ----------
    settings
        None: ``EncodingSettings()``.
    train_split
        The split whose words, answers and program steps make the vocabulary.
    vocabulary
        The vocabulary to encode with, in place of the file ``settings.vocab``.
    missing_images
        ``refuse`` questions about missing images, or ``leave_out`` these questions.
    world
        The world of the questions; it defines their types.

    Raises
    ------
    UserError
        If JSON is malformed; a word, answer or program step is unknown; an image is missing; a
        question is incomplete; or an existing file cannot be read. No partial file is left.
    """
    settings = settings or EncodingSettings()
    work = _Preprocessing(layout, settings, missing_images, world)
    sources = layout.question_json_by_split(train_split)
    if settings.extend_vocab and settings.vocab is not None:
        refuse_overwriting(layout.vocabulary, settings.vocab)
    check_version(layout)
    train = work.read(train_split, sources[train_split]) if train_split in sources else None
    if vocabulary is None and settings.vocab is not None:
        vocabulary = Vocabulary.load(settings.vocab)
    if vocabulary is None or settings.extend_vocab:
        vocabulary = work.build_vocabulary(train, vocabulary)
    with folder_lock(layout.h5, "questions"):
        # Check all files before anything is written: one of them may belong to another program.
        done = {split: work.finished(split, path, vocabulary) for split, path in sources.items()}
        if not layout.vocabulary.exists() or (
            Vocabulary.load(layout.vocabulary).sha256() != vocabulary.sha256()
        ):
            vocabulary.save(layout.vocabulary)
        splits = []
        for split, source in sources.items():
            finished = done[split]
            if finished is None:
                table = train if split == train_split and train else work.read(split, source)
                finished = work.write(split, table, vocabulary)
            splits.append(finished)
    return splits


@dataclass(frozen=True)
class _Preprocessing:
    """The options of ``preprocess_questions``, and its steps."""

    layout: DatasetLayout
    settings: EncodingSettings
    missing_images: MissingImages
    world: World

    @property
    def accepted(self) -> set[str]:
        """The entries of ``LACKING`` that do not make a question invalid."""
        accepted = {"word"} if self.settings.allow_unknown else set()
        if self.missing_images == "leave_out":
            accepted.add("image")
        if self.settings.incomplete == "keep":
            accepted |= {"answer", "objects", "program", "type", "family"}
        return accepted

    def read(self, split: str, source: Path) -> QuestionTable:
        """Read a split's questions, and refuse or leave out incomplete ones."""
        folder = self.layout.image_folder(split)
        table = read_question_table(
            source,
            folder if folder.is_dir() else None,
            leave_out=self.missing_images == "leave_out",
            world=self.world,
        )
        if self.settings.incomplete == "refuse":
            for what, rows in table.incomplete().items():
                number = table.numbers[int(rows.argmax())]
                raise UserError(
                    f"{source}: question {number}: has no {what}, as {int(rows.sum()):,} of "
                    f"{len(table):,} questions, but the others have one; add it, or give "
                    "incomplete=keep"
                )
        for what in ("answer", "objects"):
            if (lacking := table.incomplete().get(what)) is not None:
                table.leave_out(lacking, what)
        return table

    def build_vocabulary(self, train: QuestionTable | None, base: Vocabulary | None) -> Vocabulary:
        """Build the vocabulary from train; without train's questions, load the existing one."""
        if train is None:
            if self.layout.vocabulary.exists():
                return Vocabulary.load(self.layout.vocabulary)
            raise UserError(
                f"{self.layout.questions}: no train questions to build a vocabulary from; add "
                "them, or give vocab=<vocab.json or checkpoint>"
            )
        words, steps = (
            {name: n for name, n in counts.items() if n and name not in SPECIAL_TOKENS}
            for counts in (
                train.left_out_words + Counter(train.questions.counts(train.words)),
                train.left_out_steps + Counter(train.programs.counts(train.steps)),
            )
        )
        return Vocabulary.build(words, steps, train.answer_names, self.settings.min_count, base)

    def _origin(
        self, split: str, source: Path, vocabulary: Vocabulary, lacking: Collection[str]
    ) -> dict[str, Any]:
        """The attributes that record what a question file was made from."""
        images = self.layout.image_folder(split)
        return {
            "format": FORMAT,
            "vocab_sha256": vocabulary.sha256(),
            "source_size": source.stat().st_size,
            "source_mtime_ns": source.stat().st_mtime_ns,
            **({"images_sha256": names_sha256(names_in(images))} if "image" in lacking else {}),
        }

    def finished(
        self, split: str, source: Path, vocabulary: Vocabulary
    ) -> PreprocessedSplit | None:
        """The result for a split whose file is already complete; None if it must be written.

        A file is complete if it was made from this source with this vocabulary, and lacks nothing
        that is now required.
        """
        target = self.layout.question_h5(split)
        try:
            with open_hdf5(target) as file:
                attributes, count = dict(file.attrs), len(file["questions"])
        except FileNotFoundError:
            return None
        except HDF5_ERRORS as error:
            if outside_cause(error) is not None:
                raise unreadable(target, error, "") from None
            warn(f"{target}: is damaged ({one_line(error)}); making it again")
            return None
        if "format" not in attributes:
            raise UserError(
                f"{target}: was not made by this program; move it to another folder, or choose "
                "another data.h5"
            )
        lacking = {
            what: int(attributes[f"lacking_{what}"])
            for what in LACKING
            if f"lacking_{what}" in attributes
        }
        origin = self._origin(split, source, vocabulary, lacking)
        is_same = all(attributes.get(name) == value for name, value in origin.items())
        if not is_same or lacking.keys() - self.accepted:
            return None
        return PreprocessedSplit(split, count, was_there=True, lacking=lacking)

    def write(self, split: str, table: QuestionTable, vocabulary: Vocabulary) -> PreprocessedSplit:
        """Write the question file of a split."""
        unknown = vocabulary.question[UNK] if self.settings.allow_unknown else None
        words = self._renumber(table, "questions", table.words, vocabulary.question, unknown)
        arrays: dict[str, NDArray[Any]] = {
            "questions": table.questions.padded(words),
            "image_idxs": np.frombuffer(table.images, np.int32),
            "orig_idxs": np.frombuffer(table.original_index, np.int32),
        }
        for column, name in OPTIONAL_DATASETS.items():
            values = np.asarray(getattr(table, column))
            if (values != MISSING).any():
                arrays[name] = values
        if "answers" in arrays:
            answers = self._renumber(table, "answers", table.answer_names, vocabulary.answer)
            arrays["answers"] = answers[arrays["answers"]]
        if "types" in arrays and not table.own_types:
            steps = self._renumber(table, "programs", table.steps, vocabulary.program)
            arrays["programs"] = table.programs.padded(steps)
        images = sorted(table.image_names)
        names = [table.image_names[i] for i in images]
        arrays["named_image_idxs"] = np.array(images, np.int32)
        arrays["image_name_crc32"] = image_name_crc32(names)
        lacking = Counter(table.left_out)
        lacking.update({what: int(rows.sum()) for what, rows in table.incomplete().items()})
        if unknown is not None:
            lacking["word"] = int((arrays["questions"] == unknown).any(1).sum())
        lacking_now = {what: lacking[what] for what in LACKING if lacking[what]}
        attributes = {
            **self._origin(split, table.path, vocabulary, lacking_now),
            **self._type_attributes(table),
            **{f"lacking_{what}": count for what, count in lacking_now.items()},
            "split": split,
            "sha256": arrays_sha256(arrays),
            "num_images": images[-1] + 1,
        }
        if "groups" in arrays:
            attributes["group_names"] = [Path(name).stem for name in table.template_files]
        if len(names) == images[-1] + 1:
            attributes["image_names_sha256"] = names_sha256(names)
        # Build the file in memory: HDF5 does not recover from a disk that fills during a write.
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
            file.attrs.update(attributes)
        write_file(self.layout.question_h5(split), content.getbuffer())
        return PreprocessedSplit(split, len(table), was_there=False, lacking=lacking_now)

    def _type_attributes(self, table: QuestionTable) -> dict[str, Any]:
        """The attributes that define types: the names that they index, and, for questions of
        another world than CLEVR, the question types."""
        if table.own_types:
            return {key: list(table.own_types) for key in ("type_names", "question_types")}
        world, types = self.world, np.asarray(table.types)
        has_others = (types >= len(world.answer_functions)).any()
        type_names = world.type_names if has_others else world.answer_functions
        if (types >= len(world.type_names)).any():
            type_names = (*type_names, *world.referring_functions)
        attributes = {"type_names": list(type_names)}
        if world.question_types != CLEVR.question_types:
            of_function = {name: t for t, names in world.question_types.items() for name in names}
            attributes["question_types"] = [of_function.get(name, "") for name in type_names]
        return attributes

    def _renumber(
        self,
        table: QuestionTable,
        column: str,
        numbering: Numbering,
        vocabulary: dict[str, int],
        unknown: int | None = None,
    ) -> NDArray[np.int32]:
        """Map each number to the vocabulary's index of its token.

        Unknown tokens get the index ``unknown``. If it is None, raise ``UserError`` for the first
        question with an unknown token.
        """
        indices = np.array([vocabulary.get(name, MISSING) for name in numbering], np.int32)
        is_unknown = indices == MISSING
        if unknown is not None:
            indices[is_unknown] = unknown
            return indices
        rows = getattr(table, column)
        values = np.frombuffer(rows if column == "answers" else rows.values, np.int32)
        unknown_values = (is_unknown[values] & (values != MISSING)).nonzero()[0]
        if not len(unknown_values):
            return indices
        row = place = int(unknown_values[0])
        what = f"{list(numbering)[values[place]]!r} is not in the vocabulary"
        if column == "answers":
            what = f"the answer {what}'s {len(vocabulary)} answers"
        else:
            row = rows.row_of(place)
        remedies = []
        if column == "questions":
            remedies.append(f"allow_unknown=true reads unknown words as {UNK}")
            if self.settings.min_count > 1:
                remedies.append("a lower min_count takes rare words of train into the vocabulary")
        if self.settings.vocab is not None and not self.settings.extend_vocab:
            remedies.append("extend_vocab=true adds train's to the vocabulary")
        if not remedies:
            remedies.append("add questions with it to train, or take this one out of the file")
        raise UserError(
            f"{table.path}: question {table.numbers[row]}: {what}; {', and '.join(remedies)}"
        )
