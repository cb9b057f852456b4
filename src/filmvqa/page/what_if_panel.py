"""What if: how the answer moves with each attribute of each object, at a glance."""

from __future__ import annotations

import asyncio
import html

from nicegui import ui

from filmvqa.page.desk import Desk, reporting
from filmvqa.page.panel import panel
from filmvqa.page.what_if import Change, Outcome, what_if
from filmvqa.system.errors import UserError
from filmvqa.vqa import Answer
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES

#: (H, W) of pictures for networks that do not say what they take.
_SIZE = (160, 240)
_UNCHANGED = '<td class="unchanged" title="as it is">·</td>'


class WhatIfPanel:
    """The panel of what if, for scenes that can be changed."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._networks = desk, desk.house.networks
        self._count = 0
        with panel("What if").classes("later") as self._panel:
            ui.label(
                "One attribute of one object is changed at a time, and the question asked again."
            ).classes("quiet")
            with ui.element("div").classes("line"):
                start = ui.button("Try all changes", on_click=reporting(self._try_changes))
                start.props("outline no-caps")
                names = {i: network.name for i, network in enumerate(self._networks)}
                self._network = ui.toggle(names, value=0).props("no-caps dense unelevated")
                self._network.visible = len(names) > 1
                self._share = ui.linear_progress(0.0, show_value=False, size="6px")
                self._share.style("width: 160px").visible = False
            self._outcomes = ui.element("div").classes("column")
        desk.listen(self._on_subject)
        desk.on_question = self._forget
        self._panel.visible = desk.subject.edited is not None

    async def _on_subject(self, settled: bool) -> None:
        self._forget()
        self._panel.visible = self._desk.subject.edited is not None

    def _forget(self) -> None:
        """Take away what belongs to another question or scene, and stop what computes it."""
        self._count += 1
        self._outcomes.clear()
        self._share.visible = False

    async def _try_changes(self) -> None:
        edited, question = self._desk.subject.edited, self._desk.question
        if edited is None or not question:
            raise UserError("ask a question about a scene first")
        self._forget()
        count, network = self._count, self._networks[int(self._network.value or 0)]
        shares = [0.0]
        self._share.value, self._share.visible = 0.0, True
        timer = ui.timer(0.2, lambda: self._share.set_value(shares[-1]))
        try:
            with self._desk.busy("trying all changes"):
                before, outcomes = await asyncio.to_thread(
                    what_if, network, edited, question,
                    size=network.image_size or _SIZE, change=self._desk.change,
                    progress=shares.append,
                    stopped=lambda: count != self._count,
                )  # fmt: skip
        finally:
            timer.delete()
            if count == self._count:
                self._share.visible = False
        if count != self._count:
            return
        moved = sum(outcome.answer.text != before.text for outcome in outcomes)
        share = 100 * before.probabilities[before.text]
        with self._outcomes:
            summary = ui.label(
                f"{question} {network.name} answers {before.text} ({share:.0f}%). {moved} of "
                f"{len(outcomes)} changes give another answer, which stands in their cells; the "
                f"more colour a cell has, the less likely is {before.text}. A red frame marks a "
                "wrong answer."
            )
            summary.classes("quiet").props('role="status"')
            ui.html(outcomes_table(edited, before, outcomes), sanitize=False).classes("grid")


def outcomes_table(edited: EditedScene, before: Answer, outcomes: list[Outcome]) -> str:
    """HTML: a row for each object, a column for each value of each attribute."""
    by_change = {outcome.change: outcome for outcome in outcomes}
    values = [(name, value) for name, choices in ATTRIBUTES.items() for value in choices]
    groups = "".join(
        f'<th colspan="{len(choices)}">{name}</th>' for name, choices in ATTRIBUTES.items()
    )
    heads = "".join(f'<th class="value" scope="col"><span>{v}</span></th>' for _, v in values)
    rows = []
    for number, placed in enumerate(edited.objects):
        cells = []
        for attribute, value in values:
            outcome = by_change.get(Change(number, attribute, value))
            cells.append(_UNCHANGED if outcome is None else _cell(before, outcome))
        name = f"{number + 1}. {html.escape(str(placed))}"
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    return (
        f"<table><thead><tr><th></th>{groups}</tr><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(before: Answer, outcome: Outcome) -> str:
    given, truth = outcome.answer.text, outcome.truth
    share = outcome.answer.probabilities.get(before.text, 0.0)
    lost = min(1.0, max(0.0, 1 - share / max(before.probabilities[before.text], 1e-9)))
    title = f"{outcome.change.value}: {given}, {before.text} {100 * share:.0f}%"
    is_wrong = truth is not None and truth != given
    if truth is not None:
        title += f"; it is {truth}"
    style = "cell wrong" if is_wrong else "cell"
    text = html.escape(given) if given != before.text else ""
    return (
        f'<td title="{html.escape(title)}" aria-label="{html.escape(title)}"><span class="{style}" '
        f'style="--share: {lost:.2f}">{text}</span></td>'
    )
