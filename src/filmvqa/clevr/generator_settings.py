"""The settings of a generated set, and their record in the set's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from filmvqa.clevr.scene_rules import SceneRules
from filmvqa.errors import UserError
from filmvqa.files import read_bytes, write_file
from filmvqa.layout import DatasetLayout
from filmvqa.nested import differences
from filmvqa.settings import Name, Natural, PathText, Positive, Seed, Settings, SplitName
from filmvqa.worlds.families import Family
from filmvqa.worlds.schema import decode_json, encode_json

REMEDY = "delete it and run generate_clevr.py again"

#: Sides of images in pixels.
_Side = Annotated[int, Meta(ge=16, le=16384)]
#: Names of splits, of which CLEVR's file names are made.
_Identifier = Annotated[
    str, Meta(pattern=r"^[^\W\d]\w*$", description="a name of letters, digits and _")
]


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

    node: ClassVar[str] = "data.generator"

    images: dict[_Identifier, Natural]
    width: _Side = 480
    height: _Side = 320
    rays: Annotated[int, Meta(ge=1, le=16)] = 2
    seed: Seed = 0
    questions_per_image: Positive = 10
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


def record_settings(
    layout: DatasetLayout, settings: GeneratorSettings, families: Sequence[Family]
) -> None:
    """Write ``generation.json``, or compare the settings with those it already records.

    ``families`` are those of the settings; a hash of them is recorded with the settings.

    Raises
    ------
    UserError
        If the recorded settings or families differ, or if the folder contains questions but no
        ``generation.json``.
    """
    path = layout.generator_settings
    wanted = msgspec.to_builtins(settings) | {
        "families_sha256": hashlib.sha256(encode_json(families)).hexdigest(),
    }
    if path.exists():
        recorded = decode_json(
            read_bytes(path, REMEDY),
            dict[str, Any],
            path,
            REMEDY,
        )
        wanted = msgspec.json.decode(msgspec.json.encode(wanted))
        _compare(layout, recorded, wanted)
        return
    if layout.questions.exists():
        raise UserError(
            f"{layout.root}: contains questions but no {path.name}, so the set was not "
            "generated here; choose another folder"
        )
    write_file(path, msgspec.json.format(encode_json(wanted), indent=1) + b"\n")


def check_version(layout: DatasetLayout) -> None:
    """Raise ``UserError`` for a set that an earlier version generated, with other numbers of
    question families; sets that were not generated are not looked at."""
    path = layout.generator_settings
    if path.exists() and (
        decode_json(read_bytes(path, REMEDY), _Recorded, path, REMEDY).families_sha256 is None
    ):
        raise _earlier_version(layout)


class _Recorded(msgspec.Struct):
    families_sha256: str | None = None


def _earlier_version(layout: DatasetLayout) -> UserError:
    return UserError(
        f"{layout.generator_settings}: was generated by an earlier version, with other numbers of "
        "question families and other scenes; generate a set in another folder"
    )


def _compare(layout: DatasetLayout, recorded: dict[str, Any], wanted: dict[str, Any]) -> None:
    if "families_sha256" not in recorded:
        raise _earlier_version(layout)
    other_families = recorded.pop("families_sha256") != wanted.pop("families_sha256")
    changed = differences(recorded, wanted)
    if other_families and not {"families", "templates"} & {text.split()[0] for text in changed}:
        changed.append("the question templates are others")
    if changed:
        raise UserError(
            f"{layout.root}: contains a set generated with other settings "
            f"({'; '.join(changed)}); use the same settings or another folder, or delete it"
        )
