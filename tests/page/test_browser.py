"""The page in Chromium, as a visitor sees it.

With ``FILMVQA_SCREENSHOTS=<folder>`` the pictures of it stay there: ``docs/page`` has two of them.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("no Chromium on the path", allow_module_level=True)

from PIL import Image

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.checkpoints.checkpoint import load_checkpoint, vocabulary_of
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.system.layout import DatasetLayout
from tests.conftest import REPOSITORY, script_environment

#: Of a slow machine, on which other tests run.
PATIENCE = 90_000


@pytest.fixture(scope="module")
def address(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page of the package's network is served, which is evaluated on the tiny world."""
    work = tmp_path_factory.mktemp("site")
    layout = DatasetLayout.under(
        shutil.copytree(tiny_world, work / "data", ignore=shutil.ignore_patterns("h5")),
        backbone="clevr_cnn",
    )
    vocabulary = vocabulary_of(load_checkpoint("clevr_world"), "clevr_world")
    preprocess_questions(layout, vocabulary=vocabulary)
    images = layout.image_folder("val")
    Extraction(
        images, layout.feature_h5("val"), "val", build_backbone("clevr_cnn"), (144, 144)
    ).run()
    evaluation = work / "outputs/clevr_world/evaluation"
    evaluate_checkpoint(
        EvaluateSettings(checkpoint="clevr_world", split="val", h5=layout.h5, output=evaluation)
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = script_environment()
    environment.pop("PYTEST_CURRENT_TEST", None)  # by which NiceGUI would take it for a test
    script = str(REPOSITORY / "scripts/page.py")
    process = subprocess.Popen(
        [sys.executable, script, "h5=data/h5", f"port={port}", "show=false"],
        cwd=work, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"the page is at http://127.0.0.1:{port}; Ctrl-C ends it\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("FILMVQA_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visit:
    """A browser's page, with what went wrong in it."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._request)
        self.address = address
        self.page.goto(address)
        self.page.wait_for_selector(".given")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(
            (self.address, "data:", "blob:", self.address.replace("http", "ws"))
        ):
            self.faults.append(f"asks {request.url}")

    def idle(self) -> None:
        """Wait until the page says that it does nothing."""
        self.page.wait_for_function("document.querySelector('.status').textContent === ''")

    def picture(self) -> str:
        return str(self.page.get_attribute(".picture img", "src"))

    def until(self, condition: Any) -> None:
        for _ in range(PATIENCE // 50):
            if condition():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("has not happened")


def shoot(page: Any, path: Path, **options: Any) -> None:
    """Take a screenshot: not empty, and small enough for a README."""
    page.screenshot(path=path, **options)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert len(image.convert("RGB").getcolors(2**24) or []) > 200


def test_ask_edit_and_what_if(chromium: Any, address: str, screenshots: Path) -> None:
    visit = Visit(chromium, address, viewport={"width": 1280, "height": 860}, color_scheme="light")
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
    assert visit.faults == []
    visit.context.close()


def test_a_quick_drag_ends_at_the_pointer(chromium: Any, address: str) -> None:
    visit = Visit(chromium, address, viewport={"width": 1280, "height": 860})
    page = visit.page
    handle = page.locator("circle.handle").nth(2).bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x + 5, y)  # off its centre, where it stays
    page.mouse.down()
    page.mouse.move(x + 45, y + 10)
    page.mouse.move(x + 65, y + 20)
    page.mouse.up()
    visit.until(lambda: "your scene" in page.locator("section[aria-label='Picture']").inner_text())
    visit.idle()
    moved = page.locator("circle.handle.chosen").bounding_box()
    assert abs(moved["x"] + moved["width"] / 2 - x - 60) < 3
    assert abs(moved["y"] + moved["height"] / 2 - y - 20) < 3
    assert visit.faults == []
    visit.context.close()


def test_larger_uploads_are_not_received(address: str) -> None:
    path = f"{address}/_nicegui/client/none/upload/1"
    request = urllib.request.Request(path, data=bytes(9 * 2**20), method="POST")
    with pytest.raises(urllib.error.URLError) as caught:
        urllib.request.urlopen(request)
    assert getattr(caught.value, "code", 413) == 413  # or it hung up before all was sent


def test_in_the_dark_with_what_if(chromium: Any, address: str, screenshots: Path) -> None:
    visit = Visit(chromium, address, viewport={"width": 1280, "height": 760}, color_scheme="dark")
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
    assert visit.faults == []
    visit.context.close()


def test_errors(chromium: Any, address: str, screenshots: Path) -> None:
    visit = Visit(chromium, address, viewport={"width": 1280, "height": 860})
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
    assert visit.faults == []
    visit.context.close()


def test_on_a_telephone(chromium: Any, address: str, screenshots: Path) -> None:
    visit = Visit(chromium, address, viewport={"width": 390, "height": 844}, color_scheme="light")
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
    assert visit.faults == []
    visit.context.close()


def test_an_upload(chromium: Any, address: str, tmp_path: Path) -> None:
    Image.new("RGB", (120, 80), (180, 40, 40)).save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    visit = Visit(chromium, address)
    page = visit.page
    for name, text in (("broken.png", "cannot be read as an image"), ("red.png", "looks unlike")):
        with page.expect_file_chooser() as chooser:
            page.get_by_text("Upload a picture").click()
        chooser.value.set_files(tmp_path / name)
        page.get_by_text(re.compile(text)).first.wait_for()
    assert visit.faults == []
    visit.context.close()
