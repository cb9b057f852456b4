"""The accuracy of a file of answers, from whatever model, by type of question."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from filmvqa.evaluation.settings import ScoreSettings
from filmvqa.questions.dataset import QuestionGroups
from filmvqa.questions.question_table import MISSING, QuestionTable, read_question_table
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import read_bytes, refuse_overwriting, write_file
from filmvqa.tasks.words import WordPrediction, WordTask
from filmvqa.worlds.engine.schema import CORRECT, not_utf8, utf8_json
from filmvqa.worlds.engine.world import read_world

#: An answer that is not one of the questions' answers.
_ANOTHER = -2
#: Of a file of which fewer lines than this share are answers, the accuracy would say nothing.
_FEWEST_ANSWERS = 0.1
#: Quotation marks, spaces, marks of emphasis and of a sentence's end around an answer.
_AROUND = " \t\"'`*_.!,;:“”„«»()[]"
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split(" "))}
#: What language models write before an answer, and an article.
_BEFORE = re.compile(
    r"(?:(?:the |my )?(?:final )?answer(?: is\b:?|:)|a:|(?:it|that)(?: is|'s))?\s*(?:(?:an?|the) )?"
)


def score_answers(settings: ScoreSettings) -> dict[str, Any]:
    """Compare a file of answers with those of a question JSON.

    Answers in another form (``Yes.``, ``"yes"``, ``The answer is yes``, ``three``) are read as the
    answers that they can only be; a warning says how many lines are no answer at all.

    Returns
    -------
    dict
        As ``WordTask.report``, and how many lines are no answer: ``no_answers``.

    Raises
    ------
    UserError
        If a file cannot be read, the answers are not those of the questions, or hardly a line is an
        answer.
    """
    answers, questions = Path(settings.answers), Path(settings.questions)
    if settings.output is not None:
        refuse_overwriting(settings.output, answers, questions)
    table = read_question_table(questions, world=read_world(settings.world))
    text = _text(answers)
    if answers.suffix == ".jsonl":
        given = _answers_of_records(answers, text, table)
    else:
        given = [line.strip() for line in text.splitlines()]
    if len(given) != len(table):
        raise UserError(
            f"{answers}: has {len(given):,} answers, but {questions} has {len(table):,} questions; "
            "give one answer per line for each question"
        )
    known = _known_answers(given, table)
    no_answers = known.count(None)
    if no_answers:
        _judge_unknown(answers, known, given)
    predictions = torch.tensor(
        [_ANOTHER if name is None else table.answer_names.get(name, _ANOTHER) for name in known]
    )
    report: dict[str, Any] = {"answers": str(answers), "questions": str(questions)}
    report["no_answers"] = no_answers
    report |= WordTask().report(predictions, *_answers_and_groups(table))
    if settings.output is not None:
        write_file(settings.output, json.dumps(report, indent=1) + "\n")
    return report


def _text(path: Path) -> str:
    content = utf8_json(read_bytes(path, "give answers=<file>"), path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def _answers_of_records(path: Path, text: str, table: QuestionTable) -> list[str]:
    """The answers of records, each of which must be of the question in its place."""
    answers = []
    for row, line in enumerate(text.splitlines()):
        try:
            record = msgspec.json.decode(line, type=WordPrediction)
        except msgspec.DecodeError as error:
            raise UserError(f"{path}: line {row + 1}: {error}; {CORRECT}") from None
        answers.append(record.answer)
        if row >= len(table):
            continue
        expected = (table.original_index[row], table.images[row])
        found = (record.question_index, expected[1])
        if record.image_index is not None:
            found = (record.question_index, record.image_index)
        if found != expected:
            raise UserError(
                f"{path}: line {row + 1} answers question_index {found[0]} about image {found[1]}, "
                f"but question {table.numbers[row]} of {table.path} is {expected[0]} about image "
                f"{expected[1]}; give the questions that were answered"
            )
    return answers


def _known_answers(given: list[str], table: QuestionTable) -> list[str | None]:
    """Which of the world's answers each given one is; None for those that are none."""
    world = table.world
    values = chain.from_iterable(world.attributes.values())
    numbers = map(str, range(world.largest_count + 1))
    names = dict.fromkeys([*table.answer_names, *values, *numbers, "yes", "no"])
    forms = Counter(map(_plain, names))
    by_form = {_plain(name): name for name in names if forms[_plain(name)] == 1}
    return [answer if answer in names else by_form.get(_plain(answer)) for answer in given]


def _plain(answer: str) -> str:
    """An answer in small letters, without what stands around it, numbers as digits.

    As the evaluation of VQA has it (Antol et al. 2015, section 3.2: articles, marks, numbers),
    and what language models add.
    """
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = text.translate(str.maketrans("‘’", "''")).strip(_AROUND)
    text = _BEFORE.sub("", text, count=1).strip(_AROUND)
    return _DIGITS.get(text, text)


def _judge_unknown(path: Path, known: list[str | None], given: list[str]) -> None:
    """Warn of lines that are no answer; refuse a file that has hardly others."""
    unknown = known.count(None)
    row = known.index(None)
    what = (
        f"{path}: {unknown:,} of {len(known):,} lines are no answer to a question of this kind "
        f"(line {row + 1}: {given[row][:40]!r})"
    )
    if len(known) - unknown < _FEWEST_ANSWERS * len(known):
        raise UserError(f"{what}; give one answer per line, such as yes, 3 or the name of a value")
    warn(f"{what}; they count as wrong")


def _answers_and_groups(table: QuestionTable) -> tuple[Tensor, QuestionGroups]:
    """The answers (N,) of a question file, each of which must be known, and its groups."""
    answers, families, types = (
        torch.from_numpy(np.frombuffer(values, np.int32).astype(np.int64))
        for values in (table.answers, table.families, table.types)
    )
    without = answers == MISSING
    if without.all():
        raise UserError(f"{table.path}: has no answers to compare with")
    if without.any():
        number = table.numbers[int(without.int().argmax())]
        raise UserError(
            f"{table.path}: question {number}: has no answer to compare with; add it, or take the "
            "question out of both files"
        )
    # START and END are no steps.
    lengths = torch.from_numpy(np.frombuffer(table.programs.lengths, np.int32).astype(np.int64) - 2)
    has_type = (types != MISSING).any()
    is_known = types < sum(map(len, table.question_types.values()))
    return answers, QuestionGroups(
        types=torch.where(is_known, types, -1) if has_type else None,
        families=families if (families != MISSING).any() else None,
        program_lengths=lengths.clamp(min=0) if has_type and not table.own_types else None,
        groups=torch.from_numpy(np.asarray(table.groups)) if table.template_files else None,
        group_names=tuple(Path(name).stem for name in table.template_files),
        question_types=table.question_types,
    )
