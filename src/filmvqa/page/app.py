"""The page, and the server that shows it."""

from __future__ import annotations

import socket
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from nicegui import app, ui
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.evaluation.evaluate import output_folder
from filmvqa.page.desk import Desk, House, reporting
from filmvqa.page.errors_panel import ErrorsPanel
from filmvqa.page.film_panel import FilmPanel
from filmvqa.page.networks import Network
from filmvqa.page.question_panel import QuestionPanels
from filmvqa.page.scene_panel import ScenePanels
from filmvqa.page.settings import PageSettings
from filmvqa.page.subjects import FIRST_SEED, MAX_UPLOAD, PictureSet, Subject, drawn
from filmvqa.page.what_if_panel import WhatIfPanel
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.editing import EditedScene


def open_house(settings: PageSettings) -> House:
    """The networks of the checkpoints, with the pictures of a data set and the first network's run.

    Raises
    ------
    UserError
        If a checkpoint cannot be used, or the folder ``h5`` is not there.
    """
    h5, first = settings.h5, settings.checkpoint
    checkpoints = [first] if settings.beside is None else [first, settings.beside]
    networks = [Network.load(path, settings.device, settings.weights) for path in checkpoints]
    if h5 is not None and not Path(h5).is_dir():
        raise UserError(f"{h5}: no such folder; give h5=<folder of question files>")
    folder = Path(h5 or load_checkpoint(first)["data"]["h5"])
    pictures = PictureSet(DatasetLayout.under(folder.parent, h5=folder))
    if h5 is not None and not pictures.splits:
        raise UserError(f"{h5}: no images beside it, in {pictures.layout.images}; leave out h5")
    return House(networks, pictures if pictures.splits else None, output_folder(first))


def first_subject() -> Subject:
    """What a visitor sees first."""
    return drawn(EditedScene.sampled(FIRST_SEED), f"scene of seed {FIRST_SEED}")


def warm_up(house: House, subject: Subject) -> None:
    """Load what the first question needs, so that no visitor waits for it."""
    subject.true_answer("How many things are there?")
    for network in house.networks:
        network.look(network.features(subject.picture), network.some_question)


def build_page(house: House, subject: Subject) -> None:
    """The page of one visitor, who looks at a subject first."""
    ui.add_css((files("filmvqa.page") / "page.css").read_text())
    ui.colors(primary="#2457c5")
    dark = ui.dark_mode(None)
    desk = Desk(house, subject)
    with ui.element("header").classes("top"):
        ui.label("filmvqa").classes("name")
        names = " and ".join(network.name for network in house.networks)
        ui.label(names).classes("quiet")
        with ui.tabs().props("dense no-caps inline-label") as tabs:
            ask_tab, errors_tab = ui.tab("Ask"), ui.tab("Errors")
        desk.build_status()
        toggle = ui.button(icon="contrast", on_click=lambda: _turn(dark)).props("flat round dense")
        toggle.props('aria-label="dark or light"')
    with ui.tab_panels(tabs, value=ask_tab, animated=False).style("background: transparent"):
        with ui.tab_panel(ask_tab).style("padding: 0"), ui.element("main").classes("columns"):
            with ui.element("div").classes("column"):
                ScenePanels(desk)
                if not any(network.draws for network in house.networks):
                    WhatIfPanel(desk)
            with ui.element("div").classes("column"):
                question = QuestionPanels(desk)
                FilmPanel(desk, question.ask)
        with ui.tab_panel(errors_tab).style("padding: 0"), ui.element("main").classes("wide"):

            async def look(text: str, split: str, index: int) -> None:
                pictures = house.pictures
                assert pictures is not None
                tabs.value = "Ask"
                question.prepare(text)
                await desk.show("reading the picture", lambda: pictures.subject(split, index))

            opened = reporting(ErrorsPanel(desk, look).open)
    tabs.on_value_change(lambda e: opened() if e.value == "Errors" else None)
    ui.timer(0.05, question.ask_first, once=True)


async def _turn(dark: ui.dark_mode) -> None:
    """From dark to light, or back; at first it is as the browser prefers."""
    is_dark = dark.value
    if is_dark is None:
        is_dark = await ui.run_javascript("matchMedia('(prefers-color-scheme: dark)').matches")
    dark.value = not is_dark


class UploadLimit:
    """An ASGI middleware that refuses what is larger than an upload may be, before it is
    received."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            length = dict(scope["headers"]).get(b"content-length", b"")
            # A form is a little longer than the file in it.
            if not length.isdigit() or int(length) > MAX_UPLOAD + 2**16:
                await PlainTextResponse("too large", 413)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def serve(house: House, settings: PageSettings) -> None:
    """Show the page until the program is interrupted.

    Raises
    ------
    UserError
        If the port is in use, or the host is not this machine's.
    """
    host, port = settings.host, settings.port
    _check_address(host, port)
    subject = first_subject()
    warm_up(house, subject)
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{shown}:{port}"
    app.on_startup(lambda: print(f"the page is at {address}; Ctrl-C ends it", flush=True))
    app.add_middleware(UploadLimit)
    with suppress(KeyboardInterrupt):  # the usual end
        ui.run(
            lambda: build_page(house, subject),
            host=host, port=port, title="filmvqa", favicon=_FAVICON, show=settings.show,
            reload=False, tailwind=False, show_welcome_message=False, dark=None,
            timeout_graceful_shutdown=1,
        )  # fmt: skip


#: A modulated block: two bars and a plus.
_FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" rx="7" fill="#2457c5"/>'
    '<path d="M9 23V13m7 10V8m7 15v-7" stroke="#fff" stroke-width="4" stroke-linecap="round"/>'
    "</svg>"
)


def _check_address(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"{host}:{port}: {error.strerror or error}; choose another with port=<number> or "
            "host=<address>"
        ) from None
