"""Other γ and β: scaled, shifted, or those of another question, in all blocks or in one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from filmvqa.page.desk import Desk, reporting
from filmvqa.page.panel import panel
from filmvqa.studies.inspection.settings import FilmSettings

_PARAMETERS = {"both": "γ and β", "gamma": "γ", "beta": "β"}

#: Far beyond what any network bears.
_LARGEST = 1000.0


class FilmPanel:
    """The panel that changes γ and β at test time, for networks that have them; ``ask`` asks the
    question again."""

    def __init__(self, desk: Desk, ask: Callable[[], Awaitable[None]]) -> None:
        self._desk, self._ask = desk, ask
        layers = max(network.num_layers for network in desk.house.networks)
        if layers == 0:
            return
        with panel("Other γ and β"):
            ui.label(
                "First those of another question, if one is given, then times a number, plus a "
                "number."
            ).classes("quiet")
            self._question = ui.input("of another question").props("outlined dense")
            with ui.element("div").classes("filters"):
                self._scale = ui.number("times", value=1.0, step=0.1, min=-_LARGEST, max=_LARGEST)
                self._shift = ui.number("plus", value=0.0, step=0.1, min=-_LARGEST, max=_LARGEST)
                self._parameter = ui.select(_PARAMETERS, value="both", label="what")
                blocks = {0: "all blocks"} | {i: f"block {i}" for i in range(1, layers + 1)}
                self._layer = ui.select(blocks, value=0, label="where")
                for element in (self._scale, self._shift, self._parameter, self._layer):
                    element.props("outlined dense options-dense")
            with ui.element("div").classes("line"):
                ui.button("Ask with these", on_click=reporting(self._apply)).props(
                    "outline no-caps"
                )
                ui.button("As they are", on_click=reporting(self._reset)).props("flat no-caps")

    async def _apply(self) -> None:
        scale, shift = self._scale.value, self._shift.value
        settings = FilmSettings(
            question=(self._question.value or "").strip() or None,
            scale=_within(scale, 1.0),
            shift=_within(shift, 0.0),
            parameter=self._parameter.value or "both",
            layers=[int(self._layer.value)] if self._layer.value else None,
        )
        change = settings if settings.is_change else None
        for network in self._desk.house.networks:
            network.check_change(change)
        self._desk.change = change
        await self._ask()

    async def _reset(self) -> None:
        self._question.value, self._scale.value, self._shift.value = "", 1.0, 0.0
        self._parameter.value, self._layer.value = "both", 0
        await self._apply()


def _within(number: float | None, otherwise: float) -> float:
    return otherwise if number is None else min(_LARGEST, max(-_LARGEST, float(number)))
