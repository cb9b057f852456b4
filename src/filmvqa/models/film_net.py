"""The FiLM network (Perez et al., AAAI 2018, section 3 and figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.film_generator import LinearFilmGenerator
from filmvqa.models.vision import Classifier, FilmedResBlock, Stem


class FilmNet(nn.Module):
    """A GRU reads the question and gives γ and β of every residual block over image features.

    The defaults are the paper's (section 4.1): 59 million weights, most in the GRU.
    ``stem_strides`` has one number per stem convolution; pixels take several of stride 2.
    """

    def __init__(
        self,
        vocab_size: int,
        num_answers: int,
        feature_dim: int,
        *,
        embedding_dim: int = 200,
        hidden_dim: int = 4096,
        num_layers: int = 1,
        cell: str = "gru",
        orthogonal: bool = False,
        channels: int = 128,
        num_blocks: int = 4,
        stem_strides: Sequence[int] = (1,),
        gamma_baseline: float = 1.0,
        projection_dim: int = 512,
        classifier_dim: int = 1024,
    ) -> None:
        super().__init__()
        self.encoder = QuestionEncoder(
            vocab_size,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            cell=cell,
            orthogonal=orthogonal,
        )
        self.film_generator = LinearFilmGenerator(
            self.encoder.output_dim, num_blocks, channels, gamma_baseline=gamma_baseline
        )
        self.stem = Stem(feature_dim, channels, tuple(stem_strides))
        self.blocks = nn.ModuleList(FilmedResBlock(channels) for _ in range(num_blocks))
        self.classifier = Classifier(
            channels, num_answers, projection_dim=projection_dim, hidden_dim=classifier_dim
        )
        self.apply(_initialize)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers).

        Parameters
        ----------
        features
            (U, C, H, W); uint8 counts as pixels, 0 to 255.
        questions
            (B, T) token indices, padded with 0.
        image_of_question
            (B,) which image each question is about; None: its own, U == B.
        """
        gamma, beta = self.film_generator(self.encoder(questions))  # (B, blocks, C)
        x = self.stem(scale_pixels(features))  # (U, C, H, W): once an image
        if image_of_question is not None:
            x = x[image_of_question]  # (B, C, H, W)
        for i, block in enumerate(self.blocks):
            x = block(x, gamma[:, i], beta[:, i])
        out: Tensor = self.classifier(x)
        return out


def scale_pixels(features: Tensor) -> Tensor:
    """Stored features as float32 in channels-last order, in which convolutions are fastest:
    uint8 pixels to [-2, 2], half precision as it is."""
    scaled = features.to(torch.float32, memory_format=torch.channels_last)
    return scaled / 64.0 - 2.0 if features.dtype == torch.uint8 else scaled


def _initialize(module: nn.Module) -> None:
    """Kaiming initialisation of linear and convolution weights, as in the original code."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
