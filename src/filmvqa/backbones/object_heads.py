"""Predictions from ``ClevrCNN``'s maps: attributes, and places and centres of objects.

The heads are pretrained and saved together with the network; ``find_objects`` lists the objects
that they predict.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

#: Prefix of the names of their weights in a weights file.
HEADS = "heads."
#: The probability above which a place counts as an object, and the distance in cells below which
#: two predicted centres belong to one object. Both are fitted to the numbers of objects in 2,000
#: images of 144 and 96 pixels. Centres of two objects are rarely closer than a cell, and are
#: predicted to within 0.07.
IS_OBJECT, ONE_OBJECT = 0.3, 0.6
#: The initial bias of the logits of places, since few cells are places.
_RARE = -4.0


class ObjectHeads(nn.Module):
    """Linear predictions for each cell: the object's attributes and centre, and whether the cell is
    the object's place.

    An object has one place, so the probabilities of places sum to the number of objects.
    """

    def __init__(self, channels: int, num_values: int) -> None:
        super().__init__()
        self.num_values = num_values
        self.linear = nn.Conv2d(channels, num_values + 3, 1)
        nn.init.constant_(self.linear.bias[num_values], _RARE)  # type: ignore[index]

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ObjectHeads:
        """Heads with these weights; ``RuntimeError`` if the weights are not those of heads."""
        outputs, channels = getattr(state.get("linear.weight"), "shape", (3, 1))[:2]
        heads = cls(channels, outputs - 3)
        heads.load_state_dict(state)
        return heads

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict, in float32, from features (N, C, h, w): logits of all attributes' values
        (N, V, h, w); logits of places (N, h, w); offsets (N, 2, h, w) from the cell's centre to
        the object's, to the right and down, in cells."""
        out = self.linear(features).float()
        return out[:, :-3], out[:, -3], out[:, -2:]


def predict_centres(offsets: Tensor) -> Tensor:
    """The x and y (N, 2, h, w) of the centre of each cell's object, in cells from the top left
    corner, from the offsets (N, 2, h, w) of ``ObjectHeads``."""
    height, width = offsets.shape[2:]
    columns = torch.arange(width, device=offsets.device) + 0.5
    rows = torch.arange(height, device=offsets.device)[:, None] + 0.5
    return torch.stack([offsets[:, 0] + columns, offsets[:, 1] + rows], 1)


def find_objects(places: Tensor, offsets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` most probable places of objects; those above ``IS_OBJECT`` are objects.

    Cells that predict the same centre show one object, and their probabilities are added: for an
    object on the border of two cells, the network may be undecided which is its place.

    Parameters
    ----------
    places, offsets
        Logits (N, h, w) and offsets (N, 2, h, w) of ``ObjectHeads``.

    Returns
    -------
    probabilities, cells
        (N, count) each, in descending order of the cell's own probability; cells are numbered row
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
