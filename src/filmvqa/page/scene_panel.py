"""The picture and its source, and its objects, which can be moved and changed."""

from __future__ import annotations

import math
from functools import partial

from nicegui import events, ui

from filmvqa.page.frame import Panel, box, note, piece, report_errors
from filmvqa.page.picture_sources import PictureSources
from filmvqa.page.pictures import data_url, overlay_map
from filmvqa.page.session import Session
from filmvqa.page.subjects import HEIGHT, WIDTH, draw_preview, draw_scene
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES
from filmvqa.worlds.clevr.scenes import PlacedObject

#: The largest distance in pixels from which a pointer grabs an object.
_REACH = 26.0
#: The distance in pixels by which an arrow key moves an object.
_STEP = 8.0
_ARROWS = {
    "ArrowLeft": (-_STEP, 0.0), "ArrowRight": (_STEP, 0.0),
    "ArrowUp": (0.0, -_STEP), "ArrowDown": (0.0, _STEP),
}  # fmt: skip
#: Moves of the pointer are sent only while a button is pressed.
_POINTER = "(e) => { if (e.mouse_event_type !== 'pointermove' || e.buttons) emit(e) }"
#: The image is inside NiceGUI's element, which has no property for its alternative text.
_NAME = "() => {{ const e = getElement({id}); e.$refs.img.alt = e.$el.dataset.alt }}"
_KEYS = """(e) => {
    if (!e.currentTarget.classList.contains('editable')) return;
    if (e.key.startsWith('Arrow') || e.key === 'Delete' || /^[0-9]$/.test(e.key)) {
        e.preventDefault();
        emit({key: e.key});
    }
}"""
_KEYS_EXPLAINED = "digits choose an object, arrows move it, Delete removes it"


class ScenePanels:
    """The panels of the subject's picture and objects."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._chosen: int | None = None
        self._dragged: int | None = None
        self._grip = (0.0, 0.0)  # the pointer's offset from the place of the object it drags
        # The scene to draw next: changes may come faster than pictures.
        self._wanted: EditedScene | None = session.subject.edited
        self._is_drawing = self._is_coarse = False
        self._rows_show: object = None
        with Panel("Picture") as frame:
            with frame.heading:
                self._title = note()
            PictureSources(session)
            self._image = ui.interactive_image(
                events=["pointerdown", "pointermove", "pointerup", "pointerleave", "pointercancel"],
                sanitize=False,
            )
            self._image.classes("picture").props("tabindex=0")
            self._image.on("mouse", self._on_pointer, js_handler=_POINTER)
            self._image.on("loaded", js_handler=_NAME.format(id=self._image.id))
            self._image.on("keydown", self._on_key, js_handler=_KEYS)
            self._over = note()
            self._problems = box("alarm").props('role="status"')
        with Panel("Objects").classes("later") as self._objects_panel:
            self._editor = box("column")
        session.subject_changed.subscribe(self._on_subject)
        session.overlay_changed.subscribe(self._draw_picture)
        self._refresh(settled=True)

    async def _on_subject(self, settled: bool) -> None:
        self._is_coarse = not settled
        if settled and self._session.subject.edited is not self._wanted:
            self._wanted = self._session.subject.edited
            self._chosen = self._dragged = None
        self._refresh(settled)

    def _refresh(self, settled: bool) -> None:
        subject = self._session.subject
        self._title.text = subject.title
        self._draw_picture(quick=not settled)
        self._problems.clear()
        with self._problems:
            for problem in subject.problems:
                ui.label(f"CLEVR has no such scene: {problem}.")
        if settled:
            self._build_editor()

    def _draw_picture(self, quick: bool = False) -> None:
        subject, overlay = self._session.subject, self._session.overlay
        picture = subject.picture
        if overlay is not None:
            picture = overlay_map(picture, overlay[1])
        self._image.props["data-alt"] = subject.description
        self._image.set_source(data_url(picture, quick=quick))
        self._over.text = "" if overlay is None else f"Laid over it: {overlay[0]}."
        self._draw_handles()

    def _draw_handles(self) -> None:
        edited = self._session.subject.edited
        if edited is None:
            content, role, name = "", "img", "the picture"
        else:
            content = piece("handles", places=edited.pixels(WIDTH, HEIGHT), chosen=self._chosen)
            role, name = "application", f"the scene: {_KEYS_EXPLAINED}"
        self._image.set_content(content)
        self._image.classes(add="editable" if edited else "", remove="" if edited else "editable")
        self._image.props(f'role="{role}" aria-label="{name}"')

    # Objects

    def _build_editor(self) -> None:
        edited = self._wanted
        shown = None if edited is None else [_attributes(o) for o in edited.objects]
        if shown == self._rows_show and shown is not None:
            self._mark_rows()
            return
        self._rows_show = shown
        self._rows: list[ui.element] = []
        self._editor.clear()
        self._objects_panel.visible = edited is not None
        if edited is None:
            return
        with self._editor:
            note(f"Drag an object. Or go to the picture with Tab: {_KEYS_EXPLAINED}.")
            with box("objects"):
                for number, placed in enumerate(edited.objects):
                    self._build_row(number, placed)
            add = ui.button("Add an object", on_click=report_errors(self._add)).props("outline")
            add.style("justify-self: start")
        self._mark_rows()

    def _build_row(self, number: int, placed: PlacedObject) -> None:
        with box("object") as row:
            choose = ui.button(str(number + 1), on_click=partial(self._choose, number))
            choose.props(f'flat dense round size=sm aria-label="choose object {number + 1}"')
            for attribute, values in ATTRIBUTES.items():
                select = ui.select(
                    list(values), value=getattr(placed, attribute),
                    on_change=report_errors(partial(self._set_attribute, number, attribute)),
                )  # fmt: skip
                label = f'aria-label="{attribute} of object {number + 1}"'
                select.props(f"borderless {label}", remove="outlined")
            on_remove = report_errors(partial(self._remove, number))
            remove = ui.button(icon="close", on_click=on_remove)
            remove.props(f'flat dense round size=sm aria-label="remove object {number + 1}"')
        self._rows.append(row)

    async def _set_attribute(
        self, number: int, attribute: str, event: events.ValueChangeEventArguments[str]
    ) -> None:
        if (edited := self._editable()) is not None:
            changed = edited.with_object(number, **{attribute: event.value})
            # The row already shows the new value.
            self._rows_show = [_attributes(o) for o in changed.objects]
            await self._draw(changed)

    async def _remove(self, number: int) -> None:
        if (edited := self._editable()) is not None:
            self._chosen = None
            await self._draw(edited.without(number))

    async def _add(self) -> None:
        if (edited := self._editable()) is None:
            return

        def distance(place: tuple[float, float]) -> float:
            return min((math.dist(place, (o.x, o.y)) for o in edited.objects), default=0.0)

        # Place it furthest from all others, so that it is visible and touches none.
        x, y = max(((x / 2, y / 2) for x in range(-6, 7) for y in range(-6, 7)), key=distance)
        added = PlacedObject(size="small", color="red", material="rubber", shape="cube", x=x, y=y)
        self._chosen = len(edited.objects)
        await self._draw(edited.with_added(added))

    def _editable(self) -> EditedScene | None:
        """The scene to draw next; None for another picture, or while another subject loads."""
        return None if self._session.is_leaving else self._wanted

    def _choose(self, number: int | None) -> None:
        self._chosen = number
        self._draw_handles()
        self._mark_rows()

    def _mark_rows(self) -> None:
        for number, row in enumerate(self._rows):
            is_chosen = number == self._chosen
            row.classes(add="chosen" if is_chosen else "", remove="" if is_chosen else "chosen")

    # Drawing again

    async def _draw(self, wanted: EditedScene) -> None:
        """Draw a changed scene, and repeat if it has changed meanwhile. Draw coarsely while an
        object is dragged."""
        self._wanted = wanted
        if self._is_drawing:
            return
        self._is_drawing = True
        try:
            while (edited := self._editable()) is not None and (
                edited is not self._session.subject.edited
                or (self._is_coarse and self._dragged is None)
            ):
                settled = self._dragged is None
                make = partial(draw_preview, self._session.subject, edited)
                if settled:
                    make = partial(draw_scene, edited, "your scene")
                await self._session.show("drawing the scene", make, leaves=False, settled=settled)
        finally:
            self._is_drawing = False

    async def _on_pointer(self, event: events.GenericEventArguments) -> None:
        action, x, y = (event.args[name] for name in ("mouse_event_type", "image_x", "image_y"))
        edited = self._editable()
        if edited is None:
            return
        if action == "pointerdown":
            places = edited.pixels(WIDTH, HEIGHT)
            distance, number = min(
                ((math.dist(place, (x, y)), i) for i, place in enumerate(places)),
                default=(math.inf, 0),
            )
            self._dragged = number if distance <= _REACH else None
            if self._dragged is not None:
                self._grip = (x - places[number][0], y - places[number][1])
            self._choose(self._dragged)
        elif self._dragged is not None:
            number = self._dragged
            if action != "pointermove":
                self._dragged = None
            # A pointer that left the picture, or was cancelled, gives no new place.
            place = (x - self._grip[0], y - self._grip[1])
            is_over = action in ("pointermove", "pointerup")
            if is_over and math.dist(edited.pixels(WIDTH, HEIGHT)[number], place) > 0.5:
                edited = edited.moved_to_pixel(number, *place, WIDTH, HEIGHT)
            await report_errors(self._draw)(edited)

    async def _on_key(self, event: events.GenericEventArguments) -> None:
        key, edited = event.args["key"], self._editable()
        if edited is None:
            return
        if key.isdigit():
            number = (int(key) - 1) % 10  # 0 is the tenth
            self._choose(number if number < len(edited.objects) else None)
        elif self._chosen is not None and self._chosen < len(edited.objects):
            if key == "Delete":
                await self._remove(self._chosen)
            else:
                x, y = edited.pixels(WIDTH, HEIGHT)[self._chosen]
                dx, dy = _ARROWS[key]
                moved = edited.moved_to_pixel(self._chosen, x + dx, y + dy, WIDTH, HEIGHT)
                await report_errors(self._draw)(moved)


def _attributes(placed: PlacedObject) -> tuple[str, ...]:
    return tuple(getattr(placed, attribute) for attribute in ATTRIBUTES)
