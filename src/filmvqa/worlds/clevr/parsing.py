"""Parsing of typed questions into programs, by matching them with the templates' wordings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from filmvqa.worlds.engine.families import Family, Template
from filmvqa.worlds.engine.programs import NotUniqueError, SceneIndex, answer_text, execute
from filmvqa.worlds.engine.schema import Function
from filmvqa.worlds.engine.world import CLEVR

#: The value or relation of each synonym.
_CANONICAL = {word: value for value, words in CLEVR.synonyms.items() for word in words}
_TOKEN = re.compile(r"[\[\]]|<\w+>\w*|[^\s\[\]]+")
_PUNCTUATION = re.compile(r"[?;,.!]")
#: Patterns of words that ``wording`` drops (``_drop_other``) or changes (the article).
_VARIANTS = {"other": "(?:other )?", "another": "(?:another|an?) ", "a": "an? "}


@dataclass(frozen=True)
class Reading:
    """One reading of a question: the family of its template, and its program."""

    family: int
    program: list[Function]


class QuestionParser:
    """Parses questions in the wordings of the families; ignores case, punctuation and spaces."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._wordings = [
            (family, *_pattern(text, family.template))
            for family in families
            for text in family.template.text
        ]

    def read(self, question: str) -> list[Reading]:
        """All readings of a question with different programs; empty if no wording matches.

        For example, "the same number of A and B" can be read in either order.
        """
        words = _PUNCTUATION.sub(" ", question.lower()).split()
        text = "".join(f"{word} " for word in words)
        readings: list[Reading] = []
        for family, pattern, groups in self._wordings:
            match = pattern.fullmatch(text)
            if match is None:
                continue
            values = _values(match, groups, family.template)
            if values is None:
                continue
            program = family.template.program(repeat(values), CLEVR)
            if all(reading.program != program for reading in readings):
                readings.append(Reading(family.index, program))
        return readings

    def true_answer(self, question: str, scene: SceneIndex) -> str | None:
        """The answer on a scene; None if no wording matches, no reading has an answer, or the
        readings' answers differ."""
        answers = {answer for reading in self.read(question)
                   if (answer := answer_of(reading.program, scene)) is not None}  # fmt: skip
        return answers.pop() if len(answers) == 1 else None


def answer_of(program: Sequence[Function], scene: SceneIndex) -> str | None:
    """The answer of a program; None if it asks for a unique object and there is none."""
    try:
        return answer_text(execute(program, scene)[-1])
    except NotUniqueError:
        return None


def _pattern(text: str, template: Template) -> tuple[re.Pattern[str], dict[str, list[str]]]:
    """A pattern that matches all wordings of a text with a space after each word, and the names of
    the pattern's groups for each parameter."""
    types = {parameter.name: parameter.type for parameter in template.params}
    groups: dict[str, list[str]] = {name: [] for name in types}
    parts = []
    for token in _TOKEN.findall(_PUNCTUATION.sub(" ", text.lower())):
        original = next((name for name in types if token.startswith(name.lower())), None)
        if token == "[":
            parts.append("(?:")
        elif token == "]":
            parts.append(")?")
        elif original is not None:
            group = f"g{sum(map(len, groups.values()))}"
            groups[original].append(group)
            ending = re.escape(token[len(original) :])
            words = _words(types[original])
            part = f"(?P<{group}>{'|'.join(map(re.escape, words))}){ending} "
            parts.append(part if types[original] in ("Shape", "Relation") else f"(?:{part})?")
        else:
            parts.append(_VARIANTS.get(token, f"{re.escape(token)} "))
    return re.compile("".join(parts)), groups


def _words(parameter_type: str) -> list[str]:
    """The words for a parameter's values, the longest first."""
    values = [*CLEVR.domains[parameter_type], *(["thing"] if parameter_type == "Shape" else [])]
    words = [word for value in values for word in CLEVR.synonyms.get(value, (value,))]
    return sorted(words, key=len, reverse=True)


def _values(
    match: re.Match[str], groups: dict[str, list[str]], template: Template
) -> dict[str, str | None] | None:
    """The values of a template's parameters; None if two occurrences of a parameter differ, or if a
    parameter lacks a value that it needs or has one that it must not have."""
    values: dict[str, str | None] = {}
    for name, of_name in groups.items():
        words = {match[group] for group in of_name if match[group] is not None}
        canonical = {_CANONICAL.get(word, word) for word in words}
        if len(canonical) > 1:
            return None
        value = canonical.pop() if canonical else None
        values[name] = None if value == "thing" else value
    required = {name for node in template.nodes for name in node.required_inputs}
    if any(values[name] is None for name in required):
        return None
    if any(values.get(name) is not None for name in template.null_parameters):
        return None
    return values
