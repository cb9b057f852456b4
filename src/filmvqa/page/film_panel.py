"""Other γ and β: scaled, shifted, or another question's, in all blocks or in one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from filmvqa.page.frame import Panel, box, note, report_errors
from filmvqa.page.session import Session
from filmvqa.studies.inspection.settings import FilmSettings

_PARAMETERS = {"both": "γ and β", "gamma": "γ", "beta": "β"}
#: The largest scale and shift, far beyond what any network tolerates.
_LARGEST = 1000.0


class FilmPanel:
    """The panel that changes γ and β at test time, for networks with FiLM layers. ``ask`` asks the
    question again."""

    def __init__(self, session: Session, ask: Callable[[], Awaitable[None]]) -> None:
        self._session, self._ask = session, ask
        layers = max(network.num_layers for network in session.shared.networks)
        if layers == 0:
            return
        with Panel("Other γ and β"):
            note("γ and β of this question or another, times a number, plus a number.")
            self._question = ui.input("of another question")
            with box("filters"):
                self._scale = ui.number("times", value=1.0, step=0.1, min=-_LARGEST, max=_LARGEST)
                self._shift = ui.number("plus", value=0.0, step=0.1, min=-_LARGEST, max=_LARGEST)
                self._parameter = ui.select(_PARAMETERS, value="both", label="what")
                blocks = {0: "all blocks"} | {i: f"block {i}" for i in range(1, layers + 1)}
                self._layer = ui.select(blocks, value=0, label="where")
            with box("line"):
                ui.button("Ask with these", on_click=report_errors(self._apply)).props("outline")
                ui.button("Original γ and β", on_click=report_errors(self._reset)).props("flat")

    async def _apply(self) -> None:
        scale, shift = self._scale.value, self._shift.value
        settings = FilmSettings(
            question=(self._question.value or "").strip() or None,
            scale=1.0 if scale is None else float(scale),
            shift=0.0 if shift is None else float(shift),
            parameter=self._parameter.value or "both",
            layers=[int(self._layer.value)] if self._layer.value else None,
        )
        change = settings if settings.is_change else None
        for network in self._session.shared.networks:
            network.check_change(change)
        self._session.change = change
        await self._ask()

    async def _reset(self) -> None:
        self._question.value, self._scale.value, self._shift.value = "", 1.0, 0.0
        self._parameter.value, self._layer.value = "both", 0
        await self._apply()
