"""Output beside a program's work, such as figures and loggers, whose failure never ends that
work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filmvqa.system.errors import UserError, one_line, warn


@contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """A block, or decorated function, whose failure is one warning; ``what`` names its output."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{what} ({one_line(error)})"
        warn(f"{reason}; continuing without it")


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """A block in which environment variables have other values."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
