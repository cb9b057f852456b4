"""Networks of other libraries as backbones: the choice of a feature map, and a trial run."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, fold_batch_norms
from filmvqa.system.errors import UserError, one_line

#: Pixels per place of the paper's maps (section 4.1).
_PAPER_STRIDE = 16


class OneMap(nn.Module):
    """The only map (N, C, H, W) in a network's list or dictionary of outputs."""

    def __init__(self, network: nn.Module, *, channels_last: bool = False) -> None:
        super().__init__()
        self.network, self.channels_last = network, channels_last

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x)
        maps: Tensor
        (maps,) = out.values() if isinstance(out, dict) else out
        return maps.permute(0, 3, 1, 2) if self.channels_last else maps


def choose_stage(name: str, stage: int | None, strides: Sequence[int]) -> int:
    """The number of the map that ``backbone.stage`` selects, counted from 1.

    Parameters
    ----------
    stage
        None selects the last map with the largest stride of at most 16 pixels, the paper's; if all
        strides are larger, the last map with the smallest.
    strides
        The stride of each map in pixels.

    Raises
    ------
    UserError
        If the network has no map of this number.
    """
    if stage is None:
        stride = max((s for s in strides if s <= _PAPER_STRIDE), default=min(strides))
        return len(strides) - list(strides)[::-1].index(stride)
    if not 1 <= stage <= len(strides):
        raise UserError(
            f"backbone.stage={stage}: {name} has maps 1 to {len(strides)}, with a place for each "
            f"{', '.join(map(str, strides))} pixels"
        )
    return stage


def try_image(name: str, network: nn.Module, image: Tensor) -> Tensor:
    """Run a network on an image (1, 3, H, W); ``UserError`` if it does not accept its size."""
    try:
        out: Tensor = network(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = ",".join(map(str, image.shape[2:]))
        raise UserError(
            f"data.image_size=[{size}]: {name} takes no images of this size ({one_line(error)}); "
            "give the size for which it was designed, or a multiple of 32"
        ) from None
    return out


@torch.inference_mode()
def library_backbone(
    name: str,
    network: nn.Module,
    options: BackboneOptions,
    *,
    usual_size: tuple[int, int],
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    stage: int,
    weights: str,
    weights_sha256: str,
) -> Backbone:
    """A backbone of a network that returns maps (N, C, H, W), after a trial on one image.

    The trial also decides whether batch norms can be folded.

    Parameters
    ----------
    usual_size
        (H, W) of the images for which the network was designed.
    normalisation
        Mean and standard deviation of pixels in [0, 1].

    Raises
    ------
    UserError
        If the network does not accept images of ``options.image_size``.
    """
    size = options.image_size or usual_size
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    maps = try_image(name, network.eval(), image)
    folded = copy.deepcopy(network).eval()
    fold_batch_norms(folded)
    tolerance = 1e-3 * float(maps.abs().max())
    folds = torch.allclose(folded(image), maps, rtol=0, atol=tolerance)
    mean, std = normalisation
    return Backbone(
        name, network, mean, std, stage=stage, weights=weights, weights_sha256=weights_sha256,
        folds=folds,
    )  # fmt: skip
