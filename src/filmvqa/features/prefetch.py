"""Results computed ahead of their use."""

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
    """``function(item)`` for each item, in order, computed by threads up to ``depth`` items ahead.

    An exception is raised where its item's result would have come. Closing the generator waits for
    calls that have begun and drops the others; with ``finish`` it waits for all of them.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        try:
            pending.extend(pool.submit(function, item) for item in islice(source, depth))
            while pending:
                pending.extend(pool.submit(function, item) for item in islice(source, 1))
                yield pending.popleft().result()  # no name here keeps a result alive
        finally:
            if not finish:
                for future in pending:
                    future.cancel()
