"""The FiLM network (Perez et al., AAAI 2018, section 3 and figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from filmvqa.errors import OptionError
from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.film_generator import FilmGenerator, Modulation
from filmvqa.models.options import FeatureShape, Group, Natural, Positive
from filmvqa.models.vision import Classifier, Stem, scale_pixels


class FilmNet(nn.Module):
    """A GRU reads the question and gives γ and β of every residual block over image features.

    The defaults are the paper's (section 4.1): 59 million weights, most in the GRU.

    Parameters
    ----------
    feature_shape
        (C, H, W) of an image's features.
    channels, num_blocks
        Of the residual blocks.
    film_blocks
        Which blocks the question acts on, a truth value each; None: all.
    coordinates
        ``inputs`` (stem, blocks and classifier, as in the paper), ``everywhere`` (the blocks' 3×3
        convolutions too) or ``none``.
    encoder, generator, stem, block, classifier
        Options of ``QuestionEncoder``, ``FilmGenerator``, ``Stem``, ``FilmedResBlock`` and
        ``Classifier``.
    """

    OPTION_GROUPS: ClassVar[dict[str, type[nn.Module]]] = {
        "encoder": QuestionEncoder,
        "generator": FilmGenerator,
        "stem": Stem,
        "block": FilmedResBlock,
        "classifier": Classifier,
    }

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        channels: Positive = 128,
        num_blocks: Natural = 4,
        film_blocks: Sequence[bool] | None = None,
        coordinates: str = "inputs",
        encoder: Group = None,
        generator: Group = None,
        stem: Group = None,
        block: Group = None,
        classifier: Group = None,
    ) -> None:
        super().__init__()
        conditioned = [True] * num_blocks if film_blocks is None else [bool(f) for f in film_blocks]
        if len(conditioned) != num_blocks:
            raise OptionError(f"film_blocks has {len(conditioned)} entries for {num_blocks} blocks")
        self.encoder = QuestionEncoder(vocab_size, **(encoder or {}))
        coord_kwargs = {"coordinates": coordinates != "none"}
        self.stem = Stem(feature_shape[0], channels, **coord_kwargs | dict(stem or {}))
        map_size = self.stem.output_size(*feature_shape[1:])
        blocks = [
            FilmedResBlock(channels, is_conditioned, coordinates, **(block or {}))
            for is_conditioned in conditioned
        ]
        self.blocks = nn.ModuleList(blocks)
        self.classifier = Classifier(
            channels, map_size, num_answers, **coord_kwargs | dict(classifier or {})
        )
        extra_dims = [b.extra_dim for b in blocks]
        options = {"extra_dim": max(extra_dims, default=0), **(generator or {})}
        if not any(b.uses_gamma_beta for b in blocks):
            options |= {"gamma": "one", "beta": "zero"}
        self.conditioned_blocks = [b.conditioned for b in blocks]
        num_conditioned = sum(self.conditioned_blocks)
        self.film_generator = (
            FilmGenerator(self.encoder.output_dim, num_conditioned, channels, **options)
            if num_conditioned else None
        )  # fmt: skip
        self.apply(_initialize)

    def modulate(self, questions: Tensor) -> Modulation:
        """γ and β (B, L, C) of the L blocks that questions (B, T) act on."""
        if self.film_generator is None:
            raise ValueError("the question acts on no block of this network")
        modulation: Modulation = self.film_generator(self.encoder(questions))
        return modulation

    @property
    def has_film_penalty(self) -> bool:
        """Whether a γ can deviate from 1 or a β from 0, so that there is a penalty."""
        return self.film_generator is not None and self.film_generator.has_deviations

    def forward(
        self,
        features: Tensor,
        questions: Tensor,
        image_of_question: Tensor | None = None,
        *,
        return_penalty: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, num_answers), with ``return_penalty`` also ``FilmGenerator.penalty`` () of
        the batch.

        Parameters
        ----------
        features
            (U, C, H, W); uint8 counts as pixels, 0 to 255.
        questions
            (B, T) token indices, padded with 0.
        image_of_question
            (B,) which image each question is about; None: its own, U == B.

        Raises
        ------
        ValueError
            If ``return_penalty`` is asked of a model without ``has_film_penalty``.
        """
        if return_penalty and not self.has_film_penalty:
            raise ValueError("this network has no γ and β whose deviations to penalise")
        modulation = None if self.film_generator is None else self.modulate(questions)
        x = self.stem(scale_pixels(features))  # (U, C, H, W): once an image
        if image_of_question is not None:
            x = x[image_of_question]  # (B, C, H, W)
        film_index = 0
        for block, is_conditioned in zip(self.blocks, self.conditioned_blocks, strict=True):
            if is_conditioned and modulation is not None:
                x = block(x, modulation.layer(film_index))
                film_index += 1
            else:
                x = block(x, None)
        logits: Tensor = self.classifier(x)
        if return_penalty and modulation is not None and self.film_generator is not None:
            return logits, self.film_generator.penalty(modulation)
        return logits


def _initialize(module: nn.Module) -> None:
    """Kaiming initialisation of linear and convolution weights, as in the original code."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
