"""Intervals in reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.tasks.reports import wilson_interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # R: prop.test(x, n, correct = FALSE)
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (81, 263, 0.25525, 0.36619),
        (0, 0, 0.0, 1.0),  # no observations
    ],
)
def test_wilson_intervals_agree_with_r(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 10**6), st.data())
def test_wilson_intervals_contain_the_observed_fraction(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1
