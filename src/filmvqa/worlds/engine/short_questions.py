"""Short questions, as people type them: how many objects of a kind there are, and whether there are
more of one kind than of another.

CLEVR balances answers, so large numbers are rare: 1.7% of its counts are above 5. Short questions
name few attributes, and their answers are not balanced.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.families import Family
from filmvqa.worlds.engine.instance import Instance
from filmvqa.worlds.engine.programs import Filter, SceneIndex, SceneRecord
from filmvqa.worlds.engine.schema import Question
from filmvqa.worlds.engine.wording import write_question
from filmvqa.worlds.engine.world import World

#: The number of attributes that name a kind is drawn from these: "things", "cubes", "red cubes".
_NAMED = (0, 1, 1, 2)
#: Maximal number of draws for each question, since a drawn question may have been asked already.
_TRIES = 20


def check_short_questions(families: Sequence[Family]) -> None:
    """Raise ``UserError`` if none of the families can ask a short question."""
    if not any(_counts_and_comparisons(families)):
        raise UserError(
            "short_questions: none of the question families counts the objects of a kind; add "
            "zero_hop to families, or ask no short questions"
        )


def _counts_and_comparisons(families: Sequence[Family]) -> tuple[list[Family], list[Family]]:
    """The families that count the objects of a kind, and those that compare two such counts."""
    count, compare = [], []
    for family in families:
        types = [node.type for node in family.template.nodes]
        if types == ["scene", "filter_count"]:
            count.append(family)
        elif types[:-1] == ["scene", "filter_count"] * 2:
            compare.append(family)
    return count, compare


class ShortQuestions:
    """Draws short questions about scenes of a world. If ``families`` can ask both, half of the
    questions ask for a number and half compare two numbers."""

    def __init__(self, families: Sequence[Family], rng: random.Random, world: World) -> None:
        self._groups = [group for group in _counts_and_comparisons(families) if group]
        self._rng = rng
        self._world = world

    def ask(self, scene: SceneRecord, number: int, others: Sequence[Question]) -> list[Question]:
        """Return up to ``number`` distinct questions about a scene that differ from ``others``."""
        scene_index = SceneIndex(scene, self._world)
        texts = {question.question for question in others}
        questions: list[Question] = []
        for _ in range(_TRIES * number):
            if len(questions) == number:
                break
            family = self._rng.choice(self._rng.choice(self._groups))
            filters = self._draw_filters(len(family.template.nodes) // 2)
            question = self._write(family, filters, scene, scene_index)
            if question.question not in texts:
                texts.add(question.question)
                questions.append(question)
        return questions

    def _draw_filters(self, number: int) -> list[Filter]:
        """Draw ``number`` distinct filters by values of the same attributes."""
        attributes = self._world.filter_attributes
        # Two filters need at least one attribute: "more things than things" makes no sense.
        named = self._rng.choice(_NAMED[number - 1 :])
        places = self._rng.sample(range(len(attributes)), min(named, len(attributes)))
        filters: list[Filter] = []
        while len(filters) < number:
            values: list[str | None] = [None] * len(attributes)
            for k in places:
                values[k] = self._rng.choice(self._world.attributes[attributes[k]])
            if tuple(values) not in filters:
                filters.append(tuple(values))
        return filters

    def _write(
        self, family: Family, filters: list[Filter], scene: SceneRecord, scene_index: SceneIndex
    ) -> Question:
        instance, remaining = Instance(family.template, scene_index), iter(filters)
        for node in family.template.nodes:
            values: Filter = next(remaining) if node.side_inputs else ()
            inputs = [instance.outputs[i] for i in node.inputs]
            instance.values.append(values)
            instance.outputs.append(node.apply(scene_index, inputs, values))
        text = write_question(family.template, instance.parameters(), self._rng, self._world)
        return instance.question(family, scene, text)
