"""Questions as tensors, samplers and batches."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.clevr.programs import ANSWER_FUNCTIONS
from filmvqa.data.hdf5 import HDF5_ERRORS, arrays_sha256
from filmvqa.data.store import FeatureStore
from filmvqa.data.vocabulary import START, Vocabulary
from filmvqa.devices import to_device
from filmvqa.errors import UserError, one_line

_MAKE_AGAIN = "delete it and run scripts/preprocess_questions.py again"
_OTHER_VOCABULARY = (
    "{}: was encoded with another vocabulary than the one in use; preprocess the questions with "
    "that vocabulary (vocab=<vocab.json>)"
)
#: All that is read of a question file.
QUESTION_DATASETS = (
    "questions", "image_idxs", "orig_idxs", "answers", "question_families", "types", "programs",
)  # fmt: skip
#: Batches that are read ahead.
READ_AHEAD = 4


@dataclass
class Batch:
    """B questions about U images.

    ``features`` (U, C, H, W), each image once; ``image_of_question`` (B,) indexes them;
    ``answers`` (B,) or None. These are on the device. On the host, where models look which words
    there are, ``questions`` (B, T), T the longest of these, padded with 0, and ``index`` (B,), rows
    in the question file.
    """

    features: Tensor
    image_of_question: Tensor
    questions: Tensor
    answers: Tensor | None
    index: Tensor


@dataclass(frozen=True)
class Part:
    """Some images (M,) of a question set, the rows of their questions, and the other rows."""

    images: Tensor
    rows: Tensor
    others: Tensor


@dataclass
class QuestionSet:
    """A question file whole in the host's memory: N questions.

    ``questions`` (N, T) padded with 0, ``lengths`` (N,), ``images`` (N,); ``answers``,
    ``types`` (index into ``ANSWER_FUNCTIONS``), ``families`` and ``program_lengths`` (N,) or None;
    ``original`` (N,) the numbers that the JSON gave; ``sha256`` of all that the file says.
    """

    path: Path
    questions: Tensor
    lengths: Tensor
    images: Tensor
    original: Tensor
    answers: Tensor | None
    types: Tensor | None
    families: Tensor | None
    program_lengths: Tensor | None
    names_sha256: str | None
    num_images: int
    sha256: str

    def __len__(self) -> int:
        return len(self.questions)

    @classmethod
    def load(cls, path: str | Path, vocabulary: Vocabulary) -> QuestionSet:
        """Read a question HDF5 that this project, film or clevr-iep wrote.

        Raises
        ------
        UserError
            If it is missing, unreadable or damaged, or was encoded with another vocabulary.
        """
        path = Path(path)
        try:
            with h5py.File(path, "r") as file:
                arrays = {name: file[name][:] for name in file if name in QUESTION_DATASETS}
                attributes = dict(file.attrs)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; make it with scripts/preprocess_questions.py"
            ) from None
        except HDF5_ERRORS as error:
            raise UserError(f"{path}: not readable ({one_line(error)}); {_MAKE_AGAIN}") from None
        _check_arrays(path, arrays, attributes, vocabulary)

        def tensor(name: str) -> Tensor | None:
            return torch.from_numpy(arrays[name]) if name in arrays else None

        questions = torch.from_numpy(arrays["questions"].astype(np.int32))
        programs = arrays.get("programs")
        types = _types(arrays, attributes, vocabulary)
        count = len(questions)
        return cls(
            path=path,
            questions=questions,
            lengths=(questions != 0).sum(1),
            images=torch.from_numpy(arrays["image_idxs"].astype(np.int64)),
            original=torch.from_numpy(arrays.get("orig_idxs", np.arange(count))),
            answers=None if (a := tensor("answers")) is None else a.long(),
            types=None if types is None else torch.from_numpy(types),
            families=tensor("question_families"),
            program_lengths=None
            if programs is None
            else torch.from_numpy((programs > 3).sum(1)),  # without special tokens
            names_sha256=attributes.get("image_names_sha256"),
            num_images=int(arrays["image_idxs"].max(initial=-1)) + 1,
            sha256=arrays_sha256(arrays),
        )

    def select(self, rows: Tensor) -> QuestionSet:
        """The questions of some rows (M,) alone."""
        chosen: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **chosen)

    def part(self, fraction: float, seed: int) -> Part:
        """A fraction of the images, chosen by seed, with all of their questions.

        Smaller fractions of one seed are parts of larger ones.

        Raises
        ------
        UserError
            For a fraction outside (0, 1], or one without an image.
        """
        if not 0 < fraction <= 1:
            raise UserError(f"data.fraction={fraction}; must be above 0 and at most 1")
        images: Tensor = self.images.unique()  # type: ignore[no-untyped-call]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        count = round(fraction * len(images))
        if count == 0:
            raise UserError(f"data.fraction={fraction} of {len(images)} images is none; raise it")
        chosen = images[order[:count]].sort().values
        inside = torch.isin(self.images, chosen)
        return Part(chosen.int(), inside.nonzero().flatten(), (~inside).nonzero().flatten())

    def check_features(self, store: FeatureStore, path: str | Path) -> None:
        """Raise ``UserError`` unless the features are those of this file's images."""
        if self.num_images > store.num_images:
            raise UserError(
                f"{self.path}: asks about {self.num_images} images, but {path} has features of "
                f"{store.num_images}; extract the features of the same split again"
            )
        same_count = self.num_images == store.num_images
        hashes = (self.names_sha256, store.names_sha256)
        if same_count and None not in hashes and hashes[0] != hashes[1]:
            raise UserError(
                f"{self.path}: its images are not those of {path} (other names); preprocess and "
                "extract the same split again"
            )


def _check_arrays(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
    vocabulary: Vocabulary,
) -> None:
    """Raise ``UserError`` for arrays that are not those of a question file, or not undamaged."""
    for name in ("questions", "image_idxs"):
        if name not in arrays:
            raise UserError(f"{path}: has no dataset {name!r}; {_MAKE_AGAIN}")
    count = arrays["questions"].shape[:1]
    for name, values in arrays.items():
        flat = name not in ("questions", "programs")
        if values.dtype.kind not in "iu" or (values.shape != count if flat else values.ndim != 2):
            raise UserError(
                f"{path}: {name!r} is {values.dtype} {values.shape}, which is nothing for "
                f"{count[0] if count else 0} questions; {_MAKE_AGAIN}"
            )
    if not count[0]:
        raise UserError(f"{path}: has no questions; {_MAKE_AGAIN}")
    if attributes.get("vocab_sha256", vocabulary.sha256()) != vocabulary.sha256():
        raise UserError(_OTHER_VOCABULARY.format(path))
    recorded = attributes.get("sha256")
    if recorded is not None and recorded != arrays_sha256(arrays):
        raise UserError(f"{path}: is damaged (other checksum); {_MAKE_AGAIN}")
    if int(arrays["questions"].max()) >= len(vocabulary.question):
        raise UserError(_OTHER_VOCABULARY.format(path))
    if not (worded := arrays["questions"].any(1)).all():
        raise UserError(f"{path}: question {int(worded.argmin())} has no words; {_MAKE_AGAIN}")
    limits = {"answers": len(vocabulary.answer), "image_idxs": 2**31}
    if "type_names" in attributes:
        limits["types"] = len(attributes["type_names"])
    for name in ("questions", "programs", "image_idxs", "answers", "types"):
        if name not in arrays:
            continue
        values = arrays[name]
        wrong = (values < 0) | (values >= limits.get(name, 2**31))
        if wrong.any():
            row = int(wrong.reshape(len(wrong), -1).any(1).argmax())
            raise UserError(
                f"{path}: {name!r} of question {row} is out of range ({values[row]}); {_MAKE_AGAIN}"
            )


def _types(
    arrays: dict[str, NDArray[Any]], attributes: dict[str, Any], vocabulary: Vocabulary
) -> NDArray[np.int64] | None:
    """Indices into ``ANSWER_FUNCTIONS``, -1 for what it does not list."""
    if "type_names" in attributes and "types" in arrays:
        names = [str(name) for name in attributes["type_names"]]
        order = np.array(
            [ANSWER_FUNCTIONS.index(n) if n in ANSWER_FUNCTIONS else -1 for n in names]
        )
        found: NDArray[np.int64] = order[arrays["types"]]
        return found
    if "programs" not in arrays:
        return None
    # film's type ids change from run to run: the first token of the prefix program does not.
    programs = arrays["programs"]
    starts = programs[:, 0] == vocabulary.program[START]
    first = np.where(starts, programs[:, min(1, programs.shape[1] - 1)], programs[:, 0])
    table = np.full(max(len(vocabulary.program), int(first.max(initial=0)) + 1), -1)
    for name, index in vocabulary.program.items():
        if name in ANSWER_FUNCTIONS:
            table[index] = ANSWER_FUNCTIONS.index(name)
    typed: NDArray[np.int64] = table[first]
    return typed


class EpochSampler:
    """Each of the given rows (N,) once an epoch, in an order that depends only on (seed, epoch).

    Its position is the number of batches given, so a checkpoint needs two numbers.

    Parameters
    ----------
    images
        (N,) the image of each row; with ``per_image`` k, what is drawn is not a question but k of
        an image's (its last may be fewer), so that a batch reads each image once for k questions.
    """

    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        seed: int,
        images: Tensor | None = None,
        per_image: int = 1,
    ) -> None:
        self.available, self.batch_size, self.seed = rows, batch_size, seed
        self.images, self.per_image = images, per_image
        self.epoch = self.batch = 0
        self._order: tuple[int, Tensor] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.available) // self.batch_size)

    def rows(self, epoch: int, batch: int) -> Tensor:
        """Rows (≤ batch size,) of one batch of one epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.available), generator=generator)
            if self.images is not None and self.per_image > 1:
                order = self._together(order, self.images, generator)
            self._order = (epoch, self.available[order])
        return self._order[1][batch * self.batch_size : (batch + 1) * self.batch_size]

    def _together(self, order: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """The drawn order (N,) with up to ``per_image`` questions of an image side by side."""
        order = order[torch.argsort(images[order], stable=True)]  # an image's questions as drawn
        counts = images.bincount()
        first = counts.cumsum(0) - counts
        place = torch.arange(len(order)) - first[images[order]]  # among the image's own
        group = (place % self.per_image == 0).cumsum(0) - 1
        chance = torch.randperm(int(group[-1]) + 1, generator=generator)
        return order[torch.argsort(chance[group], stable=True)]

    def advance(self) -> None:
        """Note that a batch was used."""
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


class Loader:
    """Batches of a question set with the features of its images, in channels-last order if not
    told otherwise: convolutions are fastest in it.

    ``waited`` counts the seconds that those who took batches waited for them.
    """

    def __init__(
        self,
        questions: QuestionSet,
        store: FeatureStore,
        batch_size: int,
        *,
        channels_last: bool = True,
    ) -> None:
        self.questions, self.store, self.batch_size = questions, store, batch_size
        self._order = torch.channels_last if channels_last else torch.contiguous_format
        self.waited = 0.0

    @property
    def device(self) -> torch.device:
        return self.store.device

    def batch(self, rows: Tensor) -> Batch:
        """The batch of the given rows (B,), in their order."""
        q = self.questions
        images, image_of_question = torch.unique(q.images[rows], return_inverse=True)
        longest = int(q.lengths[rows].max())
        return Batch(
            features=self.store.read(images, self._order),
            image_of_question=to_device(image_of_question, self.device),
            questions=q.questions[rows, :longest].long(),
            answers=None if q.answers is None else to_device(q.answers[rows], self.device),
            index=rows,
        )

    def in_order(self, rows: Tensor | None = None) -> Iterator[Batch]:
        """All rows, or the given ones, once, in order."""
        rows = torch.arange(len(self.questions)) if rows is None else rows
        yield from self._read(iter(torch.split(rows, self.batch_size)))

    def forever(self, sampler: EpochSampler) -> Generator[Batch]:
        """Training batches from the sampler's position on, without end.

        The sampler advances when a batch is taken, however far ahead others have been read.
        """

        def rows() -> Iterator[Tensor]:
            epoch, batch = sampler.epoch, sampler.batch
            while True:
                yield sampler.rows(epoch, batch)
                batch += 1
                if batch == sampler.batches_per_epoch:
                    epoch, batch = epoch + 1, 0

        for item in self._read(rows()):
            sampler.advance()
            yield item

    def _read(self, rows: Iterator[Tensor]) -> Iterator[Batch]:
        batches = map(self.batch, rows)
        source = _ahead(batches) if self.store.ahead else (batch for batch in batches)
        with closing(source):
            while True:
                started = time.monotonic()
                batch = next(source, None)
                self.waited += time.monotonic() - started
                if batch is None:
                    return
                yield batch


def _ahead(batches: Iterator[Batch]) -> Generator[Batch]:
    """The same batches, read by a thread ahead of their use."""
    waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(READ_AHEAD)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in batches:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
