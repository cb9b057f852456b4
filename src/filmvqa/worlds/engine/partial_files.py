"""Partial files of a split: one file of scenes per chunk, one file of questions per shard.

They are kept in the set's ``.partial`` folder until the split is merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from filmvqa.system.files import read_bytes
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.questions import IMAGES_PER_SHARD
from filmvqa.worlds.engine.schema import Question, decode_json
from filmvqa.worlds.engine.set_settings import REMEDY

IMAGES_PER_CHUNK = 50


def chunk_count(images: int) -> int:
    """Return the number of chunks in a split of ``images`` images."""
    return -(-images // IMAGES_PER_CHUNK)


def shard_count(images: int) -> int:
    """Return the number of shards in a split of ``images`` images."""
    return -(-images // IMAGES_PER_SHARD)


def chunks_of_shard(shard: int, images: int) -> range:
    """Return the numbers of the chunks of one shard, in a split of ``images`` images."""
    per_shard = IMAGES_PER_SHARD // IMAGES_PER_CHUNK
    return range(shard * per_shard, min((shard + 1) * per_shard, chunk_count(images)))


def images_of_chunk(chunk: int, images: int) -> range:
    """Return the indices of the images of one chunk, in a split of ``images`` images."""
    return range(chunk * IMAGES_PER_CHUNK, min((chunk + 1) * IMAGES_PER_CHUNK, images))


def is_merged(layout: DatasetLayout, split: str) -> bool:
    """Return whether a split's partial files have been merged."""
    return layout.question_json(split).exists() and layout.scene_json(split).exists()


T = TypeVar("T")


def read_partial_scenes(
    layout: DatasetLayout, split: str, chunks: range, scene_type: type[T]
) -> Iterator[T]:
    """Read the scenes of the given chunks, records of ``scene_type``, in order.

    Raises
    ------
    UserError
        If a file is missing or damaged.
    """
    for k in chunks:
        path = layout.partial_json(split, "scenes", k)
        yield from decode_json(read_bytes(path, REMEDY), list[scene_type], path, REMEDY)  # type: ignore[valid-type]


def read_partial_questions(layout: DatasetLayout, split: str, shards: range) -> Iterator[Question]:
    """Read the questions of the given shards in order.

    Raises
    ------
    UserError
        If a file is missing or damaged.
    """
    for k in shards:
        path = layout.partial_json(split, "questions", k)
        yield from decode_json(read_bytes(path, REMEDY), list[Question], path, REMEDY)
