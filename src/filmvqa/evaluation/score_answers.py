"""Accuracy of a file of answers by any model, by type of question."""

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

#: The prediction for a line that is not one of the questions' answers.
_ANOTHER = -2
#: A file with a smaller share of lines that are answers is refused: its accuracy means nothing.
_FEWEST_ANSWERS = 0.1
#: Spaces, quotation marks, markup and punctuation around an answer.
_AROUND = " \t\"'`*_.!,;:“”„«»()[]"
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split(" "))}
#: Words that language models write before an answer, and an article.
_BEFORE = re.compile(
    r"(?:(?:the |my )?(?:final )?answer(?: is\b:?|:)|a:|(?:it|that)(?: is|'s))?\s*(?:(?:an?|the) )?"
)


def score_answers(settings: ScoreSettings) -> dict[str, Any]:
    """Compare a file of answers with the answers of a question JSON.

    Unambiguous answers in another form are accepted (``Yes.``, ``"yes"``, ``The answer is yes``,
    ``three``). A warning says how many lines are not an answer.

    Returns
    -------
    dict
        The report of ``WordTask.report``, and ``no_answers``, the number of lines that are not an
        answer.

    Raises
    ------
    UserError
        If a file cannot be read, the answers are to other questions, or too few lines are answers.
    """
    answers, questions = Path(settings.answers), Path(settings.questions)
    if settings.output is not None:
        refuse_overwriting(settings.output, answers, questions)
    table = read_question_table(questions, world=read_world(settings.world))
    text = _text(answers)
    if answers.suffix == ".jsonl":
        lines = _answers_of_records(answers, text, table)
    else:
        lines = [line.strip() for line in text.splitlines()]
    if len(lines) != len(table):
        raise UserError(
            f"{answers}: has {len(lines):,} answers, but {questions} has {len(table):,} questions; "
            "give one answer per line for each question"
        )
    names = _parse_answers(lines, table)
    no_answers = names.count(None)
    if no_answers:
        _check_unparsed(answers, names, lines)
    predictions = torch.tensor(
        [_ANOTHER if name is None else table.answer_names.get(name, _ANOTHER) for name in names]
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
    """Read the answers of prediction records; each must be for the question in its row."""
    answers = []
    for row, line in enumerate(text.splitlines()):
        try:
            record = msgspec.json.decode(line, type=WordPrediction)
        except msgspec.DecodeError as error:
            raise UserError(f"{path}: line {row + 1}: {error}; {CORRECT}") from None
        answers.append(record.answer)
        if row >= len(table):
            continue
        index, image = table.original_index[row], table.images[row]
        record_image = image if record.image_index is None else record.image_index
        if (record.question_index, record_image) != (index, image):
            raise UserError(
                f"{path}: line {row + 1} answers question_index {record.question_index} about image"
                f" {record_image}, but question {table.numbers[row]} of {table.path} is {index} "
                f"about image {image}; give the questions that were answered"
            )
    return answers


def _parse_answers(lines: list[str], table: QuestionTable) -> list[str | None]:
    """Match each line with an answer of the world; None if it is not an answer."""
    world = table.world
    values = chain.from_iterable(world.attributes.values())
    numbers = map(str, range(world.largest_count + 1))
    names = dict.fromkeys([*table.answer_names, *values, *numbers, "yes", "no"])
    forms = Counter(map(_plain, names))
    by_form = {_plain(name): name for name in names if forms[_plain(name)] == 1}
    return [line if line in names else by_form.get(_plain(line)) for line in lines]


def _plain(answer: str) -> str:
    """Normalise an answer: lower case, digits for numbers, nothing around it.

    Removes articles and punctuation as the evaluation of VQA does (Antol et al. 2015, section 3.2),
    and the words that language models add.
    """
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = text.translate(str.maketrans("‘’", "''")).strip(_AROUND)
    text = _BEFORE.sub("", text, count=1).strip(_AROUND)
    return _DIGITS.get(text, text)


def _check_unparsed(path: Path, names: list[str | None], lines: list[str]) -> None:
    """Warn of lines that are not an answer; refuse a file in which almost no line is one."""
    count, row = names.count(None), names.index(None)
    problem = (
        f"{path}: {count:,} of {len(names):,} lines are no answer to a question of this kind "
        f"(line {row + 1}: {lines[row][:40]!r})"
    )
    if len(names) - count < _FEWEST_ANSWERS * len(names):
        raise UserError(
            f"{problem}; give one answer per line, such as yes, 3 or the name of a value"
        )
    warn(f"{problem}; they count as wrong")


def _answers_and_groups(table: QuestionTable) -> tuple[Tensor, QuestionGroups]:
    """The answers (N,) of a question file, and the groups of its questions.

    Raises ``UserError`` if a question has no answer.
    """
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
    # Without START and END.
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
