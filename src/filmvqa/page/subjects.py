"""What a visitor asks about: a scene of the generator or one's own, a data set's picture, an
upload."""

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
from filmvqa.system.errors import UserError
from filmvqa.system.files import Stamp, stamp_of
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.parsing import QuestionParser
from filmvqa.worlds.clevr.scene_file import Scene, read_scenes
from filmvqa.worlds.engine.families import REFERRING, Family, read_families
from filmvqa.worlds.engine.programs import SceneIndex
from filmvqa.worlds.engine.questions import QuestionGenerator
from filmvqa.worlds.engine.schema import Question

#: CLEVR's size, in which scenes are shown and asked about.
WIDTH, HEIGHT = 480, 320
#: While an object is dragged.
_QUICK_WIDTH, _QUICK_HEIGHT = 360, 240
#: In whose pixels CLEVR's rule about hidden objects counts.
_RULE_PIXELS = 320 * 240
MAX_UPLOAD = 8 * 2**20
_MAX_RATIO = 3
#: The scene that a visitor sees first.
FIRST_SEED = 1


@dataclass(frozen=True)
class Subject:
    """A picture, and what is known of it.

    Attributes
    ----------
    title
        Where it is from.
    picture
        (H, W, 3).
    scene
        Its objects and their relations; None for a picture of which nothing is known.
    edited
        What was drawn; None for a picture that cannot be drawn again.
    problems
        What CLEVR's constraints have against the scene.
    """

    title: str
    picture: NDArray[np.uint8]
    scene: Scene | None = None
    edited: EditedScene | None = None
    problems: Sequence[str] = ()

    @property
    def description(self) -> str:
        """What is seen, for who does not see the picture."""
        objects = [] if self.scene is None else self.scene.objects
        things = [
            f"{i}. {o.size} {o.color} {o.material} {o.shape}" for i, o in enumerate(objects, 1)
        ]
        return f"{self.title}: {', '.join(things)}" if things else self.title

    @cached_property
    def index(self) -> SceneIndex | None:
        return None if self.scene is None else SceneIndex(self.scene)

    def true_answer(self, question: str) -> str | None:
        """The answer that the scene gives; None if it or the question's program is not known."""
        return None if self.index is None else parser().true_answer(question, self.index)

    def questions(
        self, seed: int, count: int, suits: Callable[[str], bool], *, referring: bool = False
    ) -> list[Question]:
        """Up to ``count`` questions that the generator asks about the scene, with their answers, or
        (``referring``) expressions that refer to its objects."""
        if self.scene is None:
            return []
        templates = families(REFERRING if referring else None)
        asked = QuestionGenerator(templates, random.Random(seed)).ask(self.scene, 4 * count)
        return [question for question in asked if suits(question.question)][:count]


@cache
def families(templates: str | None = None) -> list[Family]:
    """All of CLEVR's question families, or those of some of its templates; kept by their name."""
    return read_families(templates)


@cache
def parser() -> QuestionParser:
    """There is one."""
    return QuestionParser(families())


def draw_scene(edited: EditedScene, title: str) -> Subject:
    """A scene as it is shown and asked about."""
    rendered = edited.render(WIDTH, HEIGHT)
    visible = np.round(rendered.visible * (_RULE_PIXELS / (WIDTH * HEIGHT)))
    problems = edited.problems(visible.astype(np.int64))
    return Subject(title, rendered.image, edited.scene(WIDTH, HEIGHT), edited, problems)


def draw_preview(subject: Subject, edited: EditedScene) -> Subject:
    """A scene while it is being changed: drawn coarsely, and without word about what is hidden."""
    coarse = edited.render(_QUICK_WIDTH, _QUICK_HEIGHT, rays=1).image
    picture = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    scene = edited.scene(WIDTH, HEIGHT)
    return replace(subject, picture=picture, scene=scene, edited=edited, problems=edited.problems())


def read_upload(content: bytes, name: str) -> Subject:
    """An uploaded picture, which stays in memory.

    Raises
    ------
    UserError
        If it is too large, or no PNG or JPEG, or as ``as_shown``.
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
    """The pictures of a data set, and what is known of their scenes: listed and read once a split,
    and again when the folder or the file has changed, since the page is open for days."""

    def __init__(self, layout: DatasetLayout) -> None:
        self.layout = layout
        self._pictures: dict[str, tuple[Stamp, dict[int, Path]]] = {}
        self._scenes: dict[str, tuple[Stamp, dict[int, Scene]]] = {}

    @property
    def splits(self) -> list[str]:
        return self.layout.image_splits()

    def indices(self, split: str) -> Sequence[int]:
        """The indices of a split's pictures, sorted; none for a split that is not there."""
        return list(self._pictures_of(split))

    def _pictures_of(self, split: str) -> dict[int, Path]:
        if split not in self.splits:  # nothing else becomes a part of a path
            return {}
        folder = self.layout.image_folder(split)
        known = self._pictures.get(split)
        if known is None or known[0] != stamp_of(folder):
            known = stamp_of(folder), dict(sorted(find_pictures(folder).items()))
            self._pictures[split] = known
        return known[1]

    def has_scenes(self, split: str) -> bool:
        return self.layout.scene_json(split).exists()

    def scenes(self, split: str) -> dict[int, Scene]:
        """The scenes of a split by index; none if they are not known."""
        if split not in self.splits or not self.has_scenes(split):
            return {}
        path, known = self.layout.scene_json(split), self._scenes.get(split)
        if known is None or known[0] != stamp_of(path):
            stamp = stamp_of(path)
            known = stamp, {scene.image_index: scene for scene in read_scenes(path).scenes}
            self._scenes[split] = known
        return known[1]

    def subject(self, split: str, index: int) -> Subject:
        """A picture of a split.

        Raises
        ------
        UserError
            If it is not there, or cannot be read.
        """
        path = self._pictures_of(split).get(index)
        if path is None:
            raise UserError(f"{split} {index}: the data set has no such picture")
        picture = read_picture(path, path.name)
        return Subject(f"{split} {index}", picture, self.scenes(split).get(index))
