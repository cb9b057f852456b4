"""How an answer changes with one attribute of one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from filmvqa.page.networks import Network
from filmvqa.page.subjects import parser
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.vqa import Answer
from filmvqa.worlds.clevr.editing import EditedScene
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES

#: The number of pictures that are drawn and answered together.
_BATCH = 16


@dataclass(frozen=True)
class Change:
    """One attribute of one object with another value."""

    number: int
    attribute: str
    value: str


@dataclass(frozen=True)
class Outcome:
    """A network's answer after a change, and the true answer, if known."""

    change: Change
    answer: Answer
    truth: str | None


def list_changes(scene: EditedScene) -> list[Change]:
    """All changes of one attribute of one object."""
    return [
        Change(number, attribute, value)
        for number, placed in enumerate(scene.objects)
        for attribute, values in ATTRIBUTES.items()
        for value in values
        if value != getattr(placed, attribute)
    ]


def try_changes(
    network: Network,
    scene: EditedScene,
    question: str,
    *,
    size: tuple[int, int],
    change: FilmSettings | None = None,
    progress: Callable[[float], None] = lambda share: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Answer, list[Outcome]]:
    """The answers to a question before and after each change, for pictures of ``size`` (H, W).

    ``change`` changes γ and β for all of them. ``progress`` receives the share of finished changes.
    If ``stopped`` returns True, no more changes are tried.
    """
    height, width = size
    (before,) = network.answers([scene.render(width, height).image], question, change)
    outcomes: list[Outcome] = []
    changes = list_changes(scene)
    for first in range(0, len(changes), _BATCH):
        batch = changes[first : first + _BATCH]
        if stopped():
            break
        scenes = [scene.with_object(c.number, **{c.attribute: c.value}) for c in batch]
        pictures = [s.render(width, height).image for s in scenes]
        answers = network.answers(pictures, question, change)
        truths = [parser().true_answer(question, s.index()) for s in scenes]
        outcomes += map(Outcome, batch, answers, truths)
        progress(len(outcomes) / len(changes))
    return before, outcomes
