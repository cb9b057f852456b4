"""Rendered images with labels for the cells of a feature map, to pretrain a backbone.

The images vary more than the generator's, so that the network generalises to other cameras and
sizes: their fields of view range from the release's to the official generator's default, and some
images are resized.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filmvqa.backbones.labelled_images import (
    IGNORED,
    STRIDE,
    LabelledImages,
    PretrainingExamples,
)
from filmvqa.features.images import resize_picture
from filmvqa.worlds.clevr.camera import DEFAULT_FRAME_ASPECT, FRAME_ASPECT
from filmvqa.worlds.clevr.render import sample_and_render
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import Layout

#: An object labels a cell if it covers at least this share of the cell's pixels.
MIN_SHARE = 0.25
#: Width of the release's images in pixels.
RELEASE_WIDTH = 480


def pretraining_examples(rules: SceneRules | None = None) -> PretrainingExamples:
    """Pretraining images of scenes under ``rules``; None selects ``SceneRules()``."""
    rules = rules or SceneRules()
    num_values = {name: len(values) for name, values in ATTRIBUTES.items()}
    return PretrainingExamples(num_values, partial(draw_labelled_images, rules=rules), repr(rules))


def draw_labelled_images(
    count: int, size: int, seed: tuple[int, ...], rules: SceneRules
) -> LabelledImages:
    """Render ``count`` square images of ``size`` pixels with their labels.

    Half of them have the release's field of view; that of the others lies between it and the
    official generator's default. Every third image is rendered at a larger size, up to the
    release's 480 pixels, and resized.
    """
    rng = np.random.default_rng(seed)
    labelled = LabelledImages.empty(count, size, len(ATTRIBUTES))
    for index in range(count):
        frame_aspect = (
            rng.uniform(DEFAULT_FRAME_ASPECT, FRAME_ASPECT) if index % 2 else FRAME_ASPECT
        )
        width = height = size
        if index % 3 == 2:
            width = int(rng.integers(size, max(size, RELEASE_WIDTH) + 1))
            height = round(width / frame_aspect)
        # The resized image has as many rays per pixel.
        rays = 2 if width < 2 * size else 1
        layout, rendered = sample_and_render(rng, rules, width, height, rays, frame_aspect)
        labelled.images[index] = resize_picture(Image.fromarray(rendered.image), (size, size))
        mask = Image.fromarray(rendered.mask).resize((size, size), Image.Resampling.NEAREST)
        _label_cells(labelled, index, layout, np.asarray(mask))
    return labelled


def _label_cells(
    labelled: LabelledImages, index: int, layout: Layout, mask: NDArray[np.uint8]
) -> None:
    """Write the labels of image number ``index``; ``mask`` (H, W) has the object of each pixel.

    The places of an object are cells that it labels, since its centre may be hidden: those less
    than a cell from the centre in both directions, and always the nearest one.
    """
    cells = labelled.places.shape[-1]
    blocks = mask.reshape(cells, STRIDE, cells, STRIDE)
    num_objects = len(layout.objects)
    share = np.stack([(blocks == i).mean((1, 3)) for i in range(num_objects)])  # (objects, h, w)
    object_of_cell = np.where(share.max(0) >= MIN_SHARE, share.argmax(0), IGNORED)
    rows, columns = np.mgrid[:cells, :cells] + 0.5
    for i, (centre, thing) in enumerate(zip(layout.centres(), layout.objects, strict=True)):
        x, y, _ = layout.camera.project(centre, cells, cells)
        to_centre = np.maximum(abs(columns - x), abs(rows - y))
        covered = object_of_cell == i
        if not covered.any():  # a small object between cells, or almost hidden
            covered = share[i] == share[i].max()
        nearest = np.unravel_index(np.where(covered, to_centre, np.inf).argmin(), covered.shape)
        object_of_cell[nearest] = i
        labelled.places[index][covered & (to_centre < 1)] = i + 1
        labelled.places[index][nearest] = i + 1
        object_cells = object_of_cell == i
        for k, (name, values) in enumerate(ATTRIBUTES.items()):
            labelled.attributes[index, k][object_cells] = values.index(getattr(thing, name))
        labelled.offsets[index, 0][object_cells] = (x - columns)[object_cells]
        labelled.offsets[index, 1][object_cells] = (y - rows)[object_cells]
