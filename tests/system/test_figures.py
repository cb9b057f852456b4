"""Figures are drawn and written the same way with any settings of Matplotlib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from filmvqa.studies.sweep_figure import set_value_ticks
from filmvqa.system.errors import UserError
from filmvqa.system.figures import (
    add_legend,
    add_pictures,
    add_plots,
    draw_figure,
    draw_intervals,
    outline,
    write_below,
)
from tests.conftest import script_environment


def draw_some(target: Path) -> None:
    with draw_figure(target, 4, 2, dpi=50) as figure:
        (axes,) = add_plots(figure)
        draw_intervals(axes, [0, 1], [2.0, 3.0], np.array([[1.5, 3.0], [4.0, 3.5]]), label="a")
        (bars,) = axes.containers[0].lines[2]
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert ends == [[1.5, 4.0], [3.0, 3.5]]
        add_legend(figure, 1)


def test_settings_of_matplotlib_do_not_change_a_figure(tmp_path: Path) -> None:
    draw_some(tmp_path / "plain.png")
    style = {"font.size": 30.0, "axes.facecolor": "red", "savefig.dpi": 30, "text.usetex": True}
    with matplotlib.rc_context(style):
        draw_some(tmp_path / "styled.png")
        assert matplotlib.rcParams["font.size"] == 30.0
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()
    with Image.open(tmp_path / "plain.png") as image:
        assert image.size == (200, 100)


def test_a_figure_that_cannot_be_drawn_replaces_none(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"before")
    refused = pytest.raises(UserError, match=r"x\.png: Matplotlib cannot draw it")
    with refused as caught, draw_figure(target, 2, 2):
        raise RuntimeError
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert target.read_bytes() == b"before"


_RC = "text.usetex: True\nfont.family: No Such Font\nbackend: nothing\nno such key\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "TkAgg", "DISPLAY": ""},
        {"MPLCONFIGDIR": "settings"},
        {"MPLCONFIGDIR": "/dev/null"},
        {"MATPLOTLIBRC": "settings"},
        {"MATPLOTLIBRC": "settings/broken"},
        {"HOME": "/dev/null", "XDG_CONFIG_HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"},
    ],
    ids=str,
)
def test_no_settings_of_matplotlib_spoil_a_figure(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Nothing is printed, also for dollar signs and letters without a glyph."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/matplotlibrc").write_text(_RC)
    (tmp_path / "settings/broken").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "settings/fontlist-v390.json").write_text("{")
    code = (
        "from filmvqa.system.figures import *\n"
        "with draw_figure('x.png', 2, 2) as figure:\n"
        "    add_plots(figure)[0].set_title('a$b_{c$d$ \N{CJK UNIFIED IDEOGRAPH-56FE}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=script_environment() | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (240, 240)


def test_a_sheet_has_text_below_its_pictures_and_empty_cells_behind(tmp_path: Path) -> None:
    with draw_figure(tmp_path / "x.png", 4, 4) as figure:
        cells = add_pictures(figure, 3, 2)
        assert len(cells) == 3
        assert [axes.axison for axes in figure.axes] == [True, True, True, False]
        write_below(cells[0], "one two three", "four", width=8, size=7)
        assert cells[0].get_xlabel() == "one two\nthree\nfour"
        assert not cells[0].get_xticks().size
        outline(cells[0], np.zeros((4, 4), bool))
        assert not cells[0].collections
        outline(cells[0], np.eye(4, dtype=bool))
        assert cells[0].collections


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
def test_no_scale_has_mathematical_text_at_its_ticks(tmp_path: Path, scale: str) -> None:
    """Texts are not parsed, so $10^{-3}$ would be shown literally."""
    with draw_figure(tmp_path / "scales.png", 4, 2, dpi=50) as figure:
        (axes,) = add_plots(figure)
        axes.plot([0.002, 0.3, 40], [0.01, 0.2, 3000])
        axes.set(xscale=scale, yscale=scale)
    ticks = [
        text.get_text()
        for axis in (axes.xaxis, axes.yaxis)
        for which in ("major", "minor")
        for text in axis.get_ticklabels(which=which)
    ]
    assert any(ticks)
    assert not any("$" in text for text in ticks)
    assert scale == "linear" or "100" in ticks


@pytest.mark.parametrize(
    ("values", "labels"),
    [([0.0, 1e-5, 1e-3], ["0", "1e-05", "0.0001", "0.001"]), ([0.1, 0.2], ["0.1", "0.2"])],
)
def test_values_of_a_sweep_are_labelled_as_given(
    tmp_path: Path, values: list[float], labels: list[str]
) -> None:
    with draw_figure(tmp_path / "sweep.png", 4, 2, dpi=50) as figure:
        (axes,) = add_plots(figure)
        axes.plot(values, values)
        set_value_ticks(axes, values)
    assert [text.get_text() for text in axes.get_xticklabels()] == labels
