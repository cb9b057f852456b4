"""What the page's tests share: a shared with the network of the package, and one of the tiny set."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip(
    "nicegui", reason="the page's packages are not here: pip install 'filmvqa[page]'"
)
pytest.importorskip(
    "captum", reason="the page's packages are not here: pip install 'filmvqa[page]'"
)

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.page.app import first_subject
from filmvqa.page.networks import Network
from filmvqa.page.session import SharedState
from filmvqa.page.subjects import PictureSet, Subject
from filmvqa.system.layout import DatasetLayout
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
    """The folder of a network of the tiny set, evaluated on its validation split."""
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
