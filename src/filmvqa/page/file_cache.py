"""Contents of files that are read again only after the files have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from filmvqa.system.files import Stamp, stamp_of

T = TypeVar("T")


class FileCache(Generic[T]):
    """The contents of files and folders, by path, for a page that stays open for days."""

    def __init__(self) -> None:
        self._contents: dict[Path, tuple[Stamp, T]] = {}

    def get(self, path: Path, read: Callable[[], T]) -> T:
        """The content that ``read`` returned when ``path`` last changed."""
        stamp = stamp_of(path)
        if path not in self._contents or self._contents[path][0] != stamp:
            self._contents[path] = stamp, read()
        return self._contents[path][1]
