from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from filmvqa.training.loggers import JsonlLogger


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are listed in /proc")
def test_a_dropped_logger_leaves_no_descriptor(tmp_path: Path) -> None:
    count = lambda: len(list(Path("/proc/self/fd").iterdir()))  # noqa: E731
    before = count()
    for _ in range(10):
        logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.close()
    logger.close()
    gc.collect()
    assert count() == before
