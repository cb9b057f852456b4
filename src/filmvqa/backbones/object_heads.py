"""Predictions from ``ClevrCNN``'s maps: attributes, and places and centres of objects.

Pretraining learns them with the network and saves them beside it; ``find_objects`` makes a list of
objects of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

#: What the names of their weights begin with in a file of weights.
HEADS = "heads."
#: The initial bias of the logits of places: few cells are one.
_RARE = -4.0


class ObjectHeads(nn.Module):
    """Linear predictions for each cell: attributes, whether it is the place of an object, centre.

    An object has one place, so that the sum of the places' probabilities is the number of objects.
    """

    def __init__(self, channels: int, num_values: int) -> None:
        super().__init__()
        self.num_values = num_values
        self.linear = nn.Conv2d(channels, num_values + 3, 1)
        nn.init.constant_(self.linear.bias[num_values], _RARE)  # type: ignore[index]

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ObjectHeads:
        """Heads with these weights; ``RuntimeError`` if they are not of heads."""
        outputs, channels = getattr(state.get("linear.weight"), "shape", (3, 1))[:2]
        heads = cls(channels, outputs - 3)
        heads.load_state_dict(state)
        return heads

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of all attributes' values (N, V, h, w); of places (N, h, w); and offsets of the
        object's centre from the cell's (N, 2, h, w), to the right and down in cells; for features
        (N, C, h, w). In float32."""
        out = self.linear(features).float()
        return out[:, :-3], out[:, -3], out[:, -2:]


def find_objects(places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` most probable places of objects.

    An object takes a probability of one from its place and, as far as that has less, from the eight
    cells around: where the network doubts which of two cells is an object's place it is still one
    object, and where two cells are each an object's place both are found.

    Parameters
    ----------
    places
        Logits (N, h, w) of ``ObjectHeads``.

    Returns
    -------
    probabilities, cells
        (N, count) each, in falling order of the probability of the cell alone; cells are numbered
        by row.
    """
    height, width = places.shape[1:]
    left = places.sigmoid().flatten(1)  # (N, hw)
    every = torch.arange(height * width, device=places.device)
    rows, columns = every // width, every % width
    probabilities, cells = [], []
    for _ in range(min(count, height * width)):
        own, cell = left.max(1, keepdim=True)  # (N, 1)
        is_near = (rows - rows[cell]).abs() <= 1
        is_near &= (columns - columns[cell]).abs() <= 1  # (N, hw)
        left = left.scatter(1, cell, 0.0)
        around = (left * is_near).sum(1, keepdim=True)  # (N, 1)
        taken = torch.minimum(1 - own, around)
        left = torch.where(is_near, left * (1 - taken / around.clamp(min=1e-12)), left)
        probabilities.append((own + taken)[:, 0])
        cells.append(cell[:, 0])
    return torch.stack(probabilities, 1), torch.stack(cells, 1)
