"""The FiLMed residual block (section 3; figure 3, middle) and its ablations (section 4.5)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from filmvqa.models.attentive_read import attentive_read
from filmvqa.models.batch_norm import BatchNorm2d
from filmvqa.models.conditioning import CONDITIONINGS, Conditioning
from filmvqa.models.options import Axes, Coordinates, OptionGroup, check_choice, checked_options
from filmvqa.models.place_sets import PlaceSets
from filmvqa.models.protocols import Modulation
from filmvqa.models.vision import convolution
from filmvqa.settings.typed import Natural, Positive, Probability
from filmvqa.system.errors import OptionError

#: Position of the conditioning layer in the block (section 4.5, table 2).
FilmPosition = Literal["before_conv1", "after_conv2", "after_norm", "after_relu2", "after_residual"]


class BlockOutput(NamedTuple):
    """Output of a block.

    Attributes
    ----------
    x
        Feature maps (B, C, H, W).
    read
        Vector that the key reads from them (B, C), if there is a key.
    branch
        Maximum and mean of the modulated branch over the map (B, 2C), if requested.
    counts
        Number of places in each set (B, S), if there are sets.
    read_scores, set_scores
        Scores of the read (B, H W) and of the sets (B, H W, S).
    """

    x: Tensor
    read: Tensor | None = None
    branch: Tensor | None = None
    counts: Tensor | None = None
    read_scores: Tensor | None = None
    set_scores: Tensor | None = None


class FilmedResBlock(nn.Module):
    """1×1 convolution, ReLU, 3×3 convolution, batch norm, FiLM, ReLU and a residual connection.

    The residual connection adds the first ReLU's output to the second's. In a conditioned block,
    batch norm has no learned scale and shift, because FiLM replaces them.

    Parameters
    ----------
    channels
        Channels of input and output.
    conditioned
        Whether the question modulates this block. If not, batch norm has a learned scale and shift.
    coordinates
        Which convolutions have coordinate maps in their input: ``none``, ``inputs`` (the first) or
        ``everywhere`` (both).
    context_dim
        Width of a context vector, such as the previous block's read. A linear map of it is added to
        all positions of the first convolution's output. 0: no context.
    map_size
        (H, W) of the input, which ``guide`` needs.
    axes
        Coordinates of the coordinate maps.
    words_dim
        Width of the words' states, for a conditioning that reads them.
    sets
        Number S of sets that a conditioned block marks by the question's keys (``PlaceSets``).
    writes_sets
        Whether the sets and the read's attention are added to the block's output.
    conditioning
        How the question acts: ``film``, ``guide``, ``spatial_film``, ``dual_attention``, another
        registered name, or ``concat``, which appends γ and β, repeated over the map, to the 3×3
        convolution's input.
    conditioning_options
        Options of the conditioning, such as ``rank`` of ``spatial_film``.
    film_position
        Position of the conditioning layer. ``concat`` has no such layer.
    input_proj_kernel
        Kernel size of the first convolution. 0 omits the convolution and its ReLU.
    kernel_size
        Kernel size of the second convolution, odd.
    residual
        Whether there is a residual connection.
    norm
        Whether there is batch norm.
    norm_affine
        Whether batch norm has a learned scale and shift in a conditioned block too.
    dropout
        Probability of dropping a channel before the second ReLU.

    Attributes
    ----------
    conditioned
        Whether ``forward`` needs a modulation. With ``concat`` it always does; the parameter
        ``conditioned`` then only decides about batch norm.
    uses_gamma_beta
        Whether the block uses γ and β of its modulation.
    extra_dim
        Number of ``extra`` values of its modulation that the block uses.
    reads_words
        Whether the block uses the words' states of its modulation.

    Raises
    ------
    OptionError
        If ``conditioning`` is unknown or does not take its options, ``kernel_size`` is even, or
        the maps of ``guide`` have no size or would change it.
    """

    def __init__(
        self,
        channels: int,
        conditioned: bool = True,
        coordinates: Coordinates = "inputs",
        context_dim: int = 0,
        map_size: tuple[int, int] | None = None,
        axes: Axes = "xy",
        words_dim: int = 0,
        sets: int = 0,
        writes_sets: bool = True,
        *,
        conditioning: str = "film",
        conditioning_options: OptionGroup = None,
        film_position: FilmPosition = "after_norm",
        input_proj_kernel: Natural = 1,
        kernel_size: Positive = 3,
        residual: bool = True,
        norm: bool = True,
        norm_affine: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        check_choice("conditioning", conditioning, (*CONDITIONINGS, "concat"))
        if kernel_size % 2 == 0:
            raise OptionError(f"kernel_size={kernel_size}: must be odd")
        self.concat = conditioning == "concat"
        if self.concat and conditioning_options:
            raise OptionError("conditioning_options: concat has none")
        self.film_position = film_position if conditioned and not self.concat else None
        self.residual = residual
        self.project = (
            convolution(
                channels, channels, input_proj_kernel,
                coordinates=coordinates != "none", axes=axes, padding=input_proj_kernel // 2,
            ) if input_proj_kernel else None
        )  # fmt: skip
        self.context = nn.Linear(context_dim, channels, bias=False) if context_dim else None
        self.conv = convolution(
            3 * channels if self.concat else channels, channels, kernel_size,
            coordinates=coordinates == "everywhere", axes=axes, padding=kernel_size // 2,
        )  # fmt: skip
        self.norm = BatchNorm2d(channels, affine=norm_affine or not conditioned) if norm else None
        if conditioning == "guide" and input_proj_kernel and input_proj_kernel % 2 == 0:
            raise OptionError(
                f"input_proj_kernel={input_proj_kernel}: must be odd for conditioning=guide, whose "
                "maps must keep their size"
            )
        self.condition: Conditioning | None = None
        if self.film_position:
            layer = CONDITIONINGS[conditioning]
            options = checked_options(
                layer, conditioning_options or {}, group="conditioning_options"
            )
            self.condition = layer(channels, map_size, words_dim, **options)
        self.dropout = nn.Dropout2d(dropout) if dropout else None
        self.conditioned = self.concat or conditioned
        self.sets = PlaceSets(channels, sets, writes_sets) if sets and self.conditioned else None
        self.uses_gamma_beta = self.concat or (
            self.condition is not None and self.condition.uses_gamma_beta
        )
        self.extra_dim = 0 if self.condition is None else self.condition.extra_dim
        self.reads_words = self.condition is not None and self.condition.reads_words

    def _with_context(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Add the context to all positions of the first convolution's output."""
        if self.context is None or context is None:
            return x
        out: Tensor = x + self.context(context)[:, :, None, None]
        return out

    def _film_at(self, position: FilmPosition, x: Tensor, modulation: Modulation | None) -> Tensor:
        if self.film_position != position or self.condition is None:
            return x
        out: Tensor = self.condition(x, modulation)
        return out

    def forward(
        self,
        x: Tensor,
        modulation: Modulation | None,
        context: Tensor | None = None,
        pool_branch: bool = False,
        weights: Tensor | None = None,
    ) -> BlockOutput:
        """Map x (B, C, H, W) to the same shape.

        Parameters
        ----------
        modulation
            The block's modulation, with γ and β (B, C). None if the block is not conditioned. If
            it has a key, the output is read, with the key's attention to the modulated branch
            before the residual connection.
        context
            Context (B, context_dim). None is the same as zeros.
        pool_branch
            Whether to pool the modulated branch.
        weights
            How much each place counts in a set (B, H, W). None: 1.
        """
        x = self._film_at("before_conv1", x, modulation)
        if self.project is not None:
            x = torch.relu(self._with_context(self.project(x), context))
            context = None
        out = x
        if self.concat and modulation is not None:
            gamma_beta = torch.cat([modulation.gamma, modulation.beta], 1)[:, :, None, None]
            out = torch.cat([x, gamma_beta.expand(-1, -1, *x.shape[2:])], 1)  # (B, 3C, H, W)
        out = self._film_at("after_conv2", self._with_context(self.conv(out), context), modulation)
        if self.norm is not None:
            out = self.norm(out)
        out = self._film_at("after_norm", out, modulation)
        if self.dropout is not None:
            out = self.dropout(out)
        out = self._film_at("after_relu2", torch.relu(out), modulation)
        read = branch = counts = read_scores = set_scores = None
        if pool_branch:
            branch = torch.cat([out.amax((2, 3)), out.mean((2, 3))], 1)
        x = self._film_at("after_residual", x + out if self.residual else out, modulation)
        if modulation is not None and modulation.key.shape[1]:
            channels = x.shape[1]
            read, read_scores = attentive_read(x, out, modulation.key[:, :channels])
            if self.sets is not None:
                places = out.flatten(2).transpose(1, 2)  # (B, N, C)
                added, counts, set_scores = self.sets(
                    places, modulation.key[:, channels:], weights, read_scores
                )
                x = x if added is None else x + added.transpose(1, 2).view_as(x)
        return BlockOutput(x, read, branch, counts, read_scores, set_scores)
