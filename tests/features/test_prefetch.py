from __future__ import annotations

import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.features.prefetch import prefetch


@given(st.lists(st.integers()), st.integers(1, 4), st.integers(1, 7))
def test_results_come_in_order(items: list[int], threads: int, depth: int) -> None:
    results = prefetch(lambda x: x + 1, iter(items), threads=threads, depth=depth)
    assert list(results) == [x + 1 for x in items]


def test_an_error_is_raised_in_place_of_its_result() -> None:
    results = prefetch(lambda x: 1 // x, [2, 1, 0, 1], depth=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_it_reads_ahead_by_its_depth_and_stops_when_closed() -> None:
    begun: list[int] = []
    taken: list[int] = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    with closing(prefetch(begun.append, items(), depth=3)) as results:
        next(results)
        assert len(taken) == 4  # the one that was returned, and three ahead
    assert set(begun) <= set(taken)
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())
