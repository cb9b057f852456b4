"""The settings of a generated CLEVR set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.settings.typed import (
    Name,
    Natural,
    PathText,
    Positive,
    Probability,
    Seed,
    Settings,
    SplitName,
)
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.engine.set_settings import Identifier, register_set_settings

#: Sides of images in pixels.
_Side = Annotated[int, Meta(ge=16, le=16384)]


@register_set_settings(world="clevr", prefix="CLEVR", program="generate_clevr")
@dataclass(frozen=True)
class GeneratorSettings(Settings):
    """Settings that determine every byte of a generated set.

    Attributes
    ----------
    images
        Number of images of each split; a split with 0 images is not generated.
    width, height
        Image size in pixels.
    rays
        Each pixel near an object is sampled by ``rays`` × ``rays`` rays; other pixels show only the
        ground and need at most 2 × 2.
    seed
        Random seed of scenes and questions.
    questions_per_image
        Maximal number of questions about one image.
    short_questions
        Share of the questions about an image that are short, as people type them
        (``ShortQuestions``), by split, rounded down; None disables them.
    families
        Groups and numbers of the question families to use; None selects all of them.
    templates
        Folder of question templates; None selects the templates of this package.
    withhold
        Splits whose questions have no answers, like CLEVR's test split.
    rgba
        Whether images are opaque RGBA, like the release's, instead of RGB, which is smaller.
    masks
        Whether to write object masks.
    date
        Date in the ``info`` of the JSON files. It is a setting, because the current date would
        make the bytes differ from run to run.
    rules
        Constraints on the scenes.
    """

    node: ClassVar[str] = "data.generator"

    images: dict[Identifier, Natural]
    width: _Side = 480
    height: _Side = 320
    rays: Annotated[int, Meta(ge=1, le=16)] = 2
    seed: Seed = 0
    questions_per_image: Positive = 10
    short_questions: dict[Identifier, Probability] | None = None
    families: Annotated[list[str | int], Meta(min_length=1)] | None = None
    templates: PathText | None = None
    withhold: tuple[SplitName, ...] = ("test",)
    rgba: bool = False
    masks: bool = False
    date: Name = "2026-11-23"
    rules: SceneRules = field(default_factory=SceneRules)

    def __post_init__(self) -> None:
        super().__post_init__()
        for split, count in self.images.items():
            if count:
                self.rules.for_split(split)
        # The default names test, which a set need not have.
        if unknown := set(self.withhold) - {*self.images, "test"}:
            raise UserError(
                f"{self.key_of('withhold')}={sorted(unknown)}: the splits of images are "
                f"{list(self.images)}"
            )
