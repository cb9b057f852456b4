"""Generation of questions from templates, with balanced families and answers.

Templates are in the format of CLEVR's official generator. Like that generator, this module
instantiates a template node by node by depth-first search, rejects instances whose ``unique``
nodes fail, and balances families and answers (Johnson et al., CVPR 2017, section 3 and
supplementary material).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

from filmvqa.worlds.engine.families import Family, Node, Template
from filmvqa.worlds.engine.instance import Instance
from filmvqa.worlds.engine.programs import (
    Filter,
    NotUniqueError,
    SceneIndex,
    SceneRecord,
    Value,
)
from filmvqa.worlds.engine.schema import Question
from filmvqa.worlds.engine.short_questions import ShortQuestions
from filmvqa.worlds.engine.wording import write_question
from filmvqa.worlds.engine.world import CLEVR, World

#: Counts of families and answers are reset after this many images, as in the official generator.
IMAGES_PER_SHARD = 250
#: Maximal number of choices in the search for an instance of one family on one image.
MAX_CHOICES = 400


class QuestionGenerator:
    """Generates the questions of one shard, and balances their families and answers by counts."""

    def __init__(self, families: list[Family], rng: random.Random, world: World = CLEVR) -> None:
        self._world = world
        self._families = families
        self._rng = rng
        self._question_counts = [0] * len(families)
        self._answer_counts = [
            dict.fromkeys(f.template.possible_answers(world), 0) for f in families
        ]
        # All filters by the positions without a value; results of _matching_options on one scene.
        self._filters: dict[tuple[int, ...], list[Filter]] = {}
        self._matching: dict[tuple[Any, ...], tuple[list[Filter], int]] = {}

    def ask(self, scene: SceneRecord, per_image: int) -> list[Question]:
        """Return up to ``per_image`` distinct questions; the least-used families come first."""
        scene_index = SceneIndex(scene, self._world)
        self._matching.clear()
        ranks = [count + self._rng.random() for count in self._question_counts]
        questions: list[Question] = []
        texts: set[str] = set()
        for k in sorted(range(len(ranks)), key=ranks.__getitem__):
            if len(questions) == per_image:
                break
            family = self._families[k]
            instance = self._instantiate(family.template, scene_index, self._answer_counts[k])
            if instance is None:
                continue
            text = write_question(family.template, instance.parameters(), self._rng, self._world)
            if text in texts:
                continue
            texts.add(text)
            answer = family.template.answer(instance.outputs[-1], self._world)
            self._question_counts[k] += 1
            self._answer_counts[k][answer] = self._answer_counts[k].get(answer, 0) + 1
            question = instance.question(family, scene, text)
            if family.template.refers(self._world):
                question.answer, question.objects = None, instance.objects()
            if family.group not in self._world.family_groups:
                question.template_filename = f"{family.group}.json"
            questions.append(question)
        return questions

    def _instantiate(
        self, template: Template, scene_index: SceneIndex, counts: dict[str, int]
    ) -> Instance | None:
        """Search for a valid instance depth-first, with choices in random order.

        ``counts`` are the family's answer counts. Returns None if the search fails or exceeds
        ``MAX_CHOICES``.
        """
        accepted = _accepted_answers(counts)
        if template.excludes_yes and accepted <= {"yes"}:
            return None
        instance = Instance(template, scene_index, accepted, MAX_CHOICES)
        return instance if self._complete(instance) else None

    def _complete(self, instance: Instance) -> bool:
        """Choose the values of the remaining nodes.

        Returns False, and leaves the instance unchanged but for its budget, if no choice is valid
        or the budget is spent.
        """
        template, outputs = instance.template, instance.outputs
        depth = len(outputs)
        if depth == len(template.nodes):
            return template.answer(outputs[-1], self._world) in instance.accepted and not (
                template.has_relate and _is_degenerate(instance)
            )
        node = template.nodes[depth]
        inputs = [outputs[i] for i in node.inputs]
        options: list[Filter] = [()]
        if node.side_inputs:
            options = self._options(node, instance, inputs)
        # The number of choices that failed after a choice, by what determines that they fail.
        in_vain: dict[Value, int] = {}
        decided_by = template.decided_by[depth]
        while options and instance.budget:
            k = int(self._rng.random() * len(options))
            options[k], options[-1] = options[-1], options[k]
            values = options.pop()
            try:
                output = node.apply(instance.scene_index, inputs, values)
            except NotUniqueError:
                return False
            cause = output if decided_by == "output" else None
            if decided_by == "matching":
                cause = instance.scene_index.matching.get(values, 0)
            if cause in in_vain:
                instance.budget = max(instance.budget - in_vain[cause], 0)
                continue
            before = instance.budget
            instance.budget -= 1
            instance.values.append(values)
            outputs.append(output)
            if _constraints_hold(instance) and self._complete(instance):
                return True
            instance.values.pop()
            outputs.pop()
            if cause is not None:
                in_vain[cause] = before - instance.budget
        return False

    def _options(self, node: Node, instance: Instance, inputs: list[Value]) -> list[Filter]:
        """The possible values of a node's side inputs.

        Those of a filter include randomly drawn ones, most of which match no object. As in the
        official generator, a drawn filter may happen to match objects.
        """
        template = instance.template
        if not template.null_parameters.isdisjoint(node.required_inputs):
            return []
        if not node.is_composite:
            (name,) = node.side_inputs
            domain = next(self._world.domains[p.type] for p in template.params if p.name == name)
            return [(value,) for value in domain]
        nulls = template.null_places[len(instance.outputs)]
        is_last = node is template.nodes[-1]
        key = (node.type, is_last, nulls, inputs[0])
        if key not in self._matching:
            self._matching[key] = _matching_options(
                node, is_last, nulls, int(inputs[0]), instance.scene_index
            )
        matching, count = self._matching[key]
        if not count:
            return matching.copy()
        if nulls not in self._filters:
            domains = (self._world.attributes[name] for name in self._world.filter_attributes)
            values = [(None,) if k in nulls else (*d, None) for k, d in enumerate(domains)]
            self._filters[nulls] = list(product(*values))
        drawn = dict.fromkeys(self._rng.choices(self._filters[nulls], k=count))
        if node.last_function == "filter":
            drawn.pop((None,) * len(self._world.filter_attributes), None)
        return [*matching, *drawn]


def _matching_options(
    node: Node, is_last: bool, nulls: tuple[int, ...], base: int, scene_index: SceneIndex
) -> tuple[list[Filter], int]:
    """The values of a composite node that match objects, and the number of filters to draw.

    That is the number of filters that match any object for ``exist``, the number of those that
    match one object for ``count`` and plain ``filter``, and 0 for ``unique`` and after a relation.
    """
    matching = scene_index.matching_without(nulls)
    last_function = node.last_function
    count = 0
    if node.is_relate:
        may_be_empty = last_function in ("count", "exist") or (
            is_last and last_function == "filter"
        )
        options = [
            ((relation, *key), selected)
            for relation, anchors in scene_index.related.items()
            for related in [anchors[base]]
            for key, objects in matching
            # The relation must remove an object that matches the filter.
            if (selected := related & objects) != objects and (selected or may_be_empty)
        ]
    else:
        options = [(key, selected) for key, objects in matching if (selected := base & objects)]
        if last_function == "exist":
            count = len(options)
        elif last_function != "unique":
            count = sum(objects.bit_count() == 1 for _, objects in options)
    if last_function == "unique":
        options = [option for option in options if option[1].bit_count() == 1]
    elif last_function == "filter":
        options = [option for option in options if any(option[0])]
    return [values for values, _ in options], count


def _accepted_answers(counts: dict[str, int]) -> set[str]:
    """The answers of a family that CLEVR's rejection sampling accepts.

    An answer's count must be at most 1.1 times the second largest count, and at most 5 times the
    larger of 5 and the median count. The only possible answer is always accepted.
    """
    if len(counts) == 1:
        return set(counts)
    ranked = sorted(counts.values())
    largest = min(1.1 * ranked[-2], 5.0 * max(ranked[len(ranked) // 2], 5))
    return {answer for answer, count in counts.items() if count <= largest}


def _constraints_hold(instance: Instance) -> bool:
    """Whether the constraints allow the node that was added last."""
    template, outputs = instance.template, instance.outputs
    if template.equal_parameters:
        values = instance.parameters()
        for a, b in template.equal_parameters:
            first, second = values.get(a), values.get(b)
            if first is not None and second is not None and first != second:
                return False
    for i, j in template.differing_outputs:
        if len(outputs) - 1 == max(i, j) and outputs[i] == outputs[j]:
            return False
    return True


def _is_degenerate(instance: Instance) -> bool:
    """Whether the answer is the same without one of the relations."""
    nodes = instance.template.nodes
    for relation, affected in instance.template.nodes_after_relations.items():
        outputs = instance.outputs.copy()
        try:
            for k in affected:
                inputs = [outputs[i] for i in nodes[k].inputs]
                outputs[k] = nodes[k].apply(
                    instance.scene_index, inputs, instance.values[k], k == relation
                )
        except NotUniqueError:
            continue
        if outputs[-1] == instance.outputs[-1]:
            return True
    return False


def ask_shard(
    scenes: Sequence[SceneRecord],
    families: list[Family],
    per_image: int,
    seed: str,
    world: World = CLEVR,
    short_share: float = 0.0,
) -> list[Question]:
    """Return questions about up to ``IMAGES_PER_SHARD`` scenes, with counts that start at 0.

    The same scenes, families, world and seed give the same questions. The last questions about an
    image are short: the share ``short_share`` of ``per_image``, rounded down.
    """
    short = int(short_share * per_image)
    generator = QuestionGenerator(families, random.Random(seed), world)
    by_scene = [generator.ask(scene, per_image - short) for scene in scenes]
    if short:
        short_questions = ShortQuestions(families, random.Random(f"{seed}/short"), world)
        for scene, questions in zip(scenes, by_scene, strict=True):
            questions.extend(short_questions.ask(scene, short, questions))
    return [question for questions in by_scene for question in questions]
