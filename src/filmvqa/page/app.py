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
from filmvqa.page.changes_panel import AttributeChangesPanel
from filmvqa.page.errors_panel import ErrorsPanel
from filmvqa.page.film_panel import FilmPanel
from filmvqa.page.frame import box, note, report_errors
from filmvqa.page.networks import Network
from filmvqa.page.question_panel import QuestionPanel
from filmvqa.page.scene_panel import ScenePanels
from filmvqa.page.session import Session, SharedState
from filmvqa.page.settings import PageSettings
from filmvqa.page.subjects import FIRST_SEED, MAX_UPLOAD, PictureSet, Subject, draw_scene
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.editing import EditedScene


def open_shared_state(settings: PageSettings) -> SharedState:
    """The checkpoints' networks, the pictures of a data set, and the first network's run.

    Raises
    ------
    UserError
        If a checkpoint cannot be used, or the folder ``h5`` is missing.
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
    return SharedState(networks, pictures if pictures.splits else None, output_folder(first))


def first_subject(pictures: PictureSet | None = None) -> Subject:
    """What a visitor sees first: a scene, or a picture of the set if it has no scenes."""
    if pictures is not None and not any(map(pictures.has_scenes, pictures.splits)):
        for split in sorted(pictures.splits, key="val".__ne__):
            if indices := pictures.indices(split):
                return pictures.subject(split, indices[0])
    return draw_scene(EditedScene.sampled(FIRST_SEED), f"scene of seed {FIRST_SEED}")


def warm_up(shared: SharedState, subject: Subject) -> None:
    """Load what the first question needs, so that no visitor has to wait for it."""
    subject.true_answer("How many things are there?")
    for network in shared.networks:
        network.look(network.features(subject.picture), min(network.vqa.vocabulary.words()))


def build_page(shared: SharedState, subject: Subject) -> None:
    """One visitor's page, which first shows a subject."""
    ui.add_css(_read("page.css"))
    ui.add_body_html(f"<script>{_read('page.js')}</script>")
    ui.colors(primary="#2457c5")
    dark = ui.dark_mode(None)
    with ui.element("header").classes("top"):
        ui.html("<h1>filmvqa</h1>", sanitize=False)
        names = " and ".join(network.name for network in shared.networks)
        note(names)
        with ui.tabs().props("dense no-caps inline-label") as tabs:
            ask_tab, errors_tab = ui.tab("Ask"), ui.tab("Errors")
        session = Session(shared, subject)
        toggle = ui.button(icon="contrast", on_click=lambda: _turn(dark)).props("flat round dense")
        toggle.props('aria-label="dark or light"')
    with ui.tab_panels(tabs, value=ask_tab, animated=False).style("background: transparent"):
        with ui.tab_panel(ask_tab).style("padding: 0"), box("columns"):
            with box("column"):
                ScenePanels(session)
                if not any(network.vqa.draws for network in shared.networks):
                    AttributeChangesPanel(session)
            with box("column"):
                question = QuestionPanel(session)
                FilmPanel(session, question.ask)
        with ui.tab_panel(errors_tab).style("padding: 0"), box("wide"):

            async def look(text: str, split: str, index: int) -> None:
                pictures = shared.pictures
                assert pictures is not None
                tabs.value = "Ask"
                question.prepare(text)
                await session.show("reading the picture", lambda: pictures.subject(split, index))

            opened = report_errors(ErrorsPanel(session, look).open)
    tabs.on_value_change(lambda e: opened() if e.value == "Errors" else None)
    ui.timer(0.05, question.ask_first, once=True)


async def _turn(dark: ui.dark_mode) -> None:
    """Switch between dark and light. The page starts with the browser's preference."""
    is_dark = dark.value
    if is_dark is None:
        is_dark = await ui.run_javascript("matchMedia('(prefers-color-scheme: dark)').matches")
    dark.value = not is_dark


class UploadLimit:
    """An ASGI middleware that refuses a request larger than the largest upload, before receiving
    it."""

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


def serve(shared: SharedState, settings: PageSettings) -> None:
    """Serve the page until the program is interrupted.

    Raises
    ------
    UserError
        If the port is in use, or the address does not belong to this machine.
    """
    host, port = settings.host, settings.port
    _check_address(host, port)
    subject = first_subject(shared.pictures)
    warm_up(shared, subject)
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{shown}:{port}"
    app.on_startup(lambda: print(f"the page is at {address}; Ctrl-C ends it", flush=True))
    app.add_middleware(UploadLimit)
    # The header shows what is being done. Quasar's bar for requests has no accessible name.
    app.config.quasar_config["loadingBar"]["skipHijack"] = True
    with suppress(KeyboardInterrupt):  # the usual end
        ui.run(
            lambda: build_page(shared, subject),
            host=host, port=port, title="filmvqa", favicon=_read("favicon.svg"), show=settings.show,
            language="en-US", reload=False, tailwind=False, show_welcome_message=False, dark=None,
            timeout_graceful_shutdown=1,
        )  # fmt: skip


def _read(name: str) -> str:
    """The text of one of the page's files."""
    return (files("filmvqa.page") / name).read_text()


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
