"""Work as a user to whom permissions apply, even if root runs the tests."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

#: Forked children inherit what a test has patched.
FORK = multiprocessing.get_context("fork")
_NOBODY = 65534


def as_nobody(work: Callable[[], None]) -> None:
    """Run ``work`` in another process, whose failure fails the test."""

    def run() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        work()

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0
