"""Sources of the picture: a seed of the generator, an upload, or a data set."""

from __future__ import annotations

from nicegui import events, ui

from filmvqa.page.frame import box, report_errors
from filmvqa.page.session import Session
from filmvqa.page.subjects import FIRST_SEED, MAX_UPLOAD, draw_scene, read_upload
from filmvqa.worlds.clevr.editing import EditedScene


class PictureSources:
    """The lines that choose a picture."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._drawn_seed = (FIRST_SEED, None)
        self._pictures = pictures = session.shared.pictures
        generate, show_number = report_errors(self._generate), report_errors(self._show_number)
        with box("line"):
            self._seed = ui.number("seed", value=FIRST_SEED, min=0, precision=0)
            self._seed.style("width: 90px").on("keydown.enter", generate)
            counts = {None: "3 to 10"} | {n: str(n) for n in range(1, 11)}
            self._count = ui.select(counts, value=None, label="objects").style("width: 100px")
            ui.button("New scene", on_click=generate).props("unelevated")
            upload = ui.upload(
                on_upload=report_errors(self._on_upload), on_rejected=_on_rejected,
                max_file_size=MAX_UPLOAD, auto_upload=True,
            )  # fmt: skip
            upload.props('accept="image/png,image/jpeg"').style("display: none")
            # So that the next upload is accepted.
            upload.on("finish", js_handler=f"() => getElement({upload.id}).$refs.qRef.reset()")
            open_dialog = f"() => getElement({upload.id}).$refs.qRef.pickFiles()"
            ui.button("Upload a picture").props("outline").on("click", js_handler=open_dialog)
        if pictures is not None and pictures.splits:
            with box("line"):
                first = "val" if "val" in pictures.splits else pictures.splits[0]
                self._split = ui.select(pictures.splits, value=first, label="data set")
                self._split.style("width: 110px")
                self._number = ui.number("picture", value=0, min=0, precision=0)
                self._number.style("width: 100px").on("keydown.enter", show_number)
                ui.button("Show", on_click=show_number).props("outline")

    async def _generate(self) -> None:
        """Draw the scene of the seed, or of the next seed if that scene was drawn last."""
        seed, count = max(0, int(self._seed.value or 0)), self._count.value
        if (seed, count) == self._drawn_seed:
            seed += 1
            self._seed.value = seed
        self._drawn_seed = (seed, count)
        await self._session.show(
            "drawing a scene",
            lambda: draw_scene(EditedScene.sampled(seed, count), f"scene of seed {seed}"),
        )

    async def _show_number(self) -> None:
        pictures = self._pictures
        assert pictures is not None
        split, index = str(self._split.value), int(self._number.value or 0)
        await self._session.show("reading the picture", lambda: pictures.subject(split, index))

    async def _on_upload(self, upload: events.UploadEventArguments) -> None:
        if upload.file.size() > MAX_UPLOAD:  # browsers already refuse it
            _on_rejected()
            return
        content, name = await upload.file.read(), upload.file.name
        await self._session.show("reading the picture", lambda: read_upload(content, name))


def _on_rejected() -> None:
    ui.notify(
        f"the picture was refused: give a PNG or JPEG of at most {MAX_UPLOAD >> 20} MB",
        type="negative",
    )
