"""Subjects of questions: generated or edited scenes, pictures of a data set, uploads."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filmvqa.features.images import (
    MAX_PIXELS,
    PILLOW_ERRORS,
    as_shown,
    find_pictures,
    read_picture,
)
from filmvqa.page.file_cache import FileCache
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.parsing import QuestionParser
from filmvqa.worlds.clevr.scene_file import Scene, read_scenes
from filmvqa.worlds.engine.families import REFERRING, Family, read_families
from filmvqa.worlds.engine.programs import SceneIndex
from filmvqa.worlds.engine.questions import QuestionGenerator
from filmvqa.worlds.engine.schema import Question

#: The size of drawn scenes, which is CLEVR's.
WIDTH, HEIGHT = 480, 320
#: The size of scenes while an object is dragged.
_QUICK_WIDTH, _QUICK_HEIGHT = 360, 240
#: The number of pixels of a picture to which CLEVR's rule on hidden objects refers.
_RULE_PIXELS = 320 * 240
MAX_UPLOAD = 8 * 2**20
_MAX_RATIO = 3
#: The scene that a visitor sees first.
FIRST_SEED = 1


@dataclass(frozen=True)
class Subject:
    """A picture, and its scene if known.

    Attributes
    ----------
    title
        The source of the picture.
    picture
        (H, W, 3).
    scene
        The objects and their relations; None if unknown.
    edited
        The scene in a form that can be edited and drawn; None if the picture was not drawn here.
    problems
        CLEVR's constraints that the scene violates.
    """

    title: str
    picture: NDArray[np.uint8]
    scene: Scene | None = None
    edited: EditedScene | None = None
    problems: Sequence[str] = ()

    @property
    def description(self) -> str:
        """The alternative text of the picture."""
        objects = [] if self.scene is None else self.scene.objects
        things = [
            f"{i}. {o.size} {o.color} {o.material} {o.shape}" for i, o in enumerate(objects, 1)
        ]
        return f"{self.title}: {', '.join(things)}" if things else self.title

    @cached_property
    def index(self) -> SceneIndex | None:
        return None if self.scene is None else SceneIndex(self.scene)

    def true_answer(self, question: str) -> str | None:
        """The true answer; None if the scene or the question's program is unknown."""
        return None if self.index is None else parser().true_answer(question, self.index)

    def questions(
        self, seed: int, count: int, suits: Callable[[str], bool], *, referring: bool = False
    ) -> list[Question]:
        """Up to ``count`` suitable questions of the generator about the scene with their answers,
        or (``referring``) expressions that refer to its objects."""
        if self.scene is None:
            return []
        generator = QuestionGenerator(
            families(REFERRING if referring else None), random.Random(seed)
        )
        questions = generator.ask(self.scene, 4 * count)
        return [question for question in questions if suits(question.question)][:count]


@cache
def families(templates: str | None = None) -> list[Family]:
    """CLEVR's question families, or those of a folder of templates."""
    return read_families(templates)


@cache
def parser() -> QuestionParser:
    """The parser of CLEVR's questions."""
    return QuestionParser(families())


def draw_scene(edited: EditedScene, title: str) -> Subject:
    """The subject of a scene, with the constraints that it violates."""
    rendered = edited.render(WIDTH, HEIGHT)
    visible = np.round(rendered.visible * (_RULE_PIXELS / (WIDTH * HEIGHT)))
    problems = edited.problems(visible.astype(np.int64))
    return Subject(title, rendered.image, edited.scene(WIDTH, HEIGHT), edited, problems)


def draw_preview(subject: Subject, edited: EditedScene) -> Subject:
    """The subject of a scene while it is being changed: drawn coarsely, and not checked for hidden
    objects."""
    coarse = edited.render(_QUICK_WIDTH, _QUICK_HEIGHT, rays=1).image
    picture = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    scene = edited.scene(WIDTH, HEIGHT)
    return replace(subject, picture=picture, scene=scene, edited=edited, problems=edited.problems())


def read_upload(content: bytes, name: str) -> Subject:
    """The subject of an uploaded picture, which stays in memory.

    Raises
    ------
    UserError
        If it is too large or narrow, or no PNG or JPEG, or as ``as_shown``.
    """
    shown = Path(name.replace("\\", "/")).name or "the picture"
    if len(content) > MAX_UPLOAD:
        raise UserError(f"{shown}: larger than {MAX_UPLOAD >> 20} MB; give a smaller picture")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS:
                raise UserError(f"{shown}: {width}×{height} pixels; resize it")
            picture = as_shown(image, shown)
    except PILLOW_ERRORS:
        raise UserError(f"{shown}: cannot be read as an image; give a PNG or JPEG") from None
    if max(picture.size) > _MAX_RATIO * min(picture.size):
        raise UserError(f"{shown}: {width}×{height} pixels, too narrow; crop it")
    picture.thumbnail((2 * WIDTH, 2 * HEIGHT))
    return Subject(shown, np.asarray(picture))


class PictureSet:
    """The pictures of a data set and their scenes. A split is listed and read again only if its
    folder or file has changed."""

    def __init__(self, layout: DatasetLayout) -> None:
        self.layout = layout
        self._pictures = FileCache[dict[int, Path]]()
        self._scenes = FileCache[dict[int, Scene]]()

    @property
    def splits(self) -> list[str]:
        return self.layout.image_splits()

    def indices(self, split: str) -> Sequence[int]:
        """The sorted indices of a split's pictures; none for a missing split."""
        return sorted(self._pictures_of(split))

    def _pictures_of(self, split: str) -> dict[int, Path]:
        if split not in self.splits:  # other texts must not become part of a path
            return {}
        folder = self.layout.image_folder(split)
        return self._pictures.get(folder, lambda: find_pictures(folder))

    def has_scenes(self, split: str) -> bool:
        return self.layout.scene_json(split).exists()

    def scenes(self, split: str) -> dict[int, Scene]:
        """The scenes of a split by image index; none if they are unknown."""
        if split not in self.splits or not self.has_scenes(split):
            return {}
        path = self.layout.scene_json(split)
        return self._scenes.get(path, lambda: {s.image_index: s for s in read_scenes(path).scenes})

    def subject(self, split: str, index: int) -> Subject:
        """The subject of a split's picture.

        Raises
        ------
        UserError
            If it is missing, or cannot be read.
        """
        path = self._pictures_of(split).get(index)
        if path is None:
            raise UserError(f"{split} {index}: the data set has no such picture")
        picture = read_picture(path, path.name)
        return Subject(f"{split} {index}", picture, self.scenes(split).get(index))
