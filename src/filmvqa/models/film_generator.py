"""From a question's encoding to γ and β for every FiLM layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from filmvqa.errors import OptionError
from filmvqa.models.encoder import CELLS
from filmvqa.models.options import Natural, Positive, check_choice

GAMMAS = ("linear", "sigmoid", "tanh", "exp", "one")
BETAS = ("linear", "zero")
DECODERS = ("linear", "mlp", *CELLS)
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
}


class Modulation(NamedTuple):
    """What a question does to one layer, or to L of them.

    ``gamma`` and ``beta`` (B, C) or (B, L, C); ``extra`` (B, E) or (B, L, E): what conditionings
    other than FiLM ask for besides.
    """

    gamma: Tensor
    beta: Tensor
    extra: Tensor

    def layer(self, i: int) -> Modulation:
        """That of one layer."""
        return Modulation(self.gamma[:, i], self.beta[:, i], self.extra[:, i])


class FilmGenerator(nn.Module):
    """Decodes an encoding to γ = baseline + f(Δγ) and β = Δβ for all FiLM layers at once.

    Parameters
    ----------
    decoder
        ``linear``, the paper's (section 3; the retrospective found it enough); ``mlp`` with a
        ReLU layer for each of ``hidden_dims``; ``gru`` or ``lstm`` unrolled over the FiLM layers,
        the encoding being the input of each step, with equal ``hidden_dims``.
    hidden_dims
        Widths of the decoder's own layers; empty: one of the encoding's width.
    gamma
        f: ``linear``, ``sigmoid``, ``tanh`` or ``exp`` (section 4.5, table 2); ``one``: γ is 1.
    beta
        ``linear``, or ``zero``: β is 0.
    multipliers
        Start of TADAM's learned post-multipliers (Oreshkin et al. 2018, section 3.3), one a
        channel: γ = baseline + γ₀ f(Δγ), β = β₀ Δβ. None: there are none.
    extra_dim
        Further numbers a layer, for conditionings that want them.
    task_offset
        A table (L, 2C + E) added to what is decoded, 0 at first: what a new task changes when
        all else is frozen.
    """

    def __init__(
        self,
        input_dim: int,
        num_layers: int,
        channels: int,
        *,
        decoder: str = "linear",
        hidden_dims: Sequence[Positive] = (),
        gamma: str = "linear",
        beta: str = "linear",
        gamma_baseline: float = 1.0,
        multipliers: float | None = None,
        extra_dim: Natural = 0,
        task_offset: bool = False,
    ) -> None:
        super().__init__()
        check_choice("decoder", decoder, DECODERS)
        check_choice("gamma", gamma, GAMMAS)
        check_choice("beta", beta, BETAS)
        if decoder == "linear" and hidden_dims:
            raise OptionError(f"decoder='linear' has no hidden_dims {list(hidden_dims)}; mlp has")
        self.num_layers, self.channels, self.extra_dim = num_layers, channels, extra_dim
        self.gamma, self.beta, self.gamma_baseline = gamma, beta, gamma_baseline
        self.part_sizes = (channels * (gamma != "one"), channels * (beta != "zero"), extra_dim)
        layer_dims = () if decoder == "linear" else tuple(hidden_dims) or (input_dim,)
        width = sum(self.part_sizes)
        self.decoder = _build_decoder(decoder, input_dim, num_layers, width, layer_dims)
        self.multipliers = (
            nn.Parameter(torch.full((2, num_layers, channels), float(multipliers)))
            if multipliers is not None else None
        )  # fmt: skip
        self.task_offset = nn.Parameter(torch.zeros(num_layers, width)) if task_offset else None

    def forward(self, encoding: Tensor) -> Modulation:
        """(B, input_dim) to γ and β, each (B, num_layers, channels)."""
        decoded = self.decoder(encoding).view(len(encoding), self.num_layers, sum(self.part_sizes))
        if self.task_offset is not None:
            decoded = decoded + self.task_offset
        delta_gamma, delta_beta, extra = decoded.split(self.part_sizes, 2)
        gamma_scale, beta_scale = (1.0, 1.0) if self.multipliers is None else self.multipliers
        shape = (len(encoding), self.num_layers, self.channels)
        if self.gamma == "one":
            gamma = decoded.new_ones(shape)
        else:
            activation = _ACTIVATIONS[self.gamma]
            gamma = self.gamma_baseline + gamma_scale * activation(delta_gamma)
        beta = decoded.new_zeros(shape) if self.beta == "zero" else beta_scale * delta_beta
        return Modulation(gamma, beta, extra)

    @property
    def has_deviations(self) -> bool:
        """Whether γ can differ from 1, or β from 0."""
        return self.gamma != "one" or self.beta != "zero"

    def penalty(self, modulation: Modulation) -> Tensor:
        """Mean square of the deviations γ - 1 and β of a batch; with post-multipliers, of those.

        Both together are 0 where FiLM does nothing (retrospective; TADAM, section 3.3).
        """
        if self.multipliers is not None:
            return self.multipliers.square().mean(dim=(1, 2)).sum()
        gamma, beta = modulation.gamma.float(), modulation.beta.float()
        return (gamma - 1).square().mean() + beta.square().mean()


def _build_decoder(
    name: str, input_dim: int, num_layers: int, width: int, hidden_dims: tuple[int, ...]
) -> nn.Module:
    """A module (B, input_dim) to num_layers × width numbers."""
    if name in CELLS:
        return _UnrolledDecoder(name, input_dim, num_layers, width, hidden_dims)
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(input_dim, hidden_dim), nn.ReLU()]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, num_layers * width))


class _UnrolledDecoder(nn.Module):
    """A recurrent network with one step a FiLM layer, its input the same at each."""

    def __init__(
        self, cell: str, input_dim: int, num_layers: int, width: int, hidden_dims: tuple[int, ...]
    ) -> None:
        super().__init__()
        if len(set(hidden_dims)) > 1:
            raise OptionError(
                f"hidden_dims={list(hidden_dims)} of a recurrent decoder must be equal"
            )
        self.num_layers = num_layers
        self.rnn = CELLS[cell](input_dim, hidden_dims[0], len(hidden_dims), batch_first=True)
        self.linear = nn.Linear(hidden_dims[0], width)

    def forward(self, encoding: Tensor) -> Tensor:
        steps = encoding[:, None].expand(-1, self.num_layers, -1)  # (B, L, D)
        decoded: Tensor = self.linear(self.rnn(steps)[0])  # (B, L, width)
        return decoded
