"""The reference that the benchmark compares with: what a straightforward program does.

Questions are padded to the longest of CLEVR and read to the end of the padding by torch's own
recurrent networks, the stem runs for each question, everything is float32 in torch's default memory
order; images are decoded one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from filmvqa.data.backbones import Backbone
from filmvqa.data.images import load_image
from filmvqa.models.encoder import QuestionEncoder

#: Words of CLEVR's longest question, START and END included.
LONGEST = 46


class ReferenceEncoder(nn.Module):
    """A ``QuestionEncoder`` of one layer, its weights read with torch's networks over padding."""

    def __init__(self, encoder: QuestionEncoder) -> None:
        super().__init__()
        self.inner = encoder
        self.output_dim = encoder.output_dim

    def forward(self, questions: Tensor) -> Tensor:
        return self.encode_words(questions)[1]

    def encode_words(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """As ``QuestionEncoder.encode_words``, the states of padding included."""
        encoder = self.inner
        device = encoder.embedding.weight.device
        last = (questions != 0).sum(1) - 1
        rows = torch.arange(len(questions))
        words = encoder.embedding_dropout(encoder.embedding(questions.to(device)))
        forward, *backward = next(iter(encoder.layers)).children()
        states = forward(words)[0]
        encoding = states[rows, last]
        if backward:
            places = torch.arange(questions.shape[1])
            mirrored = torch.where(places <= last[:, None], last[:, None] - places, places)
            mirrored = mirrored[:, :, None].to(device)
            there = backward[0](words.gather(1, mirrored.expand_as(words)))[0]
            encoding = torch.cat([encoding, there[rows, last]], 1)
            states = torch.cat([states, there.gather(1, mirrored.expand_as(there))], 2)
        return states, encoder.dropout(encoding)


class ReferenceModel(nn.Module):
    """A model with a ``ReferenceEncoder``, given each question's features apart."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        encoder = model.encoder
        if not isinstance(encoder, QuestionEncoder):
            raise ValueError(f"{type(model).__name__} has no question encoder")
        model.encoder = ReferenceEncoder(encoder)

    def forward(self, features: Tensor, questions: Tensor, image_of_question: Tensor) -> Tensor:
        questions = F.pad(questions, (0, LONGEST - questions.shape[1]))
        out: Tensor = self.model(features[image_of_question], questions)
        return out


@torch.inference_mode()
def reference_extraction(
    paths: Sequence[Path], target: Path, backbone: Backbone, size: tuple[int, int], batch_size: int
) -> None:
    """Features of images, each thing after the other."""
    with h5py.File(target, "w") as file:
        dataset: h5py.Dataset | None = None
        for first in range(0, len(paths), batch_size):
            images: list[NDArray[np.uint8]] = [
                load_image(path, size) for path in paths[first : first + batch_size]
            ]
            maps = backbone(torch.from_numpy(np.stack(images))).half().numpy()
            if dataset is None:
                dataset = file.create_dataset("features", (len(paths), *maps.shape[1:]), "float16")
            dataset[first : first + len(maps)] = maps


def reference_reading(dataset: h5py.Dataset, rows: Sequence[int]) -> Tensor:
    """Features of images, each an item of its own, stacked."""
    return torch.stack([torch.from_numpy(dataset[row]) for row in rows])
