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

#: Where the conditioning layer stands in the block (section 4.5, table 2).
FilmPosition = Literal["before_conv1", "after_conv2", "after_norm", "after_relu2", "after_residual"]


class BlockOutput(NamedTuple):
    """What a block computes.

    Attributes
    ----------
    x
        The feature maps (B, C, H, W).
    read
        With a key, what it finds in them (B, C).
    branch
        If asked for, the maximum and the mean of the modulated branch over the map (B, 2C).
    counts
        With sets, the number of places in each (B, S).
    read_scores, set_scores
        The scores of the read (B, H W), and those of the sets (B, H W, S).
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
    batch norm has no learned scale and shift, because FiLM's take their place.

    Parameters
    ----------
    channels
        Channels of the input and of the output.
    conditioned
        Whether the question modulates this block. If not, batch norm has a learned scale and shift.
    coordinates
        Which convolutions have coordinate maps in their input: ``none``, ``inputs`` (the first) or
        ``everywhere`` (both).
    context_dim
        Width of a vector that all positions are given with the input, such as what the block before
        read of its map: a linear map of it is added to the first convolution's output. 0: none.
    map_size
        (H, W) of the input, which ``guide`` needs.
    axes
        The coordinates that maps are made of, one of ``Axes``.
    words_dim
        Width of the words' states, for a conditioning that reads them.
    sets
        Number S of sets that a conditioned block marks by the question's keys, as ``PlaceSets``.
    writes_sets
        Whether it adds what belongs to them, and what was read, to its output.
    conditioning
        How the question acts: ``film``, ``guide``, ``spatial_film``, ``dual_attention``, another
        that is registered, or ``concat``, which appends γ and β, repeated over the map, to the 3×3
        convolution's input.
    conditioning_options
        Options of the conditioning's own, such as ``rank`` of ``spatial_film``.
    film_position
        Where the conditioning layer stands, one of ``FilmPosition``. ``concat`` has none.
    input_proj_kernel
        Kernel size of the first convolution; 0 leaves out the convolution and its ReLU.
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
        Whether ``forward`` needs a modulation. With ``concat`` it always does, and the parameter
        ``conditioned`` decides about batch norm only.
    uses_gamma_beta
        Whether the block reads γ and β of its modulation.
    extra_dim
        How many ``extra`` numbers of its modulation the block reads.
    reads_words
        Whether the block reads the words' states of its modulation.

    Raises
    ------
    OptionError
        If an option is none of its choices, ``kernel_size`` is even, or ``guide``'s maps would not
        keep their size or have none.
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
                "maps keep their size"
            )
        self.condition: Conditioning | None = None
        if self.film_position:
            layer = CONDITIONINGS[conditioning]
            fitted = checked_options(
                layer, conditioning_options or {}, group="conditioning_options"
            )
            self.condition = layer(channels, map_size, words_dim, **fitted)
        self.dropout = nn.Dropout2d(dropout) if dropout else None
        self.conditioned = self.concat or conditioned
        self.sets = PlaceSets(channels, sets, writes_sets) if sets and self.conditioned else None
        self.uses_gamma_beta = self.concat or (
            self.condition is not None and self.condition.uses_gamma_beta
        )
        self.extra_dim = 0 if self.condition is None else self.condition.extra_dim
        self.reads_words = self.condition is not None and self.condition.reads_words

    def _with_context(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The first convolution's output, with what all positions are given."""
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
            This block's, with γ and β (B, C); None if it is not conditioned. With a key, the
            output is read: the attention is that of the key to the modulated branch, before the
            residual connection.
        context
            (B, context_dim); None is as good as zeros.
        pool_branch
            Whether the modulated branch is pooled.
        weights
            What each place counts in a set (B, H, W); None: one.
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
