"""The reference of the benchmark: a straightforward implementation of the same computations.

Questions are padded to the length of CLEVR's longest, and torch's recurrent networks read the
padding. The stem runs once per question. All computations use float32 and torch's default memory
format. Images are decoded one at a time.
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

from filmvqa.backbones.backbone import Backbone
from filmvqa.features.images import load_image
from filmvqa.models.encoder import QuestionEncoder

#: Number of words of CLEVR's longest question, START and END included.
MAX_QUESTION_LENGTH = 46


class ReferenceEncoder(nn.Module):
    """A one-layer ``QuestionEncoder`` on torch's recurrent networks, which also read padding."""

    def __init__(self, encoder: QuestionEncoder) -> None:
        super().__init__()
        self.inner = encoder
        self.output_dim = encoder.output_dim

    def forward(self, questions: Tensor) -> Tensor:
        """Encodings (B, output_dim) of questions (B, T)."""
        return self.encode_words(questions)[1]

    def encode_words(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """As ``QuestionEncoder.encode_words``, but with states for padding."""
        encoder = self.inner
        device = encoder.embedding.weight.device
        last = (questions != 0).sum(1) - 1
        rows = torch.arange(len(questions))
        words = encoder.embedding_dropout(encoder.embedding(questions.to(device)))
        forward, *backward = next(iter(encoder.layers)).children()
        states = forward(words)[0]
        encoding = states[rows, last]
        if backward:
            # Reverses the words of each question; padding stays at the end.
            steps = torch.arange(questions.shape[1])
            reversal = torch.where(steps <= last[:, None], last[:, None] - steps, steps)
            reversal = reversal[:, :, None].to(device)  # (B, T, 1)
            backward_states = backward[0](words.gather(1, reversal.expand_as(words)))[0]
            encoding = torch.cat([encoding, backward_states[rows, last]], 1)
            backward_states = backward_states.gather(1, reversal.expand_as(backward_states))
            states = torch.cat([states, backward_states], 2)
        return states, encoder.dropout(encoding)


class ReferenceModel(nn.Module):
    """A model with a ``ReferenceEncoder`` that processes features once per question."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        encoder = model.encoder
        if not isinstance(encoder, QuestionEncoder):
            raise ValueError(f"{type(model).__name__} has no question encoder")
        model.encoder = ReferenceEncoder(encoder)

    def forward(self, features: Tensor, questions: Tensor, image_of_question: Tensor) -> Tensor:
        """Answer logits (B, A), from the model's arguments."""
        questions = F.pad(questions, (0, MAX_QUESTION_LENGTH - questions.shape[1]))
        out: Tensor = self.model(features[image_of_question], questions)
        return out


@torch.inference_mode()
def reference_extraction(
    paths: Sequence[Path], target: Path, backbone: Backbone, size: tuple[int, int], batch_size: int
) -> None:
    """Write the features of images to ``target``; load, compute and write in turn."""
    with h5py.File(target, "w") as file:
        dataset: h5py.Dataset | None = None
        for start in range(0, len(paths), batch_size):
            images: list[NDArray[np.uint8]] = [
                load_image(path, size) for path in paths[start : start + batch_size]
            ]
            maps = backbone(torch.from_numpy(np.stack(images))).half().numpy()
            if dataset is None:
                dataset = file.create_dataset("features", (len(paths), *maps.shape[1:]), "float16")
            dataset[start : start + len(maps)] = maps


def reference_reading(dataset: h5py.Dataset, rows: Sequence[int]) -> Tensor:
    """The features of images, read one at a time and stacked."""
    return torch.stack([torch.from_numpy(dataset[row]) for row in rows])
