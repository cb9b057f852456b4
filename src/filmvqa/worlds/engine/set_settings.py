"""The settings that all generated sets have, and their record in the set's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from msgspec import Meta

from filmvqa.settings.nested import differences
from filmvqa.settings.typed import Settings
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes, write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.families import Family
from filmvqa.worlds.engine.schema import decode_json, encode_json

REMEDY = "delete it and generate the set again"
#: Names of splits, which are part of CLEVR's file names.
Identifier = Annotated[
    str, Meta(pattern=r"^[^\W\d]\w*$", description="a name of letters, digits and _")
]


class SetSettings(Protocol):
    """The settings of a generated set that every world has. All settings together determine every
    byte of the set.

    Attributes
    ----------
    images
        Number of images (or of the world's scenes) of each split; a split with 0 is not generated.
    seed
        Random seed of scenes and questions.
    questions_per_image
        Maximal number of questions about one image.
    short_questions
        Share of the questions that are short (``ShortQuestions``), by split; None disables them.
    families
        Groups and numbers of the question families to use; None selects all of them.
    templates
        Folder of question templates; None selects those of the world.
    withhold
        Splits whose questions have no answers.
    date
        Date in the ``info`` of the JSON files.
    """

    @property
    def images(self) -> Mapping[str, int]: ...
    @property
    def seed(self) -> int: ...
    @property
    def questions_per_image(self) -> int: ...
    @property
    def short_questions(self) -> Mapping[str, float] | None: ...
    @property
    def families(self) -> list[str | int] | None: ...
    @property
    def templates(self) -> str | None: ...
    @property
    def withhold(self) -> tuple[str, ...]: ...
    @property
    def date(self) -> str: ...


@dataclass(frozen=True)
class SetKind:
    """A kind of generated set.

    Attributes
    ----------
    settings
        The class of the settings.
    world
        The world, as an argument of ``read_world``.
    prefix
        Prefix of the names of the set's files.
    program
        The program that generates these sets.
    """

    settings: type[Settings]
    world: str
    prefix: str
    program: str


#: The kinds of generated sets by the key of their settings below ``data``, such as ``sound``.
SET_KINDS: dict[str, SetKind] = {}

S = TypeVar("S", bound=Settings)


def register_set_settings(*, world: str, prefix: str, program: str) -> Callable[[type[S]], type[S]]:
    """Register the class of the settings of a world's sets (decorator).

    The settings are a ``SetSettings``. Their key below ``data`` is the last part of their ``node``.
    The parameters are the attributes of ``SetKind``.
    """

    def register(settings: type[S]) -> type[S]:
        key = settings.node.rpartition(".")[2]
        SET_KINDS[key] = SetKind(settings, world, prefix, program)
        return settings

    return register


def record_settings(
    layout: DatasetLayout, settings: SetSettings, families: Sequence[Family]
) -> None:
    """Write ``generation.json``, or compare the settings with those that it records.

    A hash of ``families``, those of the settings, is recorded too.

    Raises
    ------
    UserError
        If the recorded settings or families differ, or if the folder contains questions but no
        ``generation.json``.
    """
    families_sha256 = hashlib.sha256(encode_json(families)).hexdigest()
    current = encode_json(msgspec.to_builtins(settings) | {"families_sha256": families_sha256})
    recorded = check_version(layout)
    if recorded is None:
        if layout.questions.exists():
            raise UserError(
                f"{layout.root}: contains questions but no {layout.generator_settings.name}, so "
                "the set was not generated here; choose another folder"
            )
        write_file(layout.generator_settings, msgspec.json.format(current, indent=1) + b"\n")
        return
    other_families = recorded.pop("families_sha256") != families_sha256
    changed = differences(recorded, msgspec.json.decode(encode_json(settings)))
    if other_families and not {"families", "templates"} & {text.split()[0] for text in changed}:
        changed.append("the question templates differ")
    if changed:
        raise UserError(
            f"{layout.root}: contains a set generated with other settings "
            f"({'; '.join(changed)}); use the same settings or another folder, or delete it"
        )


def check_version(layout: DatasetLayout) -> dict[str, Any] | None:
    """The recorded settings of a generated set; None for a set that was not generated.

    Raises
    ------
    UserError
        If an earlier version generated the set, since its question families have other numbers.
    """
    path = layout.generator_settings
    if not path.exists():
        return None
    recorded = decode_json(read_bytes(path, REMEDY), dict[str, Any], path, REMEDY)
    if recorded.get("families_sha256") is None:
        raise UserError(
            f"{path}: was generated by an earlier version, with other numbers of question families "
            "and other scenes; generate a set in another folder"
        )
    return recorded
