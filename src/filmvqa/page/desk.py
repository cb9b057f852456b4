"""What one visitor has on the page, and what all visitors share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from nicegui import ui
from torch import Tensor

from filmvqa.page.evaluated import Evaluated, evaluated_splits, read_evaluated
from filmvqa.page.networks import Network
from filmvqa.page.subjects import PictureSet, Subject
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError, one_line


@dataclass
class House:
    """What all visitors share: networks, pictures, and the folder of the first network's run."""

    networks: Sequence[Network]
    pictures: PictureSet | None = None
    run: Path | None = None
    _evaluated: dict[str, Evaluated] = field(default_factory=dict)

    @property
    def evaluated_splits(self) -> list[str]:
        """The splits whose predictions can be looked through."""
        if self.run is None or self.pictures is None:
            return []
        return evaluated_splits(self.run)

    def evaluated(self, split: str) -> Evaluated:
        """The predictions of a split, which are read once."""
        if split not in self._evaluated:
            assert self.run is not None
            assert self.pictures is not None
            vocabulary = self.networks[0].vqa.vocabulary
            self._evaluated[split] = read_evaluated(
                self.run, split, self.pictures.layout, vocabulary
            )
        return self._evaluated[split]


class Desk:
    """What one visitor looks at and asks; the parts of the page hear of changes.

    Attributes
    ----------
    subject
        What is asked about.
    question
        What was answered last about it; empty without.
    change
        Of γ and β; None: they are as they are.
    overlay
        A map (h, w) that is laid over the picture, and what it shows.
    is_leaving
        Whether another subject is on its way.
    """

    def __init__(self, house: House, subject: Subject) -> None:
        self.house, self.subject, self.question = house, subject, ""
        self.change: FilmSettings | None = None
        self.overlay: tuple[str, Tensor] | None = None
        self.is_leaving = False
        self.on_overlay: Callable[[], None] = lambda: None
        self.on_question: Callable[[], None] = lambda: None
        self._listeners: list[Callable[[bool], Awaitable[None]]] = []
        self._version = 0
        self._working: list[str] = []
        self._status: ui.label | None = None
        self._progress: ui.linear_progress | None = None

    def listen(self, listener: Callable[[bool], Awaitable[None]]) -> None:
        """Have a listener told of each new subject, and whether it will stay for now."""
        self._listeners.append(listener)

    async def show(
        self,
        what: str,
        make: Callable[[], Subject],
        *,
        leaves: bool = True,
        settled: bool = True,
    ) -> bool:
        """Look at the subject that ``make`` makes in a thread, unless another one was asked for
        meanwhile; returns whether it is shown.

        Parameters
        ----------
        what
            What the page says that it is doing.
        leaves
            Whether it is another subject, not a change of the one before.
        settled
            False while it is being dragged.

        Raises
        ------
        UserError
            As ``make``, unless another one was asked for meanwhile.
        """
        self._version += 1
        version = self._version
        self.is_leaving |= leaves
        try:
            with self.busy(what):
                subject = await asyncio.to_thread(make)
        except Exception:
            if version != self._version:
                return False
            self.is_leaving = False
            raise
        if version != self._version:
            return False
        self.is_leaving = False
        self.subject, self.overlay = subject, None
        for listener in self._listeners:
            await listener(settled)
        return True

    def ask(self, question: str) -> None:
        """Remember a question that was answered, or (empty) that none was."""
        self.question = question
        self.on_question()

    def lay_over(self, overlay: tuple[str, Tensor] | None) -> None:
        """Lay a map over the picture, or (None) show the picture alone."""
        self.overlay = overlay
        self.on_overlay()

    def build_status(self) -> None:
        """The line that says what is being done."""
        self._status = ui.label().classes("status").props('role="status" aria-live="polite"')
        self._progress = ui.linear_progress(show_value=False, size="2px").props("indeterminate")
        self._progress.visible = False

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """A block during which the page says what it is doing."""
        self._working.append(what)
        self._tell()
        try:
            yield
        finally:
            self._working.remove(what)
            self._tell()

    def _tell(self) -> None:
        if self._status is not None and self._progress is not None:
            self._status.text = f"{self._working[-1]} …" if self._working else ""
            self._progress.visible = bool(self._working)


def reporting(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A handler that shows users' errors on the page."""

    @wraps(handler)
    async def guarded(*arguments: Any, **options: Any) -> None:
        try:
            await handler(*arguments, **options)
        except (UserError, OSError) as error:
            ui.notify(one_line(error), type="negative", multi_line=True, close_button=True)

    return guarded
