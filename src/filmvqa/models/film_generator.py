"""The FiLM generator: from a question's encoding to γ and β of every FiLM layer (section 3)."""

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
    """Decodes an encoding to γ = baseline + f(Δγ) and β = Δβ of all FiLM layers at once.

    Parameters
    ----------
    input_dim
        Width of the encoding.
    num_layers
        Number L of FiLM layers.
    channels
        Number C of channels of each FiLM layer.
    extra_dim
        Number E of further outputs a layer, for conditionings other than FiLM.
    key_dim
        Width of a layer's key, for attentive reads.
    sets
        Number of sets of places that a layer has keys for too (``PlaceSets``). The width K of all
        keys is ``key_dim`` and ``PlaceSets.key_dim``.
    decoder
        ``linear`` is the paper's (section 3; the retrospective found it sufficient). ``mlp`` has a
        linear layer with ReLU for each of ``hidden_dims``. ``gru`` and ``lstm`` take one step for
        each FiLM layer, with the encoding as the input of every step. ``none`` decodes nothing:
        all outputs are of the words that ``word_attention`` reads, so that a word acts in all
        kinds of questions alike.
    hidden_dims
        Widths of the hidden layers of the decoder; equal for ``gru`` and ``lstm``. If empty, there
        is one hidden layer of the encoding's width. ``linear`` has none.
    gamma
        The function f: ``linear``, ``sigmoid``, ``tanh`` or ``exp`` (section 4.5, table 2).
        ``one`` fixes γ at 1.
    beta
        ``linear``; ``zero`` fixes β at 0.
    gamma_baseline
        The baseline of γ.
    multipliers
        Initial value of TADAM's learned post-multipliers γ₀ and β₀ (Oreshkin et al. 2018, section
        3.3), one of each a channel: γ = baseline + γ₀ f(Δγ) and β = β₀ Δβ. None: there are none.
    task_offset
        Whether a learned table (L, 2C + E + K), initially 0, is added to the decoder's output. A
        new task can train it while all other weights are frozen. If γ or β is fixed, the table has
        no columns for it.

    word_attention
        Whether each FiLM layer also reads the question's words (``WordAttention``): it attends to
        their states with a query made of the encoding, and a linear map of what it finds is added
        to the decoder's output, or with ``decoder=none`` is the output. With ``parts``, γ and β,
        the read's key and the key of each set read words of their own.

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
                f"hidden_dims={list(hidden_dims)}: decoder={decoder} has none, mlp has"
            )
        if decoder == "none" and not word_attention:
            raise OptionError(
                "decoder=none: needs word_attention=true, which it leaves the work to"
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
        """Map an encoding (B, input_dim) to γ and β (B, L, C), ``extra`` (B, L, E) and ``key``
        (B, L, K).

        The words' states (B, T, input_dim), and which of them are padding (B, T), are needed with
        ``word_attention``, and are passed on to layers that read them.
        """
        decoded = encoding.new_zeros(())
        if self.decoder is not None:
            decoded = self.decoder(encoding).view(len(encoding), self.num_layers, -1)
        if self.word_attention is not None:
            parts = self.word_attention(encoding, words, padding)
            num_others = len(parts) - self.sets_of_words
            of_sets = PlaceSets.join(parts[num_others:])
            decoded = decoded + torch.cat([*parts[:num_others], *of_sets], 2)
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
        """Set the last layers to 0, so that all outputs begin at 0: then γ is its baseline (with
        ``gamma`` linear or tanh), β is 0, and a guide is the identity."""
        layers = [] if self.decoder is None else [_last_linear(self.decoder)]
        if self.word_attention is not None:
            layers += [_last_linear(decoder) for decoder in self.word_attention.decoders]
        for layer in layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def has_deviations(self) -> bool:
        """Whether γ can differ from 1 or β from 0."""
        return self.gamma != "one" or self.beta != "zero"

    def penalty(self, modulation: Modulation) -> Tensor:
        """The penalty () on the deviations of a batch: the mean of (γ - 1)² plus that of β².

        With post-multipliers it is the mean of γ₀² plus that of β₀² (retrospective; TADAM, section
        3.3).
        """
        if self.multipliers is not None:
            return self.multipliers.square().mean(dim=(1, 2)).sum()
        gamma, beta = at_least_float32(modulation.gamma), at_least_float32(modulation.beta)
        return (gamma - 1).square().mean() + beta.square().mean()


def _last_linear(decoder: nn.Module) -> nn.Linear:
    """The linear layer that computes the outputs of a decoder."""
    return [module for module in decoder.modules() if isinstance(module, nn.Linear)][-1]


def _build_decoder(
    name: str, input_dim: int, num_layers: int, width: int, hidden_dims: tuple[int, ...]
) -> nn.Module:
    """A module from (B, input_dim) to num_layers × width outputs."""
    if name in CELLS:
        return _UnrolledDecoder(name, input_dim, num_layers, width, hidden_dims)
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(input_dim, hidden_dim), nn.ReLU()]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, num_layers * width))


class _UnrolledDecoder(nn.Module):
    """A recurrent decoder with one step a FiLM layer and the same input at every step."""

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
