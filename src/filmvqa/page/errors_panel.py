"""The predictions of an evaluation, which can be filtered, and opened with their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import events, ui

from filmvqa.page.frame import Panel, box, note, report_errors
from filmvqa.page.predictions import (
    ANSWER_COLUMNS,
    IOU,
    MASK_COLUMNS,
    WRONG_BELOW,
    PredictionTable,
)
from filmvqa.page.session import Session

#: The largest number of rows that is sent to the browser.
_ROWS = 500
#: The titles of columns that differ from their names.
_TITLES = {"length": "program length", "meant": "objects meant"}
_ALL = "all"
_LINK = """<q-td :props="props">
<a href="#" @click.prevent="$parent.$emit('look', props.row)">{{ props.value }}</a></q-td>"""


class ErrorsPanel:
    """The tab "Errors". ``on_open`` gets the question, split and image index of an opened row."""

    def __init__(
        self, session: Session, on_open: Callable[[str, str, int], Awaitable[None]]
    ) -> None:
        self._session, self._on_open = session, on_open
        self._predictions: PredictionTable | None = None
        self._splits = splits = session.shared.evaluated_splits
        draws = session.shared.networks[0].vqa.draws
        columns = MASK_COLUMNS if draws else ANSWER_COLUMNS
        self._wrong = f"masks have an IoU below {WRONG_BELOW}" if draws else "answers are wrong"
        with Panel("Errors").classes("errors"):
            if not splits:
                note(
                    "No predictions to look through. Evaluate the checkpoint where its data set "
                    "is: python scripts/evaluate.py checkpoint=<file>"
                )
                return
            with box("filters"):
                opened = report_errors(self.open)
                self._split = ui.select(splits, value=splits[0], label="split", on_change=opened)
                self._filters = {
                    name: ui.select(
                        [_ALL], value=_ALL, label=_TITLES.get(name, name), on_change=self._show
                    )
                    for name in columns if name != IOU
                }  # fmt: skip
                text = "only bad masks" if draws else "only wrong answers"
                self._only_wrong = ui.checkbox(text, value=True, on_change=self._show)
            self._summary = note().props('role="status"')
            titles = {"question": "expression" if draws else "question"}
            titles |= {name: _TITLES.get(name, name) for name in columns} | {"image": "picture"}
            self._table = ui.table(
                columns=[
                    {
                        "name": name, "label": label, "field": name, "align": "left",
                        "sortable": True,
                        "classes": "text-weight-bold" if name in ("expected", "given", IOU) else "",
                    }
                    for name, label in titles.items()
                ],
                rows=[], row_key="row", pagination=20,
            )  # fmt: skip
            self._table.props("flat dense wrap-cells")
            self._table.add_slot("body-cell-question", _LINK)
            self._table.on("look", report_errors(self._look))

    async def open(self) -> None:
        """Read the split's predictions, unless they are shown already."""
        if not self._splits:
            return
        split = str(self._split.value)
        if self._predictions is not None and self._predictions.split == split:
            return
        self._predictions, self._table.rows, self._summary.text = None, [], ""
        with self._session.busy("reading the predictions"):
            predictions = await asyncio.to_thread(self._session.shared.predictions, split)
        if split != self._split.value:
            return
        self._predictions = predictions
        for column, select in self._filters.items():
            select.set_options([_ALL, *predictions.values(column)], value=_ALL)
        if not predictions.has_truths:
            self._only_wrong.value = False
        self._show()

    def _show(self) -> None:
        if self._predictions is None:
            return
        chosen = {name: s.value for name, s in self._filters.items() if s.value != _ALL}
        matches = self._predictions.choose(chosen)
        wrong = self._predictions.choose(chosen, only_wrong=True)
        rows = wrong if self._only_wrong.value else matches
        text = f"{len(wrong):,} of {len(matches):,} {self._wrong}"
        if not self._predictions.has_truths:
            text = f"{len(matches):,} predictions; the true answers are unknown"
        elif matches:
            text += f" ({100 * len(wrong) / len(matches):.1f}%)"
        if len(rows) > _ROWS:
            text += f"; only the first {_ROWS} are shown and sorted"
        self._summary.text = text + "."
        self._table.rows = rows[:_ROWS]

    async def _look(self, event: events.GenericEventArguments) -> None:
        row = event.args
        await self._on_open(str(row["question"]), str(self._split.value), int(row["image"]))
