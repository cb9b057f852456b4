"""The page in Chromium, as a visitor sees it.

``FILMVQA_SCREENSHOTS=<folder>`` keeps the screenshots, two of which are in ``docs/page``, and makes
the recording ``use.webp`` that is there too.
"""

from __future__ import annotations

import io
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.page.visit import Visit


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("FILMVQA_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shoot(page: Any, path: Path, **options: Any) -> None:
    """Take a screenshot, which must not be empty."""
    page.screenshot(path=path, **options)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert len(image.convert("RGB").getcolors(2**24) or []) > 200


class Recording:
    """Screenshots of a page, each of which an animation shows for some milliseconds."""

    def __init__(self, page: Any) -> None:
        self._page, self._frames, self._durations = page, [], []

    def take(self, milliseconds: int) -> None:
        with Image.open(io.BytesIO(self._page.screenshot())) as image:
            self._frames.append(image.convert("RGB").resize((960, 750), Image.Resampling.LANCZOS))
        self._durations.append(milliseconds)

    def save(self, path: Path) -> None:
        """Write an animation that is long enough to follow, and small enough for a README."""
        assert 15_000 <= sum(self._durations) <= 20_000
        first, *others = self._frames
        first.save(
            path, save_all=True, append_images=others, duration=self._durations, loop=0,
            quality=60, method=6, minimize_size=True,
        )  # fmt: skip
        assert path.stat().st_size < 600_000


def test_ask_edit_and_what_if(
    open_page: Callable[..., Visit], address: str, screenshots: Path
) -> None:
    visit = open_page(address, viewport={"width": 1280, "height": 860}, color_scheme="light")
    page = visit.page
    page.get_by_label("question", exact=True).fill("How many metal things are there?")
    page.keyboard.press("Enter")
    visit.until(lambda: page.locator(".given").inner_text().isdigit())
    visit.until(lambda: "±" in page.locator(".strips").inner_text())
    visit.idle()
    shoot(page, screenshots / "ask.png")

    before = visit.picture()
    handle = page.locator("circle.handle").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(x + 6 * step, y + 2 * step)
        page.wait_for_timeout(30)
    visit.until(lambda: visit.picture().startswith("data:image/jpeg"))
    page.mouse.up()
    visit.until(lambda: visit.picture().startswith("data:image/png"))
    assert visit.picture() != before
    moved = page.locator("circle.handle.chosen").bounding_box()
    assert abs(moved["x"] + moved["width"] / 2 - x - 36) < 6

    page.get_by_role("application").focus()
    place = page.locator("circle.handle").nth(1).get_attribute("cx")
    page.keyboard.press("2")
    page.keyboard.press("ArrowLeft")
    visit.until(lambda: page.locator("circle.handle").nth(1).get_attribute("cx") != place)
    page.get_by_label("color of object 1").click()
    page.get_by_role("option", name="cyan").click()
    visit.until(lambda: page.get_by_label("color of object 1").input_value() == "cyan")
    visit.idle()

    page.get_by_text("Try all changes").click()
    rows = page.locator("section[aria-label='What if'] tbody tr")
    visit.until(lambda: rows.count() == page.locator("circle.handle").count())
    page.locator(".map").last.click()
    page.get_by_text("Laid over it: gradient of the answer.").wait_for()
    visit.idle()
    shoot(page, screenshots / "why.png", full_page=True)


@pytest.mark.skipif(
    "FILMVQA_SCREENSHOTS" not in os.environ, reason="FILMVQA_SCREENSHOTS names no folder"
)
def test_a_recording(open_page: Callable[..., Visit], address: str, screenshots: Path) -> None:
    visit = open_page(address, viewport={"width": 1280, "height": 1000}, color_scheme="light")
    page, recording = visit.page, Recording(visit.page)
    visit.idle()
    recording.take(1200)
    question = page.get_by_label("question", exact=True)
    question.fill("")
    for number, letter in enumerate("How many things are left of the big brown ball?"):
        question.press_sequentially(letter)
        if number % 2:
            recording.take(110)
    before = page.locator(".strips").inner_html()
    page.keyboard.press("Enter")
    visit.until(lambda: page.locator(".strips").inner_html() != before)
    visit.idle()
    recording.take(3000)

    answer = page.locator(".given").inner_text()
    handle = page.locator("circle.handle").nth(4).bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 13):
        page.mouse.move(x - 25 * step, y + 3 * step)
        page.wait_for_timeout(300)
        recording.take(110)
    page.mouse.up()
    visit.until(lambda: visit.picture().startswith("data:image/png"))
    visit.until(lambda: page.locator(".given").inner_text() != answer)
    visit.idle()
    recording.take(3000)

    why = page.locator("section[aria-label='Why']").bounding_box()["y"]
    for step in range(1, 9):
        page.evaluate("y => scrollTo({top: y, behavior: 'instant'})", (why - 20) * step / 8)
        recording.take(80)
    recording.take(3500)
    recording.save(screenshots / "use.webp")


def test_a_quick_drag_ends_at_the_pointer(open_page: Callable[..., Visit], address: str) -> None:
    visit = open_page(address, viewport={"width": 1280, "height": 860})
    page = visit.page
    handle = page.locator("circle.handle").nth(2).bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x + 5, y)  # off its centre, an offset that it keeps
    page.mouse.down()
    page.mouse.move(x + 45, y + 10)
    page.mouse.move(x + 65, y + 20)
    page.mouse.up()
    visit.until(lambda: "your scene" in page.locator("section[aria-label='Picture']").inner_text())
    visit.idle()
    moved = page.locator("circle.handle.chosen").bounding_box()
    assert abs(moved["x"] + moved["width"] / 2 - x - 60) < 3
    assert abs(moved["y"] + moved["height"] / 2 - y - 20) < 3


def test_larger_uploads_are_not_received(address: str) -> None:
    path = f"{address}/_nicegui/client/none/upload/1"
    request = urllib.request.Request(path, data=bytes(9 * 2**20), method="POST")
    with pytest.raises(urllib.error.URLError) as caught:
        urllib.request.urlopen(request)
    assert getattr(caught.value, "code", 413) == 413  # or the server closed the connection first


def test_in_the_dark_with_what_if(
    open_page: Callable[..., Visit], address: str, screenshots: Path
) -> None:
    visit = open_page(address, viewport={"width": 1280, "height": 760}, color_scheme="dark")
    page = visit.page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"
    page.get_by_text("Try all changes").click()
    page.locator("section[aria-label='What if'] table").wait_for()
    page.locator("section[aria-label='What if']").evaluate("e => e.scrollIntoView({block: 'end'})")
    visit.idle()
    page.wait_for_timeout(300)
    shoot(page, screenshots / "what_if.png")
    page.get_by_label("dark or light").click()
    visit.until(
        lambda: (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(244, 246, 248)"
        )
    )


def test_errors(open_page: Callable[..., Visit], address: str, screenshots: Path) -> None:
    visit = open_page(address, viewport={"width": 1280, "height": 860})
    page = visit.page
    page.get_by_role("tab", name="Errors").click()
    page.get_by_text(re.compile("answers are wrong")).wait_for()
    everything = page.get_by_role("checkbox", name="only wrong answers")
    everything.click()
    visit.until(lambda: page.locator(".errors tbody tr").count() == 20)
    page.get_by_label("type", exact=True).click()
    page.get_by_role("option", name="count").click()
    visit.until(
        lambda: {*page.locator(".errors tbody td:nth-child(2)").all_inner_texts()} == {"count"}
    )
    shoot(page, screenshots / "errors.png")
    row = page.locator(".errors tbody tr").first
    question, given = row.locator("td").first.inner_text(), row.locator("td").nth(6).inner_text()
    row.get_by_role("link").press("Enter")
    visit.until(lambda: page.get_by_label("question", exact=True).input_value() == question)
    visit.idle()
    visit.until(lambda: page.locator(".given").inner_text() == given)
    assert page.locator("section[aria-label='Objects']").is_hidden()  # it cannot be drawn again


def test_on_a_telephone(open_page: Callable[..., Visit], address: str, screenshots: Path) -> None:
    visit = open_page(address, viewport={"width": 390, "height": 844}, color_scheme="light")
    page = visit.page
    page.get_by_text("Try all changes").click()
    page.locator("section[aria-label='What if'] table").wait_for()
    visit.idle()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tops = [
        page.locator(f"section[aria-label='{name}']").bounding_box()["y"]
        for name in ("Picture", "Question", "Why", "Objects", "What if")
    ]
    assert tops == sorted(tops)
    shoot(page, screenshots / "telephone.png", full_page=True)


def test_an_upload(open_page: Callable[..., Visit], address: str, tmp_path: Path) -> None:
    Image.new("RGB", (120, 80), (180, 40, 40)).save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    visit = open_page(address)
    page = visit.page
    for name, text in (("broken.png", "cannot be read as an image"), ("red.png", "looks unlike")):
        with page.expect_file_chooser() as chooser:
            page.get_by_text("Upload a picture").click()
        chooser.value.set_files(tmp_path / name)
        page.get_by_text(re.compile(text)).first.wait_for()
