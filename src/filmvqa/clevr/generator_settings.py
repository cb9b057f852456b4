"""The settings of a generated set, and their record in the set's folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from filmvqa.clevr.scenes import SceneRules
from filmvqa.clevr.schema import decode_json, encode_json
from filmvqa.errors import UserError
from filmvqa.files import read_bytes, write_file
from filmvqa.layout import DatasetLayout
from filmvqa.nested import differences

REMEDY = "delete it and run generate_clevr.py again"


@dataclass(frozen=True)
class GeneratorSettings:
    """Settings that determine every byte of a generated set.

    Attributes
    ----------
    images
        Number of images of each split; a split with 0 images is not generated.
    width, height
        Image size in pixels.
    rays
        Each pixel near an object is sampled by ``rays`` × ``rays`` rays, the ground's others by at
        most 2 × 2, which suffice there.
    seed
        Seed of scenes and questions.
    questions_per_image
        Maximal number of questions about one image.
    families
        Groups and numbers of the question families to use; None selects all of them.
    templates
        Folder of question templates; None selects the templates of this package.
    withhold
        Splits whose questions have no answers, as CLEVR's test split has none.
    rgba
        Whether images are opaque RGBA, as the release's are, or RGB, which takes less room.
    masks
        Whether to write object masks.
    date
        Date in the ``info`` of the JSON files. It is a setting, because the current date would
        make the bytes differ from run to run.
    rules
        Constraints on the scenes.
    """

    images: dict[str, int]
    width: int = 480
    height: int = 320
    rays: int = 2
    seed: int = 0
    questions_per_image: int = 10
    families: list[str | int] | None = None
    templates: str | None = None
    withhold: tuple[str, ...] = ("test",)
    rgba: bool = False
    masks: bool = False
    date: str = "2026-11-23"
    rules: SceneRules = field(default_factory=SceneRules)

    def __post_init__(self) -> None:
        for split, count in self.images.items():
            if not split.isidentifier() or count < 0:
                raise UserError(
                    f"images.{split}={count}; the name must be an identifier, the number at least 0"
                )
            if count:
                self.rules.for_split(split)
        if min(self.width, self.height) < 16 or not 1 <= self.rays <= 16:
            raise UserError(
                f"width={self.width}, height={self.height}, rays={self.rays}; use width and height "
                "of at least 16 and rays from 1 to 16"
            )


def record_settings(layout: DatasetLayout, settings: GeneratorSettings) -> None:
    """Write ``generation.json``, or compare the settings with those it already records.

    Raises
    ------
    UserError
        If the recorded settings differ from ``settings``, or if the folder contains questions but
        no ``generation.json``.
    """
    path, wanted = layout.generator_settings, msgspec.to_builtins(settings)
    if path.exists():
        recorded = decode_json(
            read_bytes(path, REMEDY),
            dict[str, Any],
            path,
            REMEDY,
        )
        wanted = msgspec.json.decode(msgspec.json.encode(wanted))
        if recorded != wanted:
            changed = differences(recorded, wanted)
            raise UserError(
                f"{layout.root}: contains a set generated with other settings "
                f"({'; '.join(changed)}); use the same settings or another folder, or delete it"
            )
        return
    if layout.questions.exists():
        raise UserError(
            f"{layout.root}: contains questions but no {path.name}, so the set was not "
            "generated here; choose another folder"
        )
    write_file(path, msgspec.json.format(encode_json(wanted), indent=1) + b"\n")
