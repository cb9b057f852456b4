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
#: The probability above which there is an object, and the distance in cells below which two
#: predicted centres are of one object. Both by the numbers of objects in 2,000 images of 144 and 96
#: pixels; centres of two objects are rarely nearer than a cell, and predicted to 0.07.
IS_OBJECT, ONE_OBJECT = 0.3, 0.6
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


def predict_centres(offsets: Tensor) -> Tensor:
    """The x and y of the centre of each cell's object, in cells from the top left corner, of
    ``ObjectHeads``' offsets; (N, 2, h, w) both."""
    height, width = offsets.shape[2:]
    columns = torch.arange(width, device=offsets.device) + 0.5
    rows = torch.arange(height, device=offsets.device)[:, None] + 0.5
    return torch.stack([offsets[:, 0] + columns, offsets[:, 1] + rows], 1)


def find_objects(places: Tensor, offsets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` most probable places of objects, those above ``IS_OBJECT`` being objects.

    Cells with the same predicted centre show one object, to whose probability theirs are added:
    the network may doubt which of two cells is the place of an object on their border.

    Parameters
    ----------
    places, offsets
        Logits (N, h, w) and offsets (N, 2, h, w) of ``ObjectHeads``.

    Returns
    -------
    probabilities, cells
        (N, count) each, in falling order of the probability of the cell alone; cells are numbered
        by row.
    """
    left, centres = places.sigmoid().flatten(1), predict_centres(offsets).flatten(2)
    probabilities, cells = [], []
    for _ in range(min(count, left.shape[1])):
        cell = left.argmax(1, keepdim=True)  # (N, 1)
        distance = centres - centres.gather(2, cell[:, None].expand(-1, 2, -1))
        of_object = distance.square().sum(1) < ONE_OBJECT**2  # (N, hw)
        probabilities.append((left * of_object).sum(1).clamp(max=1.0))
        cells.append(cell[:, 0])
        left = left.masked_fill(of_object, 0.0)
    return torch.stack(probabilities, 1), torch.stack(cells, 1)
