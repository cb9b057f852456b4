"""Parts of a set, which jobs of a cluster make side by side on a file system that they share.

A part is a row of shards, counted over all splits. It writes the same images and partial files as a
process that makes the whole set. Each part is locked in the set's ``.partial`` folder while it is
made; the set itself is locked only while a part begins, and while the set is merged.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

from filmvqa.system.errors import UserError
from filmvqa.system.files import names_in
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.engine.partial_files import chunks_of_shard, is_merged, shard_count
from filmvqa.worlds.engine.set_settings import SetSettings

_LOCK = re.compile(r"\.(part_\d+_of_(\d+))\.lock")
#: How many numbers of parts a message lists.
_LISTED = 20


@dataclass(frozen=True)
class Part:
    """Part ``number``, from 0, of ``count``."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    def lock(self, layout: DatasetLayout) -> AbstractContextManager[None]:
        """Hold the part's lock; ``UserError`` if another process makes the part."""
        return folder_lock(layout.partial, f"part_{self.number}_of_{self.count}")

    def shards(self, settings: SetSettings) -> list[tuple[str, int]]:
        """Split and number of each shard of the part.

        Raises
        ------
        UserError
            If the set has fewer shards than parts.
        """
        shards = all_shards(settings)
        if len(shards) < self.count:
            raise UserError(
                f"parts={self.count}: the set can be made in {len(shards)} parts at most; lower it"
            )
        first, end = (len(shards) * k // self.count for k in (self.number, self.number + 1))
        return shards[first:end]


def all_shards(settings: SetSettings) -> list[tuple[str, int]]:
    """Split and number of each shard of a set."""
    counts = settings.images.items()
    return [(split, k) for split, images in counts for k in range(shard_count(images))]


def missing_parts(layout: DatasetLayout, settings: SetSettings, count: int) -> list[int]:
    """The numbers of the parts of ``count`` that are not made to their end."""
    parts = [Part(k, count) for k in range(count)]
    return [
        part.number
        for part in parts
        if not all(_is_made(layout, settings, *shard) for shard in part.shards(settings))
    ]


def _is_made(layout: DatasetLayout, settings: SetSettings, split: str, shard: int) -> bool:
    chunks = chunks_of_shard(shard, settings.images[split])
    files = [layout.partial_json(split, "scenes", chunk) for chunk in chunks]
    files.append(layout.partial_json(split, "questions", shard))
    # In this order: partial files are removed after the split has been merged.
    return all(path.exists() for path in files) or is_merged(layout, split)


def said_missing(numbers: list[int], count: int) -> str:
    """Which parts are missing, for a message."""
    listed = ", ".join(map(str, numbers[:_LISTED]))
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    parts, are = ("part", "is") if len(numbers) == 1 else ("parts", "are")
    return f"{parts} {listed}{more} of {count} {are} missing"


def refuse_running_parts(layout: DatasetLayout, but_of: int | None = None) -> None:
    """Raise ``UserError`` if a part is being made; ``but_of``: of another number of parts than
    this. The set's lock must be held, so that no part begins meanwhile."""
    for name in names_in(layout.partial):
        if (match := _LOCK.fullmatch(name)) and match[2] != str(but_of):
            with folder_lock(layout.partial, match[1]):
                pass
