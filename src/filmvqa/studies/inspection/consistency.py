"""Whether a comparison of two numbers agrees with the network's answers to the two counts.

The FiLM paper found that its network sometimes counts both sets correctly and compares them
wrongly.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from filmvqa.evaluation.predictions import evaluating
from filmvqa.questions.dataset import padded
from filmvqa.studies.inspection.inspected import Inspected
from filmvqa.studies.inspection.tables import Table
from filmvqa.worlds.engine.schema import Function

#: The words of relations between "are" and "the", and the functions of comparisons.
_RELATIONS = {
    "left": "left of", "right": "right of", "behind": "behind", "front": "in front of",
}  # fmt: skip
_COMPARISONS = {
    "equal_integer": operator.eq, "less_than": operator.lt, "greater_than": operator.gt,
}  # fmt: skip
#: The order of attributes in a noun phrase, before the noun.
_ADJECTIVES = ("size", "color", "material")


@dataclass(frozen=True)
class Comparison:
    """A comparison of two numbers, and the questions that count its two sets."""

    function: str
    counts: tuple[str, str]

    def implied(self, first: int, second: int) -> str:
        """The answer that two counts imply."""
        return "yes" if _COMPARISONS[self.function](first, second) else "no"


def find_comparison(program: Sequence[Function]) -> Comparison | None:
    """Read a program as a comparison; None if it is another program, or a set is not a chain of
    filters and spatial relations, the only ones that are put into words."""
    last = program[-1]
    if last.function not in _COMPARISONS:
        return None
    counts = [program[step] for step in last.inputs]
    if any(count.function != "count" for count in counts):
        return None
    first, second = (_word_count(program, count.inputs[0]) for count in counts)
    return None if first is None or second is None else Comparison(last.function, (first, second))


def _word_count(program: Sequence[Function], step: int) -> str | None:
    """The question how many objects are in the set of a step."""
    values, base = _read_filters(program, step)
    noun = _word_noun(values, plural=True)
    if program[base].function == "scene":
        return f"How many {noun} are there?"
    place = _word_place(program, base)
    return None if place is None else f"How many {noun} are {place}?"


def _word_place(program: Sequence[Function], step: int) -> str | None:
    """The words for ``relate``, such as "left of the red cube"."""
    relate = program[step]
    if relate.function != "relate":
        return None
    unique = program[relate.inputs[0]]
    if unique.function != "unique":
        return None
    values, base = _read_filters(program, unique.inputs[0])
    words = f"{_RELATIONS[relate.value_inputs[0]]} the {_word_noun(values)}"
    if program[base].function == "scene":
        return words
    place = _word_place(program, base)
    return None if place is None else f"{words} that is {place}"


def _read_filters(program: Sequence[Function], step: int) -> tuple[dict[str, str], int]:
    """The attribute values of a chain of filters, and the step before it."""
    values: dict[str, str] = {}
    while program[step].function.startswith("filter_"):
        values[program[step].function.removeprefix("filter_")] = program[step].value_inputs[0]
        step = program[step].inputs[0]
    return values, step


def _word_noun(values: dict[str, str], *, plural: bool = False) -> str:
    words = [values[name] for name in _ADJECTIVES if name in values]
    return " ".join([*words, values.get("shape", "thing") + ("s" if plural else "")])


def measure_consistency(inspected: Inspected) -> Table:
    """Compare the answers to comparisons with the answers to the counts of their sets.

    The network is also asked for the counts. The table has, for each comparison whose counts are
    numbers, how often it agrees with the counts, and how often it is right.
    """
    names = inspected.names
    table = Table(["comparison", "questions", "agree", "right", "right if counts are right"])
    comparisons = {
        i: comparison
        for i, question in enumerate(inspected.records)
        if question and question.program and (comparison := find_comparison(question.program))
    }
    if not comparisons:
        return table
    counting = [text for comparison in comparisons.values() for text in comparison.counts]
    rows = inspected.rows[list(comparisons)]
    images = inspected.questions.images[rows].repeat_interleave(2)
    counts = [names[i] for i in _ask(inspected, counting, images).tolist()]
    results: dict[str, list[tuple[bool, bool, bool]]] = {}
    for (i, comparison), first, second in zip(
        comparisons.items(), counts[::2], counts[1::2], strict=True
    ):
        if first.isdigit() and second.isdigit():
            implied = comparison.implied(int(first), int(second))
            answer, truth = (
                names[int(inspected.answers.answers[i])],
                names[int(inspected.truths[i])],
            )
            result = (answer == implied, answer == truth, implied == truth)
            for name in (comparison.function, "all"):
                results.setdefault(name, []).append(result)
    for name, outcomes in sorted(results.items()):
        agree, right, counted = torch.tensor(outcomes).T
        shares = (agree, right, right[counted])  # nan if no counts are right
        table.rows.append([name, len(outcomes), *(float(s.double().mean()) for s in shares)])
    return table


def _ask(inspected: Inspected, texts: Sequence[str], images: Tensor) -> Tensor:
    """Answer questions (M,) about images (M,) of the loader's store."""
    model, loader, answers = inspected.model, inspected.loader, []
    with evaluating(model):
        for part in torch.split(torch.arange(len(texts)), loader.batch_size):
            questions = padded([inspected.vocabulary.encode(texts[i]) for i in part.tolist()])
            distinct, index = torch.unique(images[part], return_inverse=True)
            features = loader.store.read(distinct)
            answers.append(model(features, questions, index.to(features.device)).argmax(1).cpu())
    return torch.cat(answers)
