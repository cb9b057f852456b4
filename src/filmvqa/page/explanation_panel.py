"""Why: γ and β, attention to words, and maps over the picture."""

from __future__ import annotations

from nicegui import ui

from filmvqa.page.frame import Panel, box, note, piece, scrolled
from filmvqa.page.networks import MASK, Look
from filmvqa.page.pictures import data_url, draw_film_strips, overlay_map, thumbnail
from filmvqa.page.session import Session
from filmvqa.vqa import FilmParameters

_FILM_EXPLAINED = (
    "γ and β: one bar per channel, which starts at 1 for γ and at 0 for β (the dashed line marks "
    "the other number). Ticks are the values for the previous question. ± is the root mean square "
    "of the change."
)
_MAPS_EXPLAINED = (
    "Maps: norms over the channels before and after each FiLM layer and the places that the "
    "maximum pool selects, or the attention of each step; and the gradient of the answer's score. "
    "Choose one to lay it over the picture."
)


class ExplanationPanel:
    """The panel that explains the answers."""

    def __init__(self, session: Session) -> None:
        self._session, self._networks = session, session.shared.networks
        self._looks: list[Look] = []
        # For each network, γ and β of the present and the previous question.
        self._films: list[list[tuple[str, FilmParameters]]] = [[] for _ in self._networks]
        self._overlay: tuple[int, str] | None = None
        with Panel("Why") as self._panel:
            self._reasons = box("column")
        self._panel.visible = False

    def clear(self) -> None:
        """Remove the explanation of another question or subject."""
        self._panel.visible = False
        self._reasons.clear()
        self._session.set_overlay(None)

    def show(self, question: str, looks: list[Look]) -> None:
        """Explain the answers to a question."""
        self._looks = looks
        for films, look in zip(self._films, looks, strict=True):
            if look.film is not None:
                others = [entry for entry in films if entry[0] != question]
                films[:] = [(question, look.film), *others[:1]]
        if self._overlay is None:
            self._overlay = next(
                ((i, MASK) for i, look in enumerate(looks) if MASK in look.maps), None
            )
        self._refresh()

    def _refresh(self) -> None:
        self._panel.visible = True
        self._reasons.clear()
        with self._reasons:
            for i, (network, look) in enumerate(zip(self._networks, self._looks, strict=True)):
                if len(self._networks) > 1:
                    note(network.name)
                if look.film is not None:
                    _show_film(*(film for _, film in self._films[i]))
                if look.words is not None:
                    words, attention = look.words
                    table = piece("words", words=words, steps=attention.tolist())
                    scrolled(table, f"attention of {network.name} to words")
                self._show_maps(i, look)
            if any(look.film is not None for look in self._looks):
                note(_FILM_EXPLAINED)
            note(_MAPS_EXPLAINED)
        overlay = None
        if self._overlay is not None:
            i, name = self._overlay
            if name in self._looks[i].maps:
                overlay = (name, self._looks[i].maps[name])
        self._session.set_overlay(overlay)

    def _show_maps(self, i: int, look: Look) -> None:
        picture = thumbnail(self._session.subject.picture)
        with box("maps"):
            for name, values in look.maps.items():
                button = ui.button(on_click=lambda name=name: self._choose_map(i, name))
                button.props("flat").classes("map")
                if self._overlay == (i, name):
                    button.classes("shown")
                with button:
                    url = data_url(overlay_map(picture, values), quick=True)
                    ui.html(piece("map", url=url, title=name), sanitize=False)

    def _choose_map(self, i: int, name: str) -> None:
        self._overlay = None if self._overlay == (i, name) else (i, name)
        self._refresh()


def _show_film(film: FilmParameters, before: FilmParameters | None = None) -> None:
    with box("strips"):
        for number, drawing in enumerate(draw_film_strips(film, before)):
            layer, name = number // 2, ("gamma", "beta")[number % 2]
            text = f"{'γ' if name == 'gamma' else 'β'}, block {layer + 1}"
            if before is not None:
                change = getattr(film, name)[layer] - getattr(before, name)[layer]
                text += f"\n± {float(change.square().mean().sqrt()):.2f}"
            note(text).style("white-space: pre-line")
            ui.html(drawing, sanitize=False)
