"""A FiLM network that labels every place of an image."""

from __future__ import annotations

from typing import ClassVar

from filmvqa.models.film_segmentation import FilmSegmentation
from filmvqa.models.registry import register_model


@register_model("film_label_maps")
class FilmLabelMaps(FilmSegmentation):
    """``FilmSegmentation`` with maps (B, K, h, w) of K classes: the text does not say what is
    segmented, but how."""

    TARGETS: ClassVar[str] = "label_maps"
