"""The page's pictures: scenes, maps laid over them, γ and β."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from filmvqa.page.frame import piece
from filmvqa.vqa import FilmParameters

#: The brightness of a picture where a map over it is lowest and highest. Brightness, not a colour,
#: keeps the objects' colours visible.
_DARK, _LIT = 0.45, 1.25
#: The width of a channel, and the height, of a strip for a layer's γ or β.
_BAR, _STRIP = 4, 56


def data_url(picture: NDArray[np.uint8], *, quick: bool = False) -> str:
    """A picture (H, W, 3) as a data URL: PNG, or JPEG if ``quick``."""
    out, subtype = io.BytesIO(), "jpeg" if quick else "png"
    Image.fromarray(picture).save(out, format=subtype, quality=85, compress_level=1)
    return f"data:image/{subtype};base64,{base64.b64encode(out.getvalue()).decode()}"


def overlay_map(picture: NDArray[np.uint8], values: Tensor) -> NDArray[np.uint8]:
    """A picture (H, W, 3) lit by a map (h, w): grey and dark at the map's minimum, in colour and
    brighter than before at its maximum. A constant map only darkens.
    """
    height, width = picture.shape[:2]
    span = values.amax() - values.amin()
    relative = (values - values.amin()) / span.clamp(min=1e-12)
    small = Image.fromarray((255 * relative).numpy().astype(np.uint8))
    resized = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float)
    shares = resized[..., None] / 255
    gray = picture.astype(float).mean(2, keepdims=True)
    lit = _DARK * gray * (1 - shares) + _LIT * picture * shares
    drawn: NDArray[np.uint8] = lit.clip(0, 255).astype(np.uint8)
    return drawn


def thumbnail(picture: NDArray[np.uint8], width: int = 192) -> NDArray[np.uint8]:
    """A picture (H, W, 3) scaled to a smaller width."""
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def draw_film_strips(film: FilmParameters, before: FilmParameters | None = None) -> list[str]:
    """An SVG for each layer's γ and β in turn, with a bar for each channel from 1 for γ and from 0
    for β, lines at both numbers, and ticks at the values ``before``."""
    strips = []
    for layer in range(len(film.gamma)):
        for name, neutral in (("gamma", 1.0), ("beta", 0.0)):
            values = getattr(film, name)[layer].tolist()
            previous = None if before is None else getattr(before, name)[layer].tolist()
            strips.append(_draw_strip(values, previous, neutral))
    return strips


def _draw_strip(values: list[float], previous: list[float] | None, neutral: float) -> str:
    everything = [*values, *(previous or []), 0.0, 1.0]
    low, high = min(everything), max(everything)
    margin = 0.04 * (high - low)

    def y(value: float) -> float:
        return round(_STRIP * (high + margin - value) / (high - low + 2 * margin), 1)

    return piece(
        "strip", values=values, previous=previous, neutral=neutral, y=y, bar=_BAR, height=_STRIP
    )
