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
    """Worker processes, which all have exited when the context is left; they exit at once, without
    finishing their jobs, if it is left by an exception.

    Raises
    ------
    UserError
        If a worker was killed.
    """
    context = get_context("spawn")
    if get_start_method(allow_none=True) == "loky":  # a job of joblib: new processes know no loky
        set_start_method("spawn", force=True)
    parent_lives, held_by_parent = context.Pipe(duplex=False)
    # Not as a context manager: its second ``shutdown`` would undo the cancelling of the first.
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

    Signals that ask for an end are sent to workers as well as to their parent. The workers ignore
    them and leave it to the parent when to stop. A worker may exit at any moment, since every file
    is written beside its name and moved there when it is whole.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        wait([parent_lives])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
