"""The FiLM network (Perez et al., AAAI 2018, section 3 and figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.classifier import BRANCH, Classifier
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.film_generator import FilmGenerator
from filmvqa.models.initial_weights import InitialBiases, InitialWeights, initialize
from filmvqa.models.options import (
    Axes,
    Coordinates,
    FeatureShape,
    OptionGroup,
    PixelRange,
    build_part,
    with_coordinates,
)
from filmvqa.models.place_sets import PlaceWeights
from filmvqa.models.protocols import Activations, Modulation, ModulationChange, PlaceScores
from filmvqa.models.registry import register_model
from filmvqa.models.vision import Stem, for_each_question, scale_pixels
from filmvqa.settings.typed import Natural, Positive
from filmvqa.system.devices import to_device
from filmvqa.system.errors import OptionError


@register_model("film")
class FilmNet(nn.Module):
    """FiLMed residual blocks over image features, with γ and β from the question's encoding.

    The defaults are the paper's (section 4.1), with 59 million weights, most of them in the GRU.

    Parameters
    ----------
    vocab_size
        Number of question tokens, padding included.
    num_answers
        Number of answers.
    feature_shape
        (C, H, W) of an image's features.
    channels
        Channels of the residual blocks.
    num_blocks
        Number of residual blocks.
    film_blocks
        Whether the question modulates each block. None: all blocks are modulated.
    coordinates
        Where coordinate maps are appended: ``inputs`` (stem, blocks' first convolutions and
        classifier, as in the paper), ``everywhere`` (the blocks' second convolutions too) or
        ``none``.
    coordinate_axes
        Coordinates of these maps: ``xy``, or only ``x`` (time in a spectrogram) or ``y``
        (frequency).
    pixel_range
        Range of uint8 pixels, as in ``scale_pixels``.
    initial_biases
        Initial biases of linear and convolution layers: ``zero``, or ``uniform``, torch's default,
        which the original code uses.
    initial_weights
        Initial weights of these layers: Kaiming's, as in the original code, or ``small``, torch's
        default, which are 0.41 times as large. γ then starts closer to 1 and β to 0, and the
        network leaves the plateau earlier (docs/learning.md).
    reads
        Whether the question also gives each conditioned block a key. It reads a vector from the
        block's output (``FilmedResBlock.forward``) for the next block and the classifier. A
        network that can select an object in one step leaves the plateau early (docs/learning.md).
    sets
        Number of sets of places that each conditioned block marks and counts by further keys of the
        question (``PlaceSets``). The counts are inputs of the head. Needs ``reads``.
    head_inputs
        Blocks whose reads, pooled branches and counts are inputs of the head: the ``last``
        conditioned block or ``all``.
    encoder, generator, stem, block, classifier
        Keyword options of ``QuestionEncoder``, ``FilmGenerator``, ``Stem``, ``FilmedResBlock`` and
        ``Classifier``. ``coordinates`` of stem and classifier default to the network's.

    Raises
    ------
    OptionError
        If options do not fit each other.
    """

    OPTION_GROUPS: ClassVar[dict[str, type[nn.Module]]] = {
        "encoder": QuestionEncoder,
        "generator": FilmGenerator,
        "stem": Stem,
        "block": FilmedResBlock,
        "classifier": Classifier,
    }

    question_parts: ClassVar[Sequence[str]] = ("encoder", "film_generator")

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        channels: Positive = 128,
        num_blocks: Natural = 4,
        film_blocks: Sequence[bool | Literal[0, 1]] | None = None,
        coordinates: Coordinates = "inputs",
        coordinate_axes: Axes = "xy",
        pixel_range: PixelRange = "centered",
        initial_biases: InitialBiases = "zero",
        initial_weights: InitialWeights = "kaiming",
        reads: bool = False,
        sets: Natural = 0,
        head_inputs: Literal["last", "all"] = "last",
        encoder: OptionGroup = None,
        generator: OptionGroup = None,
        stem: OptionGroup = None,
        block: OptionGroup = None,
        classifier: OptionGroup = None,
    ) -> None:
        super().__init__()
        if sets and not reads:
            raise OptionError(f"sets={sets}: needs reads=true")
        self.pixel_range = pixel_range
        self.reads = reads
        conditioned = [True] * num_blocks if film_blocks is None else [bool(f) for f in film_blocks]
        if len(conditioned) != num_blocks:
            raise OptionError(
                f"film_blocks has {len(conditioned)} entries for num_blocks={num_blocks} blocks"
            )
        self.encoder = build_part("encoder", QuestionEncoder, vocab_size, **(encoder or {}))
        has_coordinates = coordinates != "none"
        self.stem = build_part(
            "stem", Stem, feature_shape[0], channels, coordinate_axes, feature_shape[1],
            **with_coordinates(stem, has_coordinates),
        )  # fmt: skip
        map_size = self.stem.output_size(*feature_shape[1:])
        # If the head takes the last block's branch, nothing reads the last block's map.
        num_readers = num_blocks - ((classifier or {}).get("pool") == BRANCH)
        blocks = [
            build_part(
                "block", FilmedResBlock, channels, is_conditioned, coordinates,
                channels if reads and i else 0, map_size, coordinate_axes,
                self.encoder.output_dim, sets, i < num_readers,
                **(block or {}),
            )
            for i, is_conditioned in enumerate(conditioned)
        ]  # fmt: skip
        self.blocks = nn.ModuleList(blocks)
        self.place_weights = PlaceWeights(feature_shape[0], map_size) if sets else None
        num_conditioned = sum(b.conditioned for b in blocks)
        self.head_inputs = max(1, num_conditioned) if head_inputs == "all" else 1
        self._build_head(
            map_size, num_answers, channels, self.head_inputs * (channels + sets) if reads else 0,
            coordinate_axes, with_coordinates(classifier, has_coordinates),
        )  # fmt: skip
        self.reads_words = any(b.reads_words for b in blocks)
        options = dict(generator or {})
        if not any(b.uses_gamma_beta for b in blocks):
            options |= {"gamma": "one", "beta": "zero"}
        self.conditioned_blocks = [b.conditioned for b in blocks]
        if reads and not num_conditioned:
            raise OptionError("reads=True: no block is conditioned; condition one by film_blocks")
        self.film_generator: FilmGenerator | None = None
        if num_conditioned:
            self.film_generator = build_part(
                "generator", FilmGenerator, self.encoder.output_dim, num_conditioned, channels,
                max(b.extra_dim for b in blocks), channels if reads else 0, sets, **options,
            )  # fmt: skip
            self.reads_words |= self.film_generator.word_attention is not None
        initialize(self, initial_weights, initial_biases)

    def _build_head(
        self,
        map_size: tuple[int, int],
        num_answers: int,
        channels: int,
        context_dim: int,
        coordinate_axes: Axes,
        options: dict[str, Any],
    ) -> None:
        """Build the head, which follows the blocks. Subclasses with another head override this."""
        self.classifier = build_part(
            "classifier", Classifier, channels, map_size, num_answers, context_dim,
            coordinate_axes, self.head_inputs, **options,
        )  # fmt: skip

    @property
    def _head(self) -> Any:
        """The module that computes the output from the last block's maps."""
        return self.classifier

    @property
    def num_modulated(self) -> int:
        """Number L of conditioned blocks."""
        return sum(self.conditioned_blocks)

    def begin_unmodulated(self) -> None:
        """Set the FiLM generator's last layers to 0, so that γ is its baseline and β is 0."""
        if self.film_generator is not None:
            self.film_generator.begin_at_zero()

    def modulate(self, questions: Tensor) -> Modulation:
        """Compute γ and β (B, L, C) of questions (B, T) for the L conditioned blocks.

        Raises
        ------
        ValueError
            If no block is conditioned.
        """
        generator = self._acting_generator
        modulation: Modulation
        if not self.reads_words:
            modulation = generator(self.encoder(questions))
        else:
            words, encoding = self.encoder.encode_words(questions)  # (B, T, D), (B, D)
            padding = to_device(questions == 0, encoding.device)
            modulation = generator(encoding, words, padding)
        return modulation

    @property
    def _acting_generator(self) -> FilmGenerator:
        if self.film_generator is None:
            raise ValueError("no block of this network is conditioned")
        return self.film_generator

    @contextmanager
    def intervene(self, change: ModulationChange) -> Iterator[None]:
        """Within the block, compute with changed γ and β."""
        with self._acting_generator.register_forward_hook(lambda *args: change(args[-1])):
            yield

    @property
    def can_record(self) -> bool:
        """Whether some block has a conditioning layer. ``concat`` has none."""
        return any(block.condition is not None for block in self._blocks)

    @contextmanager
    def record_activations(self) -> Iterator[Activations]:
        """Within the block, each forward pass stores its maps in the yielded object."""
        maps, head = Activations(), self._head

        def begin(module: nn.Module, inputs: Any) -> None:
            maps.before.clear()
            maps.after.clear()
            maps.pooled = None

        def at_film(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps.before.append(inputs[0])
            maps.after.append(output)
            if head.takes_branch:
                maps.pooled = torch.relu(output)

        def at_pool(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps.pooled = output

        with ExitStack() as stack:
            stack.enter_context(self.register_forward_pre_hook(begin))
            for block in self._blocks:
                if block.condition is not None:
                    stack.enter_context(block.condition.register_forward_hook(at_film))
            if head.project is not None and not head.takes_branch:
                stack.enter_context(head.project.register_forward_hook(at_pool))
            yield maps

    @property
    def _blocks(self) -> list[FilmedResBlock]:
        return [cast(FilmedResBlock, block) for block in self.blocks]

    @property
    def has_film_penalty(self) -> bool:
        """Whether γ can differ from 1, or β from 0, so that ``return_penalty`` is possible."""
        return self.film_generator is not None and self.film_generator.has_deviations

    @property
    def has_place_scores(self) -> bool:
        """Whether blocks have attentive reads, so that ``return_scores`` is possible."""
        return self.reads

    def forward(
        self,
        features: Tensor,
        questions: Tensor,
        image_of_question: Tensor | None = None,
        *,
        return_penalty: bool = False,
        return_scores: bool = False,
    ) -> Tensor | tuple[Any, ...]:
        """Answer questions about images.

        Parameters
        ----------
        features
            Image features (U, C, H, W). uint8 features are pixels from 0 to 255.
        questions
            Token indices (B, T), padded with 0 at the end.
        image_of_question
            Index (B,) of each question's image. None if U == B and the order is the same.
        return_penalty
            Whether to return the penalty too.
        return_scores
            Whether to return the scores of reads and sets too.

        Returns
        -------
        Tensor or tuple
            Logits (B, num_answers), or a tuple of the logits and the requested others: the batch's
            ``FilmGenerator.penalty`` (), then ``PlaceScores``.

        Raises
        ------
        ValueError
            If ``return_penalty`` is set without ``has_film_penalty``, or ``return_scores`` without
            ``has_place_scores``.
        """
        if return_penalty and not self.has_film_penalty:
            raise ValueError("this network has no γ and β that could be penalised")
        if return_scores and not self.has_place_scores:
            raise ValueError("this network has no attentive reads")
        modulation = None if self.film_generator is None else self.modulate(questions)
        pixels = scale_pixels(features, self.pixel_range)
        x = self.stem(pixels)  # (U, C, H, W), once for each image
        x = for_each_question(x, image_of_question)  # (B, C, H, W)
        weights: Tensor | None = None
        if self.place_weights is not None:
            weights = for_each_question(self.place_weights(pixels), image_of_question)  # (B, H, W)
        film_index = 0
        read: Tensor | None = None
        head_vectors: list[Tensor | None] = []  # inputs of the head beside the map
        branches: list[Tensor | None] = []
        scores: list[tuple[Tensor, Tensor | None]] = []
        for block, is_conditioned in zip(self.blocks, self.conditioned_blocks, strict=True):
            if not is_conditioned or modulation is None:
                x = block(x, None, read).x
                continue
            is_head_input = film_index >= self.num_modulated - self.head_inputs
            pool_branch = is_head_input and self._head.takes_branch
            out = block(x, modulation.layer(film_index), read, pool_branch, weights)
            x, read = out.x, out.read
            scores.append((out.read_scores, out.set_scores))
            if is_head_input:
                head_vectors += [out.read, out.counts]
                branches.append(out.branch)
            film_index += 1
        output: Tensor = self._head(x, _join(head_vectors), _join(branches))
        others: list[Any] = []
        if return_penalty and modulation is not None and self.film_generator is not None:
            others.append(self.film_generator.penalty(modulation))
        if return_scores:
            others.append(PlaceScores.of_blocks((x.shape[2], x.shape[3]), scores))
        return (output, *others) if others else output


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the vectors (B, n) among the parts; None if there are none."""
    vectors = [part for part in parts if part is not None]
    return torch.cat(vectors, 1) if vectors else None
