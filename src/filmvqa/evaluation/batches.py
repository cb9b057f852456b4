"""Batches of questions with the features of their images."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from filmvqa.features.prefetch import prefetch
from filmvqa.features.store import FeatureStore, open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.program_targets import NamedObjects, ProgramTargets
from filmvqa.questions.sampler import EpochSampler
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.settings.typed import MissingImages
from filmvqa.system import processes
from filmvqa.system.devices import to_device
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.protocol import Targets, find_task
from filmvqa.tasks.words import WordTargets, WordTask

#: Number of batches to read ahead.
READ_AHEAD = 4


@dataclass
class Batch:
    """B questions about U images.

    On the device: ``features`` (U, C, H, W), each image once; ``image_of_question`` (B,), indices
    into them; ``targets`` (B, ...), made by ``Loader.targets``, or None. On the host, where models
    group questions by their words: ``questions`` (B, T), padded with 0 to the longest of the batch,
    and ``index`` (B,), rows of the question file. ``named`` are the objects that programs name, or
    None if these are not read.

    If several processes share a batch, this is the part of one process, and ``whole_size`` the
    number of questions of all parts. A process without a part gets one question with ``counts``
    False, so that it runs the same steps as the others.
    """

    features: Tensor
    image_of_question: Tensor
    questions: Tensor
    targets: Tensor | None
    index: Tensor
    whole_size: int
    counts: bool = True
    named: NamedObjects | None = None

    @property
    def share(self) -> float:
        """The share of the whole batch's questions that count in this part."""
        return len(self.index) / self.whole_size if self.counts else 0.0


class Loader:
    """Makes batches of a question dataset with the features of its images.

    Features are in channels-last order by default, in which convolutions are fastest. ``targets``
    makes the targets, and ``programs`` gives the objects that programs name. ``waited`` is the time
    in seconds that consumers have waited for batches.
    """

    def __init__(
        self,
        questions: QuestionDataset,
        store: FeatureStore,
        batch_size: int,
        *,
        channels_last: bool = True,
        targets: Targets | None = None,
        programs: ProgramTargets | None = None,
    ) -> None:
        self.questions, self.store, self.programs = questions, store, programs
        self.targets: Targets = WordTargets() if targets is None else targets
        self.batch_size = batch_size
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.waited = 0.0

    @property
    def device(self) -> torch.device:
        return self.store.device

    @property
    def has_targets(self) -> bool:
        """Whether the targets of the questions are known."""
        return self.targets.known(self.questions)

    def read_targets(self, rows: Tensor) -> Tensor:
        """Read the targets (B, ...) of rows (B,) to the device.

        Raises
        ------
        UserError
            If the targets are not known.
        """
        images, image_of_question = torch.unique(self.questions.images[rows], return_inverse=True)
        targets = self.targets.read(self.questions, rows, images, image_of_question)
        if targets is None:
            raise UserError(f"{self.questions.path}: has no {self.targets.noun} to compare with")
        return to_device(targets, self.device)

    def close(self) -> None:
        """Close the files of features and targets."""
        self.store.close()
        self.targets.close()

    def batch(self, rows: Tensor) -> Batch:
        """Make the batch of rows (B,), in their order."""
        q = self.questions
        images, image_of_question = torch.unique(q.images[rows], return_inverse=True)
        longest = int(q.lengths[rows].max())
        targets = self.targets.read(q, rows, images, image_of_question)
        programs = self.programs
        return Batch(
            features=self.store.read(images, self._memory_format),
            image_of_question=to_device(image_of_question, self.device),
            questions=q.questions[rows, :longest].long(),
            targets=None if targets is None else to_device(targets, self.device),
            index=rows,
            whole_size=len(rows),
            named=None if programs is None else programs.read(rows, images, self.device),
        )

    def sequential(self, rows: Tensor | None = None) -> Iterator[Batch]:
        """Batches of the rows (all if None), each row once, in order."""
        rows = torch.arange(len(self.questions)) if rows is None else rows
        starts = range(0, len(rows), self.batch_size)
        split = (rows[first : first + self.batch_size] for first in starts)
        try:
            yield from self._read(split, self.batch)
        finally:
            self.store.release()  # frees validation's buffers before training continues

    def train_batches(self, sampler: EpochSampler) -> Generator[Batch]:
        """Training batches without end, from the sampler's position.

        If several processes train, a batch is this process's part. The sampler advances when a
        batch is taken, not when it is read ahead.
        """

        def rows() -> Iterator[Tensor]:
            epoch, batch = sampler.epoch, sampler.batch
            while True:
                yield sampler.rows(epoch, batch)
                batch += 1
                if batch == sampler.batches_per_epoch:
                    epoch, batch = epoch + 1, 0

        for item in self._read(rows(), self._own_part):
            sampler.advance()
            yield item

    def _own_part(self, rows: Tensor) -> Batch:
        """This process's part of the batch of rows (B,)."""
        part = rows[processes.part_of(len(rows))]
        batch = self.batch(part if len(part) else rows[:1])
        batch.whole_size, batch.counts = len(rows), len(part) > 0
        return batch

    def _read(self, rows: Iterator[Tensor], read: Callable[[Tensor], Batch]) -> Iterator[Batch]:
        source = (
            prefetch(read, rows, depth=READ_AHEAD)
            if self.store.prefetch
            else (read(batch_rows) for batch_rows in rows)
        )
        with closing(source):
            while True:
                started = time.monotonic()
                batch = next(source, None)
                self.waited += time.monotonic() - started
                if batch is None:
                    return
                yield batch


def open_loader(
    layout: DatasetLayout,
    split: str,
    vocabulary: Vocabulary,
    batch_size: int,
    device: torch.device,
    store: str = "auto",
    *,
    channels_last: bool = True,
    families: Sequence[int] | None = None,
    missing_images: MissingImages = "refuse",
    missing_images_option: str = "data.missing_images",
    targets: str = WordTask.name,
    programs: bool = False,
) -> Loader:
    """Open the questions and features of a split, and check that they fit.

    Parameters
    ----------
    families
        As in ``QuestionDataset.of_families``.
    missing_images, missing_images_option
        As in ``QuestionDataset.with_features``. The number of questions left out is printed.
    targets
        The name of the task whose targets are read, as in the model's ``TARGETS``.
    programs
        Whether to read the objects that programs name.

    Raises
    ------
    UserError
        If a file is missing, unreadable or damaged, or questions and features do not fit.
    """
    all_questions = QuestionDataset.load(layout.question_h5(split), vocabulary)
    chosen = all_questions.of_families(families)
    path = layout.feature_h5(split)
    features = open_feature_store(path, device, store)
    try:
        questions = chosen.with_features(features, path, missing_images, missing_images_option)
        if left_out := len(chosen) - len(questions):
            print(
                f"{chosen.path}: {len(questions):,} questions are kept, {left_out:,} left out, "
                f"since {path.name} has no features of their images"
            )
        named = None
        if programs:
            named = ProgramTargets(layout.program_targets_h5(split), questions)
        opened = find_task(targets).targets.open(layout, questions, split, device, store)
    except UserError:
        features.close()
        raise
    return Loader(
        questions, features, batch_size, channels_last=channels_last, targets=opened, programs=named
    )
