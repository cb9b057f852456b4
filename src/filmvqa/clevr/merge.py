"""Merging of a split's partial files into one scene file and one question file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from filmvqa.clevr.generator_settings import GeneratorSettings
from filmvqa.clevr.partial_files import (
    chunk_count,
    read_partial_questions,
    read_partial_scenes,
    shard_count,
)
from filmvqa.clevr.scene_file import Scene
from filmvqa.files import atomic_write
from filmvqa.layout import DatasetLayout
from filmvqa.worlds.schema import Info, Question, encode_json

_INFO = {"license": "Creative Commons Attribution (CC BY 4.0)", "version": "1.0"}


def merge_split(layout: DatasetLayout, settings: GeneratorSettings, split: str) -> None:
    """Write a split's scene file and question file.

    The question file is written last: its existence marks the split as complete.
    """
    images = settings.images[split]
    scenes = read_partial_scenes(layout, split, range(chunk_count(images)))
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


T = TypeVar("T", Scene, Question)


def write_array(path: Path, info: Info, key: str, records: Iterator[T]) -> None:
    """Write a CLEVR file ``{"info": ..., key: [...]}`` record by record, to bound memory."""
    with atomic_write(path) as stream:
        stream.write(b'{"info":' + encode_json(info) + f',"{key}":['.encode())
        for i, record in enumerate(records):
            stream.write((b",\n" if i else b"\n") + encode_json(record))
        stream.write(b"\n]}\n")
