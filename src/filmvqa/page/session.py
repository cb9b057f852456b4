"""One visitor's state, and the state that all visitors share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nicegui import Event, ui
from torch import Tensor

from filmvqa.page.file_cache import FileCache
from filmvqa.page.networks import Network
from filmvqa.page.predictions import PredictionTable, list_evaluated_splits, read_table
from filmvqa.page.subjects import PictureSet, Subject
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.layout import EvaluationLayout, RunLayout


@dataclass
class SharedState:
    """Shared by all visitors: networks, pictures, and the folder of the first network's run."""

    networks: Sequence[Network]
    pictures: PictureSet | None = None
    run: Path | None = None
    _tables: FileCache[PredictionTable] = field(default_factory=FileCache)

    @property
    def evaluated_splits(self) -> list[str]:
        """The splits whose predictions can be shown."""
        if self.run is None or self.pictures is None:
            return []
        return list_evaluated_splits(self.run)

    def predictions(self, split: str) -> PredictionTable:
        """The predictions of a split, read again only if their file has changed."""
        assert self.run is not None
        assert self.pictures is not None
        path = EvaluationLayout(RunLayout(self.run).evaluation, split).predictions
        layout, vocabulary = self.pictures.layout, self.networks[0].vqa.vocabulary
        return self._tables.get(path, partial(read_table, self.run, split, layout, vocabulary))


class Session:
    """One visitor's subject and question, and the line that shows what is being done.

    Attributes
    ----------
    subject
        The present subject. ``subject_changed`` is False while the subject is being dragged.
    question
        The last question that was answered about it; empty if none was.
    change
        The change of γ and β; None if there is none.
    overlay
        The name and the values (h, w) of a map over the picture.
    is_leaving
        Whether another subject is loading.
    """

    def __init__(self, shared: SharedState, subject: Subject) -> None:
        self.shared, self.subject, self.question = shared, subject, ""
        self.change: FilmSettings | None = None
        self.overlay: tuple[str, Tensor] | None = None
        self.is_leaving = False
        self.subject_changed = Event[bool]()
        self.question_changed = Event[[]]()
        self.overlay_changed = Event[[]]()
        self._version = 0
        self._working: list[str] = []
        self._status = ui.label().classes("status").props('role="status" aria-live="polite"')
        progress = ui.linear_progress(show_value=False, size="2px").props("indeterminate")
        progress.bind_visibility_from(self._status, "text", bool)

    async def show(
        self,
        what: str,
        make: Callable[[], Subject],
        *,
        leaves: bool = True,
        settled: bool = True,
    ) -> None:
        """Show the subject that ``make`` returns in a thread, unless another call follows first.

        Parameters
        ----------
        what
            The text to show while ``make`` runs.
        leaves
            Whether the subject is another one, not a change of the present one.
        settled
            False while the subject is being dragged.

        Raises
        ------
        UserError
            As ``make``, unless another call follows first.
        """
        self._version += 1
        version = self._version
        self.is_leaving |= leaves
        try:
            with self.busy(what):
                subject = await asyncio.to_thread(make)
        except Exception:
            if version != self._version:
                return
            self.is_leaving = False
            raise
        if version == self._version:
            self.is_leaving = False
            self.subject, self.overlay = subject, None
            await self.subject_changed.call(settled)

    def set_question(self, question: str) -> None:
        """Set the last question that was answered; empty if none was."""
        self.question = question
        self.question_changed.emit()

    def set_overlay(self, overlay: tuple[str, Tensor] | None) -> None:
        """Lay a map over the picture; None removes it."""
        self.overlay = overlay
        self.overlay_changed.emit()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """A block during which the page shows what it is doing."""
        self._working.append(what)
        self._status.text = f"{what} …"
        try:
            yield
        finally:
            self._working.remove(what)
            self._status.text = f"{self._working[-1]} …" if self._working else ""
