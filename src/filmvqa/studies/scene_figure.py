"""Sheets of spectrograms, each with its scene's sounds marked and a question."""

from __future__ import annotations

import textwrap
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
from filmvqa.features.images import list_images
from filmvqa.settings.typed import Cells, checked
from filmvqa.system.errors import UserError
from filmvqa.system.figure_file import new_figure, save_figure
from filmvqa.system.files import read_bytes, refuse_overwriting
from filmvqa.worlds.engine.schema import FETCH, FETCH_AGAIN, decode_json, read_questions
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
    """Write a PNG of the first recordings of a split: spectrograms of ``size`` bins and frames, on
    which each sound of the scene is a box from its onset to its end, at its fundamental, and a
    question with its answer.

    Raises
    ------
    UserError
        If ``target`` is one of the inputs, there are fewer recordings than the grid has cells, or
        for rows or columns that no figure has.
    """
    checked(rows, Cells, "rows")
    checked(columns, Cells, "columns")
    refuse_overwriting(target, questions, scenes, folder)
    file = decode_json(read_bytes(scenes, FETCH), SoundSceneFile, scenes, FETCH_AGAIN)
    by_index = {scene.image_index: scene for scene in file.scenes}
    texts: dict[int | None, list[str]] = {}
    for record in read_questions(questions).questions:
        texts.setdefault(record.image_index, []).append(f"{record.question} {record.answer or ''}")
    paths = list_images(
        folder, missing_images="leave_out", max_images=rows * columns, kind=RECORDINGS
    )
    if len(paths) < rows * columns:
        raise UserError(
            f"{folder}: has fewer than {rows * columns} recordings; lower rows or columns"
        )
    figure = new_figure(7.2 * columns, 3.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (index, path) in zip(grid.flat, paths.items(), strict=True):
        levels = load_spectrogram(path, size, settings)[0] * LEVEL_SCALE + MEAN_LEVEL
        seconds = size[1] * settings.hop / settings.sample_rate
        axes.imshow(
            levels, origin="lower", aspect="auto", extent=(0, seconds, -0.5, size[0] - 0.5),
            cmap="magma", vmin=-80, interpolation="nearest",
        )  # fmt: skip
        if index in by_index:
            _mark(axes, by_index[index].objects, settings, size[0])
        centres = band_centres(settings, size[0])
        ticks = np.linspace(0, size[0] - 1, 6).round().astype(int)
        axes.set_yticks(ticks, [f"{centres[k]:.0f}" for k in ticks], fontsize=7)
        asked = texts.get(index, [""])
        axes.set_xlabel(textwrap.fill(asked[index % len(asked)], 100), fontsize=8)
        axes.set_ylabel("Hz", fontsize=7)
        axes.tick_params(labelsize=7)
    save_figure(figure, target, dpi=100)


def _mark(axes: Any, sounds: Any, settings: SpectrogramSettings, bins: int) -> None:
    centres = band_centres(settings, bins)
    for place, sound in enumerate(sounds):
        row = float(np.interp(sound.frequency, centres, np.arange(bins)))
        axes.plot([sound.onset, sound.onset + sound.duration], [row, row], color="cyan", lw=2)
        axes.axvline(sound.onset, color="white", lw=0.6, alpha=0.7)
        what = f"{sound.instrument} {sound.note}\n{sound.loudness}\n{sound.brightness}"
        top = bins * (0.99 if place % 2 == 0 else 0.84)
        axes.text(sound.onset + 0.02, top, what, color="white", fontsize=6, va="top")
