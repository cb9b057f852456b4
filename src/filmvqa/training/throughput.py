"""Training speed, and time spent waiting for batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from filmvqa.evaluation.batches import Loader


class ThroughputMeter:
    """Measures questions per second, and the share of time spent waiting for batches."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._restart()

    def _restart(self) -> None:
        self._started, self._waited = time.monotonic(), self._loader.waited

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block, and its waiting for batches."""
        started, waited = time.monotonic(), self._loader.waited
        yield
        self._started += time.monotonic() - started
        self._waited += self._loader.waited - waited

    def take(self, questions: int) -> dict[str, float]:
        """Return the entries of a record in ``metrics.jsonl``, and restart the meter.

        ``questions`` is the number of questions since the last record.
        """
        seconds = time.monotonic() - self._started
        record = {
            "questions_per_second": questions / seconds,
            "waited": (self._loader.waited - self._waited) / seconds,
        }
        if self._loader.store.placement == "stream":
            record["megabytes_read_per_second"] = self._loader.store.rate / 1e6
        self._restart()
        return record
