"""The FiLM generator: γ and β of every FiLM layer from a question's encoding (section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from filmvqa.models.encoder import CELLS
from filmvqa.models.place_sets import PlaceSets
from filmvqa.models.protocols import Modulation
from filmvqa.models.word_attention import WordAttention
from filmvqa.settings.typed import Positive
from filmvqa.system.devices import at_least_float32
from filmvqa.system.errors import OptionError

Decoder = Literal["linear", "mlp", "gru", "lstm", "none"]
Gamma = Literal["linear", "sigmoid", "tanh", "exp", "one"]
Beta = Literal["linear", "zero"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
}


class FilmGenerator(nn.Module):
    """Decode an encoding to γ = baseline + f(Δγ) and β = Δβ of all FiLM layers at once.

    Parameters
    ----------
    input_dim
        Width of the encoding.
    num_layers
        Number L of FiLM layers.
    channels
        Number C of channels of each FiLM layer.
    extra_dim
        Number E of further outputs for each layer, for conditionings other than FiLM.
    key_dim
        Width of a layer's key for the attentive read.
    sets
        Number of sets of places for which a layer also has keys (``PlaceSets``). The width K of
        all keys is the sum of ``key_dim`` and ``PlaceSets.key_dim``.
    decoder
        ``linear`` is the paper's (section 3; the retrospective found it sufficient). ``mlp`` has a
        linear layer with ReLU for each of ``hidden_dims``. ``gru`` and ``lstm`` take one step for
        each FiLM layer, with the encoding as input of every step. ``none`` has no decoder: all
        outputs come from the words that ``word_attention`` reads, so that a word has the same
        effect in all kinds of questions.
    hidden_dims
        Widths of the decoder's hidden layers, which must be equal for ``gru`` and ``lstm``. Empty:
        one hidden layer of the encoding's width. ``linear`` has no hidden layers.
    gamma
        The function f: ``linear``, ``sigmoid``, ``tanh`` or ``exp`` (section 4.5, table 2).
        ``one`` fixes γ at 1.
    beta
        ``linear``, or ``zero``, which fixes β at 0.
    gamma_baseline
        Baseline of γ.
    multipliers
        Initial value of TADAM's learned post-multipliers γ₀ and β₀ (Oreshkin et al. 2018, section
        3.3) for each channel: γ = baseline + γ₀ f(Δγ) and β = β₀ Δβ. None: no multipliers.
    task_offset
        Whether to add a learned table (L, 2C + E + K), initially 0, to the decoder's output. A new
        task can train the table while all other weights are frozen. If γ or β is fixed, the table
        has no columns for it.
    word_attention
        Whether each FiLM layer also reads the question's words (``WordAttention``). It attends to
        their states with a query computed from the encoding. A linear map of the result is added
        to the decoder's output, or is the output with ``decoder=none``. With ``parts``, separate
        queries serve γ and β, the read's key, and the key of each set.

    Raises
    ------
    OptionError
        If ``hidden_dims`` or ``word_attention`` does not fit the decoder.
    """

    def __init__(
        self,
        input_dim: int,
        num_layers: int,
        channels: int,
        extra_dim: int = 0,
        key_dim: int = 0,
        sets: int = 0,
        *,
        decoder: Decoder = "linear",
        hidden_dims: Sequence[Positive] = (),
        gamma: Gamma = "linear",
        beta: Beta = "linear",
        gamma_baseline: float = 1.0,
        multipliers: float | None = None,
        task_offset: bool = False,
        word_attention: bool | Literal["parts"] = False,
    ) -> None:
        super().__init__()
        if decoder in ("linear", "none") and hidden_dims:
            raise OptionError(
                f"hidden_dims={list(hidden_dims)}: decoder={decoder} has none; choose decoder=mlp"
            )
        if decoder == "none" and not word_attention:
            raise OptionError(
                "decoder=none: needs word_attention=true, which then computes the output"
            )
        self.num_layers, self.channels, self.extra_dim = num_layers, channels, extra_dim
        self.gamma, self.beta, self.gamma_baseline = gamma, beta, gamma_baseline
        self.part_sizes = (
            channels * (gamma != "one"),
            channels * (beta != "zero"),
            extra_dim,
            key_dim + PlaceSets.key_dim(channels, sets),
        )
        layer_dims = () if decoder == "linear" else tuple(hidden_dims) or (input_dim,)
        width = sum(self.part_sizes)
        self.decoder = (
            None if decoder == "none"
            else _build_decoder(decoder, input_dim, num_layers, width, layer_dims)
        )  # fmt: skip
        self.multipliers = (
            nn.Parameter(torch.full((2, num_layers, channels), float(multipliers)))
            if multipliers is not None else None
        )  # fmt: skip
        self.task_offset = nn.Parameter(torch.zeros(num_layers, width)) if task_offset else None
        self.word_attention = None
        self.sets_of_words = sets if word_attention == "parts" else 0
        if word_attention == "parts":
            parts = [sum(self.part_sizes[:3]), key_dim, *[PlaceSets.key_dim(channels, 1)] * sets]
            self.word_attention = WordAttention(input_dim, num_layers, [n for n in parts if n])
        elif word_attention:
            self.word_attention = WordAttention(input_dim, num_layers, [width])

    def forward(
        self, encoding: Tensor, words: Tensor | None = None, padding: Tensor | None = None
    ) -> Modulation:
        """Map an encoding (B, input_dim) to γ, β (B, L, C), ``extra`` (B, L, E), ``key`` (B, L, K).

        ``word_attention`` needs the words' states (B, T, input_dim) and a mask of padding (B, T).
        They are also passed to layers that read them.
        """
        decoded = encoding.new_zeros(())
        if self.decoder is not None:
            decoded = self.decoder(encoding).view(len(encoding), self.num_layers, -1)
        if self.word_attention is not None:
            parts = self.word_attention(encoding, words, padding)
            num_others = len(parts) - self.sets_of_words
            set_keys = PlaceSets.join(parts[num_others:])
            decoded = decoded + torch.cat([*parts[:num_others], *set_keys], 2)
        if self.task_offset is not None:
            decoded = decoded + self.task_offset
        delta_gamma, delta_beta, extra, key = torch.split(decoded, list(self.part_sizes), 2)
        gamma_scale, beta_scale = (1.0, 1.0) if self.multipliers is None else self.multipliers
        shape = (len(encoding), self.num_layers, self.channels)
        if self.gamma == "one":
            gamma = decoded.new_ones(shape)
        else:
            activation = _ACTIVATIONS[self.gamma]
            gamma = self.gamma_baseline + gamma_scale * activation(delta_gamma)
        beta = decoded.new_zeros(shape) if self.beta == "zero" else beta_scale * delta_beta
        return Modulation(gamma, beta, extra, key, words, padding)

    def begin_at_zero(self) -> None:
        """Set the last layers to 0, so that all outputs start at 0.

        γ is then its baseline (if ``gamma`` is linear or tanh), β is 0, and a guide is the
        identity.
        """
        layers = [] if self.decoder is None else [_last_linear(self.decoder)]
        if self.word_attention is not None:
            layers += [_last_linear(decoder) for decoder in self.word_attention.decoders]
        for layer in layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def has_deviations(self) -> bool:
        """Whether γ can differ from 1, or β from 0."""
        return self.gamma != "one" or self.beta != "zero"

    def penalty(self, modulation: Modulation) -> Tensor:
        """The penalty () on a batch's deviations: the mean of (γ - 1)² plus the mean of β².

        With post-multipliers it is the mean of γ₀² plus the mean of β₀² (retrospective; TADAM,
        section 3.3).
        """
        if self.multipliers is not None:
            return self.multipliers.square().mean(dim=(1, 2)).sum()
        gamma, beta = at_least_float32(modulation.gamma), at_least_float32(modulation.beta)
        return (gamma - 1).square().mean() + beta.square().mean()


def _last_linear(decoder: nn.Module) -> nn.Linear:
    """The linear layer that computes a decoder's outputs."""
    return [module for module in decoder.modules() if isinstance(module, nn.Linear)][-1]


def _build_decoder(
    name: str, input_dim: int, num_layers: int, width: int, hidden_dims: tuple[int, ...]
) -> nn.Module:
    """Build a module that maps (B, input_dim) to num_layers × width outputs."""
    if name in CELLS:
        return _UnrolledDecoder(name, input_dim, num_layers, width, hidden_dims)
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(input_dim, hidden_dim), nn.ReLU()]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, num_layers * width))


class _UnrolledDecoder(nn.Module):
    """A recurrent decoder with one step for each FiLM layer and the same input at every step."""

    def __init__(
        self, cell: str, input_dim: int, num_layers: int, width: int, hidden_dims: tuple[int, ...]
    ) -> None:
        super().__init__()
        if len(set(hidden_dims)) > 1:
            raise OptionError(
                f"hidden_dims={list(hidden_dims)}: must be equal for a recurrent decoder"
            )
        self.num_layers = num_layers
        self.rnn = CELLS[cell](input_dim, hidden_dims[0], len(hidden_dims), batch_first=True)
        self.linear = nn.Linear(hidden_dims[0], width)

    def forward(self, encoding: Tensor) -> Tensor:
        """Map an encoding (B, D) to (B, L, width)."""
        steps = encoding[:, None].expand(-1, self.num_layers, -1)  # (B, L, D)
        decoded: Tensor = self.linear(self.rnn(steps)[0])  # (B, L, width)
        return decoded
