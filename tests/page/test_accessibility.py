"""Accessibility: axe-core finds no violations on any view of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from tests.page.visit import Visit, served
from tests.training.tiny_runs import train

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core is not installed")

WIDTHS, THEMES = (1280, 390), ("light", "dark")
everywhere = pytest.mark.parametrize(
    ("width", "theme"), [(width, theme) for width in WIDTHS for theme in THEMES]
)


class Reader:
    """Opens a page and checks it with axe-core."""

    def __init__(
        self, open_page: Callable[..., Visit], address: str, width: int, theme: str
    ) -> None:
        viewport = {"width": width, "height": 860}
        self.visit = open_page(
            address, viewport=viewport, color_scheme=theme, reduced_motion="reduce"
        )
        self.page = self.visit.page
        self.page.evaluate(axe.AXE_SCRIPT)

    def finds_nothing(self) -> None:
        """Assert that axe-core finds no violations once the page has stopped moving."""
        self.visit.idle()
        self.page.wait_for_timeout(100)
        moves = "document.getAnimations().some(a => a.playState === 'running')"
        self.page.wait_for_function(f"!{moves}")
        violations = self.page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        assert [
            f"{v['id']}: {v['help']}: {node['html']}" for v in violations for node in v["nodes"]
        ] == []

    def ask(self, question: str) -> None:
        self.page.get_by_label("question", exact=True).fill(question)
        self.page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def two_networks(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with a network that attends to words, beside the package's."""
    work = tmp_path_factory.mktemp("two")
    train(work / "mac", tiny_set, "mac")
    with served(work, "checkpoint=mac/best.pt", "beside=clevr_world") as address:
        yield address


@pytest.fixture(scope="module")
def masks(referring_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with a network that predicts masks, and its errors."""
    work = tmp_path_factory.mktemp("masks")
    train(work / "run", referring_set, "film_segmentation", max_steps=16)
    evaluate_checkpoint(EvaluateSettings(checkpoint=work / "run/best.pt", split="val"))
    with served(work, "checkpoint=run/best.pt") as address:
        yield address


@everywhere
def test_asking_and_explaining(
    open_page: Callable[..., Visit], address: str, width: int, theme: str
) -> None:
    reader = Reader(open_page, address, width, theme)
    page = reader.page
    assert page.evaluate("document.documentElement.lang") == "en-US"
    assert page.locator("main").count() == page.locator("h1").count() == 1
    reader.finds_nothing()
    reader.ask("How many blorps are there?")
    page.locator("[role=alert]", has_text="blorps").wait_for()
    reader.finds_nothing()
    page.get_by_label("question", exact=True).fill("How many m")
    reader.finds_nothing()
    reader.ask("How many metal things are there?")
    page.locator(".given").wait_for()
    page.locator(".map").last.click()
    page.get_by_text("Laid over it").wait_for()
    reader.finds_nothing()
    page.get_by_label("times").fill("2")
    page.get_by_text("Ask with these").click()
    page.get_by_text("With other γ and β").wait_for()
    reader.finds_nothing()
    page.get_by_label("of another question").fill("blorps?")
    page.get_by_text("Ask with these").click()
    page.locator(".q-notification").wait_for()
    reader.finds_nothing()


@everywhere
def test_changing_the_picture(
    open_page: Callable[..., Visit], address: str, width: int, theme: str, tmp_path: Path
) -> None:
    reader = Reader(open_page, address, width, theme)
    page = reader.page
    page.get_by_label("color of object 1").click()
    page.get_by_role("option", name="cyan").wait_for()
    reader.finds_nothing()
    page.get_by_role("option", name="cyan").click()
    reader.visit.until(lambda: page.get_by_label("color of object 1").input_value() == "cyan")
    reader.visit.idle()
    things = page.locator(".object").count() + 1
    page.get_by_text("Add an object").click()
    reader.visit.until(lambda: page.locator(".object").count() == things)
    reader.visit.idle()
    page.get_by_text("Try all changes").click()
    page.locator("section[aria-label='What if'] table").wait_for()
    reader.finds_nothing()
    picture = page.locator(".picture img")
    assert f", {things}. small red rubber cube" in picture.get_attribute("alt")
    page.get_by_text("Show", exact=True).click()
    page.locator("section[aria-label='Objects']").wait_for(state="hidden")
    reader.finds_nothing()
    Image.new("RGB", (120, 80), (180, 40, 40)).save(tmp_path / "red.png")
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Upload a picture").click()
    chooser.value.set_files(tmp_path / "red.png")
    page.get_by_text("looks unlike").first.wait_for()
    assert picture.get_attribute("alt") == "red.png"
    reader.finds_nothing()


@everywhere
def test_errors(open_page: Callable[..., Visit], address: str, width: int, theme: str) -> None:
    reader = Reader(open_page, address, width, theme)
    page = reader.page
    page.get_by_role("tab", name="Errors").click()
    page.get_by_text("answers are wrong").wait_for()
    reader.finds_nothing()
    page.get_by_role("checkbox", name="only wrong answers").click()
    reader.visit.until(lambda: page.locator(".errors tbody tr").count() == 20)
    page.get_by_label("type", exact=True).click()
    page.get_by_role("option", name="count").wait_for()
    reader.finds_nothing()
    page.keyboard.press("Escape")
    page.get_by_label("dark or light").click()
    reader.finds_nothing()
    page.get_by_role("tab", name="Ask").click()
    page.locator(".picture img[alt]").wait_for()
    reader.finds_nothing()


@everywhere
def test_two_networks_and_attention_to_words(
    open_page: Callable[..., Visit], two_networks: str, width: int, theme: str
) -> None:
    reader = Reader(open_page, two_networks, width, theme)
    reader.page.locator(".grid[aria-label='attention of mac to words']").wait_for()
    reader.finds_nothing()
    reader.page.get_by_role("tab", name="Errors").click()
    reader.page.get_by_text("No predictions to look through").wait_for()
    reader.finds_nothing()


@everywhere
def test_masks(open_page: Callable[..., Visit], masks: str, width: int, theme: str) -> None:
    reader = Reader(open_page, masks, width, theme)
    reader.finds_nothing()
    reader.page.get_by_role("tab", name="Errors").click()
    reader.page.get_by_text("masks have an IoU below").wait_for()
    reader.finds_nothing()
