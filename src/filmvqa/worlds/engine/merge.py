"""Merging of a split's partial files into one scene file and one question file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filmvqa.system.files import atomic_write
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.maker import Maker
from filmvqa.worlds.engine.partial_files import (
    chunk_count,
    read_partial_questions,
    read_partial_scenes,
    shard_count,
)
from filmvqa.worlds.engine.schema import Info, Question, encode_json
from filmvqa.worlds.engine.set_settings import SetSettings

_INFO = {"license": "Creative Commons Attribution (CC BY 4.0)", "version": "1.0"}


def merge_split(maker: Maker, layout: DatasetLayout, settings: SetSettings, split: str) -> None:
    """Write a split's scene file and question file.

    The question file is written last: its existence marks the split as complete.
    """
    images = settings.images[split]
    scenes = read_partial_scenes(layout, split, range(chunk_count(images)), maker.scene_type)
    info = Info(split=split, date=settings.date, **_INFO)
    write_array(layout.scene_json(split), info, "scenes", scenes)
    questions = read_partial_questions(layout, split, range(shard_count(images)))
    write_array(
        layout.question_json(split),
        info,
        "questions",
        (_numbered(q, i, split in settings.withhold) for i, q in enumerate(questions)),
    )


def _numbered(question: Question, number: int, withhold: bool) -> Question:
    question.question_index = number
    if withhold:
        question.answer = question.program = question.question_family_index = None
        question.objects = None
    return question


def write_array(path: Path, info: Info, key: str, records: Iterator[Any]) -> None:
    """Write a CLEVR file ``{"info": ..., key: [...]}`` record by record, to bound memory."""
    with atomic_write(path) as stream:
        stream.write(b'{"info":' + encode_json(info) + f',"{key}":['.encode())
        for i, record in enumerate(records):
            stream.write((b",\n" if i else b"\n") + encode_json(record))
        stream.write(b"\n]}\n")
