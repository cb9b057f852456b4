"""A training run computes the stored results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.pinned_run import FIGURES, MODELS, make_set, run_figures

#: Tolerances of the results; those stored are from an AMD EPYC with AVX2. Without vector instructions
#: (``ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41``) the largest differences were 0.009 in a
#: loss, 0.004 in γ and β, and 0.0001 in a norm.
TOLERANCES = {"losses": 0.05, "gamma": 0.02, "beta": 0.02, "norms": 1e-3, "val_accuracy": 0.05}
#: The first losses have had no time to diverge (measured: 2e-6).
FIRST, FIRST_TOLERANCE = 2, 1e-4


@pytest.fixture(scope="module")
def pinned_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("pinned") / "set")


@pytest.mark.parametrize("name", MODELS)
def test_sixty_steps_give_the_stored_figures(name: str, pinned_set: Path, tmp_path: Path) -> None:
    stored = json.loads(FIGURES.read_text())[name]
    computed = run_figures(name, pinned_set, tmp_path / "run")
    assert computed["losses"][:FIRST] == pytest.approx(
        stored["losses"][:FIRST], rel=FIRST_TOLERANCE
    )
    assert computed.keys() == stored.keys()
    assert computed["norms"].keys() == stored["norms"].keys()
    for kind, figures in stored.items():
        assert _flat(computed[kind]) == pytest.approx(_flat(figures), abs=TOLERANCES[kind]), kind


def _flat(figures: Any) -> list[float]:
    if isinstance(figures, dict):
        figures = [figures[key] for key in sorted(figures)]
    return [x for each in figures for x in _flat(each)] if isinstance(figures, list) else [figures]
