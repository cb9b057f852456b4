"""Rendered images with labels for the cells of a feature map, to pretrain a backbone with.

The images vary more than the generator's, so that the network also reads those of other cameras:
frames from the release's to the official generator's default.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from filmvqa.backbones.labelled_images import (
    IGNORED,
    POSITION_SCALE,
    STRIDE,
    LabelledImages,
    PretrainingExamples,
)
from filmvqa.worlds.clevr.camera import DEFAULT_FRAME_ASPECT, FRAME_ASPECT
from filmvqa.worlds.clevr.render import sample_and_render
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import Layout

#: The least share of a cell's pixels that an object must cover to label the cell.
MIN_SHARE = 0.25


def pretraining_examples(rules: SceneRules | None = None) -> PretrainingExamples:
    """Images of scenes by some rules; None is ``SceneRules()``."""
    rules = rules or SceneRules()
    num_values = {name: len(values) for name, values in ATTRIBUTES.items()}
    return PretrainingExamples(num_values, partial(draw_labelled_images, rules=rules), repr(rules))


def draw_labelled_images(
    count: int, size: int, seed: tuple[int, ...], rules: SceneRules
) -> LabelledImages:
    """Render ``count`` square images of ``size`` pixels with their labels: half of them in the
    release's frame, the others in frames between it and the official generator's default."""
    rng = np.random.default_rng(seed)
    labelled = LabelledImages.empty(count, size, len(ATTRIBUTES))
    for index in range(count):
        frame_aspect = (
            rng.uniform(DEFAULT_FRAME_ASPECT, FRAME_ASPECT) if index % 2 else FRAME_ASPECT
        )
        layout, rendered = sample_and_render(rng, rules, size, size, frame_aspect=frame_aspect)
        labelled.images[index] = rendered.image.transpose(2, 0, 1)
        _label_cells(labelled, index, layout, rendered.mask)
    return labelled


def _label_cells(
    labelled: LabelledImages, index: int, layout: Layout, mask: NDArray[np.uint8]
) -> None:
    """Write the labels of the image ``index``; ``mask`` (H, W) has the object of each pixel."""
    cells = labelled.centres.shape[-1]
    directions = layout.camera.directions()
    blocks = mask.reshape(cells, STRIDE, cells, STRIDE)
    num_objects = len(layout.objects)
    share = np.stack([(blocks == i).mean((1, 3)) for i in range(num_objects)])  # (objects, h, w)
    object_of_cell = np.where(share.max(0) >= MIN_SHARE, share.argmax(0), IGNORED)
    for i, (centre, thing) in enumerate(zip(layout.centres(), layout.objects, strict=True)):
        object_cells = object_of_cell == i
        for k, (name, values) in enumerate(ATTRIBUTES.items()):
            labelled.attributes[index, k][object_cells] = values.index(getattr(thing, name))
        for k, axis in enumerate(("right", "front")):
            position = centre @ directions[axis] / POSITION_SCALE
            labelled.positions[index, k][object_cells] = position
        x, y, _ = layout.camera.project(centre, cells, cells)
        row, column = min(max(int(y), 0), cells - 1), min(max(int(x), 0), cells - 1)
        labelled.centres[index, row, column] = 1
