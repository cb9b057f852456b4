"""Shared by the parts of the page: frames, lines, templates, and the display of errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, wraps
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from nicegui import ui

from filmvqa.system.errors import UserError, one_line


class Panel(ui.element):
    """A section with a title, filled by a ``with`` block. ``heading`` is the line of the title."""

    def __init__(self, title: str) -> None:
        super().__init__("section")
        self.classes("panel").props(f'aria-label="{title}"')
        with self, box("line") as self.heading:
            ui.html(f"<h2>{title}</h2>", sanitize=False)


def box(classes: str) -> ui.element:
    """An element with classes of the page's style sheet."""
    return ui.element("div").classes(classes)


def note(text: str = "") -> ui.label:
    """A line of small print."""
    return ui.label(text).classes("quiet")


def scrolled(table: str, name: str) -> ui.html:
    """A table from HTML, which scrolls sideways if it is too wide, also by keyboard."""
    element = ui.html(table, sanitize=False).classes("grid")
    return element.props(f'tabindex=0 role="region" aria-label="{name}"')


def piece(name: str, **values: Any) -> str:
    """HTML or SVG from the macro ``name`` in ``pieces.html``, with escaped texts."""
    return str(getattr(_pieces(), name)(**values))


@cache
def _pieces() -> Any:
    """The macros of ``pieces.html``."""
    source = (files("filmvqa.page") / "pieces.html").read_text()
    return Environment(autoescape=True).from_string(source).module


def report_errors(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Make a handler show user errors on the page."""

    @wraps(handler)
    async def guarded(*arguments: Any, **options: Any) -> None:
        try:
            await handler(*arguments, **options)
        except (UserError, OSError) as error:
            ui.notify(one_line(error), type="negative", multi_line=True, close_button=True)

    return guarded


ui.button.default_props("no-caps")
for _field in (ui.input, ui.number, ui.select):
    _field.default_props("outlined dense options-dense")
