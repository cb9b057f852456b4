"""The predictions of an evaluation: filtered, and opened with their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import events, ui

from filmvqa.page.desk import Desk, reporting
from filmvqa.page.evaluated import ANSWER_COLUMNS, IOU, MASK_COLUMNS, WRONG_BELOW, Evaluated
from filmvqa.page.panel import panel

#: More rows are not sent to the browser.
_ROWS = 500
_TITLES = {"length": "program length", "meant": "objects meant"}  # others are their own
_ALL = "all"


class ErrorsPanel:
    """The tab of errors. ``on_open`` is told question, split and picture when one is opened."""

    def __init__(self, desk: Desk, on_open: Callable[[str, str, int], Awaitable[None]]) -> None:
        self._desk, self._on_open = desk, on_open
        self._evaluated: Evaluated | None = None
        self._splits = splits = desk.house.evaluated_splits
        draws = desk.house.networks[0].draws
        self._columns = MASK_COLUMNS if draws else ANSWER_COLUMNS
        self._wrong = f"masks have an IoU below {WRONG_BELOW}" if draws else "answers are wrong"
        with panel("Errors").classes("errors"):
            if not splits:
                ui.label(
                    "No predictions to look through. Evaluate the checkpoint, with its data set at "
                    "hand: python scripts/evaluate.py checkpoint=<file>"
                ).classes("quiet")
                return
            with ui.element("div").classes("filters"):
                self._split = ui.select(
                    splits, value=splits[0], label="split", on_change=reporting(self.open)
                )
                self._filters = {
                    column: ui.select(
                        [_ALL], value=_ALL, label=_title(column), on_change=self._show
                    )
                    for column in self._columns
                    if column != IOU
                }
                for select in (self._split, *self._filters.values()):
                    select.props("dense outlined options-dense")
                self._only_wrong = ui.checkbox(
                    "only bad masks" if draws else "only wrong answers",
                    value=True,
                    on_change=self._show,
                )
            self._summary = ui.label().classes("quiet").props('role="status"')
            columns = [
                {"name": name, "label": label, "field": name, "align": "left", "sortable": True}
                for name, label in {
                    "question": "expression" if draws else "question",
                    **{column: _title(column) for column in self._columns},
                    "image": "picture",
                }.items()
            ]
            for column in columns:
                if column["name"] in ("expected", "given", IOU):
                    column["classes"] = "text-weight-bold"
            self._table = ui.table(columns=columns, rows=[], row_key="row", pagination=20)
            self._table.props("flat dense wrap-cells")
            self._table.add_slot(
                "body-cell-question",
                '<q-td :props="props"><a href="#" @click.prevent="$parent.$emit(\'look\', '
                'props.row)">{{ props.value }}</a></q-td>',
            )
            self._table.on("look", reporting(self._look))

    async def open(self) -> None:
        """Read the split's predictions, unless they are there."""
        if not self._splits:
            return
        split = str(self._split.value)
        if self._evaluated is not None and self._evaluated.split == split:
            return
        self._evaluated, self._table.rows, self._summary.text = None, [], ""
        with self._desk.busy("reading the predictions"):
            evaluated = await asyncio.to_thread(self._desk.house.evaluated, split)
        if split != self._split.value:
            return
        self._evaluated = evaluated
        for column, select in self._filters.items():
            select.set_options([_ALL, *evaluated.values(column)], value=_ALL)
        if not evaluated.has_truths:
            self._only_wrong.value = False
        self._show()

    def _show(self) -> None:
        evaluated = self._evaluated
        if evaluated is None:
            return
        chosen = {
            column: str(select.value)
            for column, select in self._filters.items()
            if select.value != _ALL
        }
        rows = evaluated.choose(chosen, only_wrong=bool(self._only_wrong.value))
        of_filter = evaluated.choose(chosen, only_wrong=False)
        wrong = int(evaluated.is_wrong[of_filter].sum())
        text = f"{wrong:,} of {len(of_filter):,} {self._wrong}"
        if not evaluated.has_truths:
            text = f"{len(of_filter):,} predictions; the right ones are not known"
        elif len(of_filter):
            text += f" ({100 * wrong / len(of_filter):.1f}%)"
        if len(rows) > _ROWS:
            text += f"; the first {_ROWS} are shown, and sorted"
        self._summary.text = text + "."
        self._table.rows = [
            {
                "row": int(row),
                "question": evaluated.questions[row],
                "image": int(evaluated.images[row]),
                **{column: _cell(evaluated.columns[column][row]) for column in self._columns},
            }
            for row in rows[:_ROWS]
        ]

    async def _look(self, event: events.GenericEventArguments) -> None:
        evaluated = self._evaluated
        assert evaluated is not None
        row = int(event.args["row"])
        await self._on_open(evaluated.questions[row], evaluated.split, int(evaluated.images[row]))


def _title(column: str) -> str:
    return _TITLES.get(column, column)


def _cell(value: str) -> str | int:
    """Whole numbers as such, so that they are sorted as numbers."""
    return int(value) if value.isdigit() else str(value)
