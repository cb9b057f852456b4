"""How the sets of a world are made: what the shared machinery must know of the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filmvqa.system.files import write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.families import Family, read_families
from filmvqa.worlds.engine.partial_files import chunks_of_shard, read_partial_scenes
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import encode_json
from filmvqa.worlds.engine.set_settings import SetSettings
from filmvqa.worlds.engine.world import World, read_world


@dataclass(frozen=True)
class Maker:
    """A world's share in the making of sets.

    Its functions are those of modules, which worker processes import by name.

    Attributes
    ----------
    world_name
        The world, as ``read_world`` takes it.
    scene_type
        The record of a scene, as ``SceneRecord`` says.
    draw_chunk
        ``draw_chunk(layout, settings, split, indices, chunk)`` makes some images of a split, which
        depend only on settings, split and index, and writes their scenes to partial file number
        ``chunk``, unless that is None; returns the number of images.
    layout
        The layout of a set below a folder.
    folders
        ``folders(layout, settings, split)``: the folders that have one file an image.
    file_name
        ``file_name(split, index)``: the name of that file.
    bytes_per_image
        Upper estimate for one image.
    unit
        What a progress bar counts.
    """

    world_name: str
    scene_type: type[Any]
    draw_chunk: Callable[[DatasetLayout, Any, str, list[int], int | None], int]
    layout: Callable[[str | Path], DatasetLayout]
    folders: Callable[[DatasetLayout, Any, str], Sequence[Path]]
    file_name: Callable[[str, int], str]
    bytes_per_image: Callable[[Any], int]
    unit: str = "images"

    @property
    def world(self) -> World:
        return read_world(self.world_name)

    def read_families(self, settings: SetSettings) -> list[Family]:
        """The question families of the settings; ``UserError`` for an invalid template."""
        return read_families(settings.templates, settings.families, self.world)


def generate_questions(
    maker: Maker, layout: DatasetLayout, settings: SetSettings, split: str, shard: int
) -> int:
    """Generate the questions of one shard and write its partial file.

    Returns
    -------
    int
        Number of questions.
    """
    chunks = chunks_of_shard(shard, settings.images[split])
    questions = ask_shard(
        list(read_partial_scenes(layout, split, chunks, maker.scene_type)),
        maker.read_families(settings),
        settings.questions_per_image,
        f"{settings.seed}/{split}/{shard}",
        maker.world,
    )
    write_file(layout.partial_json(split, "questions", shard), encode_json(questions))
    return len(questions)
