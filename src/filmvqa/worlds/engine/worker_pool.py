"""Worker processes that exit with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, get_start_method, set_start_method
from multiprocessing.connection import Connection, wait

from filmvqa.system.errors import UserError
from filmvqa.system.signals import ENDING


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes that have all exited when the context ends.

    If the context ends with an exception, they exit at once, without finishing their jobs.

    Raises
    ------
    UserError
        If a worker is killed.
    """
    context = get_context("spawn")
    if get_start_method(allow_none=True) == "loky":  # of joblib; unknown in new processes
        set_start_method("spawn", force=True)
    parent_lives, held_by_parent = context.Pipe(duplex=False)
    # Not a context manager, whose ``shutdown`` would revoke ``cancel_futures``.
    pool = ProcessPoolExecutor(workers, context, _exit_with_parent, (parent_lives,))
    try:
        yield pool
    except BaseException as error:
        held_by_parent.close()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed, most likely because memory ran out; run the same "
                "command again with fewer workers=<number>; finished files are kept"
            ) from None
        raise
    else:
        pool.shutdown()
    finally:
        held_by_parent.close()
        parent_lives.close()


def _exit_with_parent(parent_lives: Connection) -> None:
    """Make this worker process exit when its parent closes its end of a pipe, or dies.

    A terminal sends signals such as SIGINT to workers and parent alike. Workers ignore them, and
    the parent decides when to stop. A worker may exit at any moment, since every file is written
    to a temporary name and renamed when it is complete.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        wait([parent_lives])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
