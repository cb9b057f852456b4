"""Files that an earlier version wrote are still read."""

from __future__ import annotations

import json

import pytest
import torch

from filmvqa.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.data.batches import open_loader
from tests.conftest import REPOSITORY, data_in

FOLDER = REPOSITORY / "tests/fixtures/checkpoint_3"


@pytest.mark.parametrize("name", ["film", "mac"])
def test_a_checkpoint_of_format_3_gives_its_logits(name: str) -> None:
    path = FOLDER / f"{name}.pt"
    model, vocabulary = model_from_checkpoint(load_checkpoint(path), path)
    loader = open_loader(data_in(FOLDER / "h5"), "val", vocabulary, 8, torch.device("cpu"))
    batch = loader.batch(torch.arange(4))
    with torch.inference_mode():
        logits = model(batch.features, batch.questions, batch.image_of_question)
    stored = torch.tensor(json.loads((FOLDER / "logits.json").read_text())[name])
    torch.testing.assert_close(logits, stored, rtol=1e-4, atol=1e-4)
