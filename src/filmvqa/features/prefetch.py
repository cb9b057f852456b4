"""Compute results ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int = 1,
    depth: int,
    finish: bool = False,
) -> Generator[R]:
    """Yield ``function(item)`` for each item, in order, computed in threads ``depth`` items ahead.

    An exception is raised in place of its item's result. Closing the generator waits for calls that
    have started and cancels the others; with ``finish``, it waits for all of them.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        try:
            pending.extend(pool.submit(function, item) for item in islice(source, depth))
            while pending:
                pending.extend(pool.submit(function, item) for item in islice(source, 1))
                yield pending.popleft().result()  # without a name that would keep the result alive
        finally:
            if not finish:
                for future in pending:
                    future.cancel()
