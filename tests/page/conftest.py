"""Shared by the page's tests: networks of the package and of the tiny set, a served page, and a
browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

for package in ("nicegui", "captum"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'filmvqa[page]'")

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.checkpoints.checkpoint import load_checkpoint, vocabulary_of
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.page.app import first_subject
from filmvqa.page.networks import Network
from filmvqa.page.session import SharedState
from filmvqa.page.subjects import PictureSet, Subject
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.system.layout import DatasetLayout
from tests.page.visit import Visit, served
from tests.training.tiny_runs import train


@pytest.fixture(scope="session")
def network() -> Network:
    """The network of the package."""
    return Network.load("clevr_world", "cpu", None)


@pytest.fixture(scope="session")
def first() -> Subject:
    return first_subject()


@pytest.fixture(scope="session")
def tiny_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a network of the tiny set, evaluated on its validation split."""
    folder = tmp_path_factory.mktemp("page") / "tiny"
    train(folder, tiny_set)
    evaluate_checkpoint(EvaluateSettings(checkpoint=folder / "best.pt", split="val"))
    return folder


@pytest.fixture(scope="session")
def tiny_shared(tiny_run: Path, tiny_set: Path, network: Network) -> SharedState:
    """A network of the tiny set, beside the package's, with the set's pictures."""
    pictures = PictureSet(DatasetLayout.under(tiny_set.parent, h5=tiny_set))
    tiny = Network.load(str(tiny_run / "best.pt"), "cpu", None)
    return SharedState([tiny, network], pictures, tiny_run)


@pytest.fixture(scope="session")
def address(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with the package's network, evaluated on the tiny world."""
    work = tmp_path_factory.mktemp("site")
    layout = DatasetLayout.under(
        shutil.copytree(tiny_world, work / "data", ignore=shutil.ignore_patterns("h5")),
        backbone="clevr_places",
    )
    vocabulary = vocabulary_of(load_checkpoint("clevr_world"), "clevr_world")
    preprocess_questions(layout, vocabulary=vocabulary)
    images = layout.image_folder("val")
    Extraction(
        images, layout.feature_h5("val"), "val", build_backbone("clevr_places"), (144, 144)
    ).run()
    evaluation = work / "outputs/clevr_world/evaluation"
    evaluate_checkpoint(
        EvaluateSettings(checkpoint="clevr_world", split="val", h5=layout.h5, output=evaluation)
    )
    with served(work, "h5=data/h5") as at:
        yield at


@pytest.fixture(scope="module")  # while it exists, asyncio cannot run in the same thread
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on the path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a page in the browser. At the end of the test no page may have faults."""
    visits: list[Visit] = []

    def open_one(address: str, **options: Any) -> Visit:
        visits.append(Visit(chromium, address, **options))
        return visits[-1]

    yield open_one
    for visit in visits:
        assert visit.faults == []
        visit.context.close()
