"""Generation of questions from templates, with balanced families and answers.

Templates are in the format of CLEVR's official generator. Like that generator, this module
instantiates a template node by node by depth-first search, rejects instances whose ``unique``
nodes fail, and balances families and answers (Johnson et al., CVPR 2017, section 3 and
supplementary material).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from filmvqa.worlds.engine.families import Family, Node, Template
from filmvqa.worlds.engine.programs import (
    Filter,
    NotUniqueError,
    SceneIndex,
    SceneRecord,
    Value,
    execute,
    referred_objects,
)
from filmvqa.worlds.engine.schema import Function, Question
from filmvqa.worlds.engine.wording import write_question
from filmvqa.worlds.engine.world import CLEVR, World

#: Counts of families and answers are reset after this many images, as in the official generator.
IMAGES_PER_SHARD = 250
#: Maximal number of choices in the search for an instance of one family on one image.
MAX_CHOICES = 400


class _Instance:
    """A partial instance of a template.

    Attributes
    ----------
    values
        Values of the parameters.
    outputs
        Output of each node.
    last_steps
        Index in ``program`` of each node's last step.
    program
        The steps of all nodes.
    """

    def __init__(self) -> None:
        self.values: dict[str, str | None] = {}
        self.outputs: list[Value] = []
        self.last_steps: list[int] = []
        self.program: list[Function] = []


class _Option(NamedTuple):
    """Values of a composite node's side inputs, and the set of objects that they select.

    ``relation`` is None if the node has no ``relate``.
    """

    relation: str | None
    filter: Filter
    objects: int


class QuestionGenerator:
    """Generates the questions of one shard and counts families and answers to balance them."""

    def __init__(self, families: list[Family], rng: random.Random, world: World = CLEVR) -> None:
        self._world = world
        self._families = families
        self._rng = rng
        self._question_counts = [0] * len(families)
        self._answer_counts = [
            dict.fromkeys(f.template.possible_answers(world), 0) for f in families
        ]

    def ask(self, scene: SceneRecord, per_image: int) -> list[Question]:
        """Return up to ``per_image`` distinct questions, those of the least-used families first."""
        scene_index = SceneIndex(scene, self._world)
        order = list(range(len(self._families)))
        self._rng.shuffle(order)
        order.sort(key=self._question_counts.__getitem__)
        questions: list[Question] = []
        texts: set[str] = set()
        for k in order:
            if len(questions) == per_image:
                break
            family = self._families[k]
            instance = self._instantiate(family.template, scene_index, self._answer_counts[k])
            if instance is None:
                continue
            text = write_question(family.template, instance.values, self._rng, self._world)
            if text in texts:
                continue
            texts.add(text)
            refers = family.template.refers(self._world)
            output = instance.outputs[-1]
            answer = family.template.answer(output, self._world)
            self._question_counts[k] += 1
            self._answer_counts[k][answer] = self._answer_counts[k].get(answer, 0) + 1
            questions.append(
                Question(
                    image_filename=scene.image_filename,
                    question=text,
                    image_index=scene.image_index,
                    split=scene.split,
                    question_family_index=family.index,
                    answer=None if refers else answer,
                    program=instance.program,
                    objects=self._objects(family.template, output) if refers else None,
                )
            )
        return questions

    def _objects(self, template: Template, output: Value) -> list[int]:
        return referred_objects(output, template.nodes[-1].signature(self._world)[1])

    def _instantiate(
        self, template: Template, scene_index: SceneIndex, counts: dict[str, int]
    ) -> _Instance | None:
        """Search for a valid instance depth-first, with choices in random order.

        ``counts`` are the family's answer counts. Returns None if the search fails or exceeds
        ``MAX_CHOICES``.
        """
        accepted = {answer for answer in counts if _keeps_balance(answer, counts)}
        if template.excludes_yes and accepted <= {"yes"}:
            return None
        instance = _Instance()
        budget = MAX_CHOICES
        choices = [self._extensions(template.nodes[0], template, instance, scene_index)]
        while choices:
            depth = len(choices) - 1
            if len(instance.outputs) > depth:
                _truncate(instance, template, depth)
            if budget == 0 or next(choices[-1], None) is None:
                if budget == 0:
                    return None
                choices.pop()
                continue
            budget -= 1
            if not _constraints_hold(template, instance):
                continue
            if depth + 1 < len(template.nodes):
                node = template.nodes[depth + 1]
                choices.append(self._extensions(node, template, instance, scene_index))
            elif template.answer(instance.outputs[-1], self._world) in accepted and not (
                template.has_relate and _is_degenerate(instance, scene_index)
            ):
                return instance
        return None

    def _extensions(
        self, node: Node, template: Template, instance: _Instance, scene_index: SceneIndex
    ) -> Iterator[bool]:
        """Extend the instance by ``node`` with each choice in random order, and yield after each.

        The caller must remove the node from the instance before it resumes the iterator.
        """
        inputs = [instance.outputs[i] for i in node.inputs]
        steps = [instance.last_steps[i] for i in node.inputs]
        for values, output in self._choices(node, template, inputs, scene_index):
            for name, value in zip(node.side_inputs, values, strict=True):
                instance.values[name] = value
            last_step = node.append_steps(instance.program, steps, instance.values, self._world)
            instance.last_steps.append(last_step)
            instance.outputs.append(output)
            yield True

    def _choices(
        self, node: Node, template: Template, inputs: list[Value], scene_index: SceneIndex
    ) -> Iterator[tuple[Filter, Value]]:
        """The values of a node's side inputs that may be chosen, and the node's output with them,
        in random order."""
        if node.is_composite:
            last = node.last_function
            for relation, key, objects in self._options(node, template, inputs[0], scene_index):
                is_set = last == "filter"
                output = objects if is_set else scene_index.apply(last, [objects], None)
                yield (key if relation is None else (relation, *key)), output
        elif node.side_inputs:
            (name,) = node.side_inputs
            domain = next(self._world.domains[p.type] for p in template.params if p.name == name)
            for choice in self._rng.sample(domain, len(domain)):
                yield (choice,), scene_index.apply(node.type, inputs, choice)
        else:
            with suppress(NotUniqueError):
                yield (), scene_index.apply(node.type, inputs, None)

    def _options(
        self, node: Node, template: Template, anchor: Value, scene_index: SceneIndex
    ) -> list[_Option]:
        """The options of a composite node whose input is ``anchor``, in random order."""
        base = int(anchor)
        is_relate = node.type.startswith("relate")
        last_function = node.last_function
        names = node.side_inputs[1:] if is_relate else node.side_inputs
        nulls = [k for k, name in enumerate(names) if name in template.null_parameters]
        if is_relate:
            may_be_empty = last_function in ("count", "exist") or (
                node is template.nodes[-1] and last_function == "filter"
            )
            options = _relate_options(may_be_empty, nulls, base, scene_index)
        else:
            options = [
                _Option(None, key, base & matching)
                for key, matching in scene_index.matching.items()
                if base & matching and all(key[k] is None for k in nulls)
            ]
            options += self._random_options(last_function, options, nulls, base, scene_index)
        if last_function == "unique":
            options = [option for option in options if option.objects.bit_count() == 1]
        elif last_function == "filter" and not is_relate:
            options = [option for option in options if any(option.filter)]
        self._rng.shuffle(options)
        return options

    def _random_options(
        self,
        last_function: str,
        others: list[_Option],
        nulls: list[int],
        base: int,
        scene_index: SceneIndex,
    ) -> list[_Option]:
        """Draw filters at random, most of which match no object of ``base``.

        Their number is that of the ``others``, which match some, for ``exist``, that of those with
        one object for ``count`` and plain ``filter``, and 0 for ``unique``. As in the official
        generator, a filter that is drawn may match objects nevertheless.
        """
        if last_function == "unique":
            return []
        count = len(others)
        if last_function != "exist":
            count = sum(option.objects.bit_count() == 1 for option in others)
        drawn: dict[Filter, None] = {}
        for _ in range(count):
            values = [
                None if k in nulls else self._rng.choice((*self._world.attributes[name], None))
                for k, name in enumerate(self._world.filter_attributes)
            ]
            drawn[tuple(values)] = None
        return [_Option(None, key, base & scene_index.matching.get(key, 0)) for key in drawn]


def _relate_options(
    may_be_empty: bool, nulls: list[int], anchor: int, scene_index: SceneIndex
) -> list[_Option]:
    options = []
    for relation in scene_index.world.relations:
        related = scene_index.related[relation][anchor]
        options += [
            _Option(relation, key, related & matching)
            for key, matching in scene_index.matching.items()
            # The relation must remove an object that matches the filter.
            if related & matching != matching
            and (related & matching or may_be_empty)
            and all(key[k] is None for k in nulls)
        ]
    return options


def _keeps_balance(answer: str, counts: dict[str, int]) -> bool:
    """Return whether CLEVR's rejection sampling accepts an answer of a family; an only one is.

    The count of the answer must be at most 1.1 times the second largest count, and at most 5 times
    the larger of 5 and the median count.
    """
    if len(counts) == 1:
        return True
    ranked = sorted(counts.values())
    median = max(ranked[len(ranked) // 2], 5)
    return counts[answer] <= 1.1 * ranked[-2] and counts[answer] <= 5.0 * median


def _truncate(instance: _Instance, template: Template, depth: int) -> None:
    """Remove node number ``depth`` and all later ones."""
    for node in template.nodes[depth : len(instance.outputs)]:
        for name in node.side_inputs:
            instance.values.pop(name, None)
    del instance.outputs[depth:], instance.last_steps[depth:]
    del instance.program[instance.last_steps[-1] + 1 if instance.last_steps else 0 :]


def _constraints_hold(template: Template, instance: _Instance) -> bool:
    values, outputs = instance.values, instance.outputs
    for name in template.null_parameters:
        if values.get(name) is not None:
            return False
    for a, b in template.equal_parameters:
        first, second = values.get(a), values.get(b)
        if first is not None and second is not None and first != second:
            return False
    for i, j in template.differing_outputs:
        if len(outputs) - 1 == max(i, j) and outputs[i] == outputs[j]:
            return False
    return True


def _is_degenerate(instance: _Instance, scene_index: SceneIndex) -> bool:
    """Return whether the answer is the same without one of the relations."""
    for i, step in enumerate(instance.program):
        if step.function != "relate":
            continue
        without = instance.program.copy()
        without[i] = Function("scene", [])
        try:
            if execute(without, scene_index)[-1] == instance.outputs[-1]:
                return True
        except NotUniqueError:
            pass
    return False


def ask_shard(
    scenes: Sequence[SceneRecord],
    families: list[Family],
    per_image: int,
    seed: str,
    world: World = CLEVR,
) -> list[Question]:
    """Return questions about up to ``IMAGES_PER_SHARD`` scenes, with counts that start at 0.

    The same scenes, families, world and seed give the same questions.
    """
    generator = QuestionGenerator(families, random.Random(seed), world)
    return [question for scene in scenes for question in generator.ask(scene, per_image)]
