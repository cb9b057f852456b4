"""Sheets of spectrograms, each with its scene's sounds and a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from filmvqa.backbones.spectrogram_settings import SpectrogramSettings
from filmvqa.backbones.spectrograms import (
    LEVEL_SCALE,
    MEAN_LEVEL,
    RECORDINGS,
    band_centres,
    load_spectrogram,
)
from filmvqa.studies.sheets import group_by_image, list_first, write_question
from filmvqa.system.figures import add_pictures, draw_figure
from filmvqa.system.files import read_bytes, refuse_overwriting
from filmvqa.worlds.engine.schema import FETCH, FETCH_AGAIN, decode_json
from filmvqa.worlds.sound.scenes import SoundSceneFile


def draw_scenes(
    questions: str | Path,
    scenes: str | Path,
    folder: str | Path,
    target: str | Path,
    settings: SpectrogramSettings,
    size: tuple[int, int],
    *,
    rows: int = 2,
    columns: int = 3,
) -> None:
    """Write a PNG of the spectrograms of a split's first recordings, each with a question.

    A spectrogram has ``size`` bins and frames. Each sound of the scene is a line from its onset to
    its end, at its fundamental frequency.

    Raises
    ------
    UserError
        If ``target`` is one of the inputs, or there are fewer recordings than cells.
    """
    bins, frames = size
    seconds = frames * settings.hop / settings.sample_rate
    centres = band_centres(settings, bins)
    ticks = np.linspace(0, bins - 1, 6).round().astype(int)
    refuse_overwriting(target, questions, scenes, folder)
    file = decode_json(read_bytes(scenes, FETCH), SoundSceneFile, scenes, FETCH_AGAIN)
    sounds = {scene.image_index: scene.objects for scene in file.scenes}
    by_recording = group_by_image(questions)
    paths = list_first(folder, rows * columns, RECORDINGS, "recordings")
    with draw_figure(target, 7.2 * columns, 3.6 * rows, dpi=100) as figure:
        cells = add_pictures(figure, rows * columns, columns, ticks=True)
        for axes, (index, path) in zip(cells, paths.items(), strict=True):
            levels = load_spectrogram(path, size, settings)[0] * LEVEL_SCALE + MEAN_LEVEL
            axes.imshow(
                levels, origin="lower", aspect="auto", extent=(0, seconds, -0.5, bins - 0.5),
                cmap="magma", vmin=-80, interpolation="nearest",
            )  # fmt: skip
            for place, sound in enumerate(sounds.get(index, [])):
                row = float(np.interp(sound.frequency, centres, np.arange(bins)))
                _mark(axes, sound, row, bins * (0.99 if place % 2 == 0 else 0.84))
            axes.set_yticks(ticks, [f"{centres[k]:.0f}" for k in ticks])
            axes.tick_params(labelsize=7)
            axes.set_ylabel("Hz", fontsize=7)
            write_question(axes, by_recording.get(index, []), index, width=100)


def _mark(axes: Any, sound: Any, row: float, top: float) -> None:
    axes.plot([sound.onset, sound.onset + sound.duration], [row, row], color="cyan", lw=2)
    axes.axvline(sound.onset, color="white", lw=0.6, alpha=0.7)
    what = f"{sound.instrument} {sound.note}\n{sound.loudness}\n{sound.brightness}"
    axes.text(sound.onset + 0.02, top, what, color="white", fontsize=6, va="top")
