"""What if: a table of how the answer changes with each attribute of each object."""

from __future__ import annotations

import asyncio
from typing import Any

from nicegui import ui

from filmvqa.page.attribute_changes import Change, Outcome, try_changes
from filmvqa.page.frame import Panel, box, note, piece, report_errors, scrolled
from filmvqa.page.session import Session
from filmvqa.system.errors import UserError
from filmvqa.vqa import Answer
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES

#: The size (H, W) of pictures for networks whose checkpoints record none.
_SIZE = (160, 240)


class AttributeChangesPanel:
    """The panel "What if", for scenes that can be edited."""

    def __init__(self, session: Session) -> None:
        self._session, self._networks = session, session.shared.networks
        self._request = 0
        with Panel("What if").classes("later") as self._panel:
            note("Changes one attribute of one object at a time, and asks the question again.")
            with box("line"):
                start = ui.button("Try all changes", on_click=report_errors(self._try_changes))
                start.props("outline")
                names = {i: network.name for i, network in enumerate(self._networks)}
                self._network = ui.toggle(names, value=0).props("no-caps dense unelevated")
                self._network.visible = len(names) > 1
                self._share = ui.linear_progress(0.0, show_value=False, size="6px")
                self._share.style("width: 160px").visible = False
            self._outcomes = box("column")
        session.subject_changed.subscribe(self._on_subject)
        session.question_changed.subscribe(self._forget)
        self._panel.visible = session.subject.edited is not None

    async def _on_subject(self, settled: bool) -> None:
        self._forget()
        self._panel.visible = self._session.subject.edited is not None

    def _forget(self) -> None:
        """Remove the table of another question or scene, and stop its computation."""
        self._request += 1
        self._outcomes.clear()
        self._share.visible = False

    async def _try_changes(self) -> None:
        edited, question = self._session.subject.edited, self._session.question
        if edited is None or not question:
            raise UserError("ask a question about a scene first")
        self._forget()
        request, network = self._request, self._networks[int(self._network.value or 0)]
        shares = [0.0]
        self._share.value, self._share.visible = 0.0, True
        timer = ui.timer(0.2, lambda: self._share.set_value(shares[-1]))
        try:
            with self._session.busy("trying all changes"):
                before, outcomes = await asyncio.to_thread(
                    try_changes, network, edited, question,
                    size=network.vqa.image_size or _SIZE, change=self._session.change,
                    progress=shares.append,
                    stopped=lambda: request != self._request,
                )  # fmt: skip
        finally:
            timer.delete()
            if request == self._request:
                self._share.visible = False
        if request != self._request:
            return
        moved = sum(outcome.answer.text != before.text for outcome in outcomes)
        share = 100 * before.probabilities[before.text]
        with self._outcomes:
            note(
                f"{question} {network.name} answers {before.text} ({share:.0f}%). {moved} of "
                f"{len(outcomes)} changes give another answer, shown in their cells. The more "
                f"colour a cell has, the less likely {before.text} is. A red frame marks a wrong "
                "answer."
            ).props('role="status"')
            scrolled(changes_table(edited, before, outcomes), "answers after changes")


def changes_table(edited: EditedScene, before: Answer, outcomes: list[Outcome]) -> str:
    """The table's HTML: a row for each object, a column for each value of each attribute."""
    by_change = {outcome.change: _cell(before, outcome) for outcome in outcomes}
    columns = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
    rows = [
        (str(placed), [by_change.get(Change(number, *column)) for column in columns])
        for number, placed in enumerate(edited.objects)
    ]
    return piece("changes", attributes=ATTRIBUTES, rows=rows)


def _cell(before: Answer, outcome: Outcome) -> dict[str, Any]:
    answer, truth = outcome.answer.text, outcome.truth
    share = outcome.answer.probabilities.get(before.text, 0.0)
    title = f"{outcome.change.value}: {answer}, {before.text} {100 * share:.0f}%"
    return {
        "title": title if truth is None else f"{title}; it is {truth}",
        "text": answer if answer != before.text else "",
        "is_wrong": truth is not None and truth != answer,
        "lost": min(1.0, max(0.0, 1 - share / max(before.probabilities[before.text], 1e-9))),
    }
