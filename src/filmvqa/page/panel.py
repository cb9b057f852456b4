"""The frame of a part of the page."""

from __future__ import annotations

from nicegui import ui


def panel(title: str) -> ui.element:
    """A section with a heading, into which a ``with`` block builds."""
    section = ui.element("section").classes("panel").props(f'aria-label="{title}"')
    with section:
        ui.html(f"<h2>{title}</h2>", sanitize=False)
    return section
