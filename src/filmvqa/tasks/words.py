"""Answers in words: the most probable answer of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from filmvqa.questions.dataset import QuestionDataset, QuestionGroups
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import at_least_float32
from filmvqa.system.tables import text_table
from filmvqa.tasks.protocol import Answer, Prediction, Targets, Task, register_task
from filmvqa.tasks.reports import percent, percent_interval, rows_by_group, wilson_interval


class WordTargets(Targets):
    """Indices (B,) of answers in the vocabulary."""

    noun: ClassVar[str] = "answers"

    def known(self, questions: QuestionDataset) -> bool:
        return questions.answers is not None

    def read(
        self, questions: QuestionDataset, rows: Tensor, images: Tensor, image_of_question: Tensor
    ) -> Tensor | None:
        return None if questions.answers is None else questions.answers[rows]

    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return {"num_answers": len(vocabulary.answer)}


class WordPrediction(Prediction, kw_only=True):
    """The answer to a question, and the true answer if the split has answers."""

    answer: Annotated[str, msgspec.Meta(min_length=1)]
    truth: str | None = None

    @property
    def score(self) -> float | None:
        return None if self.truth is None else float(self.answer == self.truth)


@register_task("answers")
class WordTask(Task):
    """Classification: cross-entropy of logits (B, A); an answer's score is whether it is right."""

    targets: ClassVar[type[Targets]] = WordTargets
    metric: ClassVar[str] = "accuracy"
    prediction: ClassVar[type[Prediction]] = WordPrediction
    prediction_dtype: ClassVar[torch.dtype] = torch.int64
    score_dtype: ClassVar[torch.dtype] = torch.int64
    draws: ClassVar[bool] = False
    columns = ("accuracy", "95% interval", "questions")
    sections: ClassVar[Mapping[str, str]] = {
        "question type": "by_type", "last function": "by_function", "template file": "by_group"
    }  # fmt: skip
    does = "answers English questions of CLEVR's kind"
    gives = "one of its answers"
    scored_as = "Accuracy in percent with its 95% interval (Wilson), on images that it was not " \
        "trained on."  # fmt: skip

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(at_least_float32(output), targets)

    def predictions(self, output: Tensor) -> Tensor:
        return output.argmax(1)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return predictions == targets

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        types = question_type_indices(questions)
        return None if types is None else (list(questions.question_types), types)

    def report(
        self, predictions: Tensor, targets: Tensor, questions: QuestionGroups
    ) -> dict[str, Any]:
        """Rows (accuracy, correct, questions, 95% interval) overall and by group of questions.

        ``by_type`` has the question types (CLEVR's five), and ``other`` if some questions have none
        of them. ``by_function`` has the programs' last functions (CLEVR's thirteen) unless these
        are the types. ``by_family``, ``by_program_length``, ``by_num_objects`` and ``by_group``
        (template files) have the values that occur. Groups that are not known are left out.
        """
        correct = predictions.cpu() == targets.cpu()

        def row(members: Tensor) -> dict[str, Any]:
            num_questions, num_correct = int(members.sum()), int((correct & members).sum())
            return {
                "accuracy": num_correct / num_questions if num_questions else None,
                "correct": num_correct,
                "questions": num_questions,
                "interval": list(wilson_interval(num_correct, num_questions)),
            }

        report: dict[str, Any] = {"overall": row(torch.ones_like(correct))}
        types = question_type_indices(questions)
        if questions.types is not None and types is not None:
            report["by_type"] = {
                name: row(types == i) for i, name in enumerate(questions.question_types)
            }
            if (types == -1).any():
                report["by_type"]["other"] = row(types == -1)
            if questions.type_names != tuple(questions.question_types):
                report["by_function"] = {
                    name: row(questions.types.cpu() == i)
                    for i, name in enumerate(questions.type_names)
                }
        return report | rows_by_group(row, questions)

    def cells(self, row: Any) -> list[str]:
        interval = percent_interval(row["interval"], 2)
        return [percent(row["accuracy"], 2), interval, f"{row['questions']:,}"]

    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        answers = self.words(predictions, vocabulary)
        if targets is None:
            return [{"answer": answer} for answer in answers]
        truths = self.words(targets, vocabulary)
        pairs = zip(answers, truths, strict=True)
        return [{"answer": answer, "truth": truth} for answer, truth in pairs]

    def words(self, predictions: Tensor, vocabulary: Vocabulary) -> list[str]:
        texts = vocabulary.answers()
        return [texts[i] for i in predictions.tolist()]

    def answers(self, output: Tensor, vocabulary: Vocabulary) -> list[Answer]:
        texts, answers = vocabulary.answers(), []
        for row in torch.softmax(at_least_float32(output), 1).cpu():
            order = row.argsort(descending=True, stable=True).tolist()
            answers.append(Answer(texts[order[0]], {texts[i]: float(row[i]) for i in order}))
        return answers

    def certainties(self, output: Tensor, targets: Tensor | None) -> Tensor:
        return torch.softmax(at_least_float32(output), 1).amax(1)


def question_type_indices(questions: QuestionGroups) -> Tensor | None:
    """Index (N,) of each question's type in ``question_types``, -1 for none.

    None if the question file has no types.
    """
    if questions.types is None:
        return None
    types = [i for i, names in enumerate(questions.question_types.values()) for _ in names]
    type_of_function = torch.tensor([*types, -1])  # function -1 is the last entry
    return type_of_function[questions.types]


def format_comparison(
    reports: dict[str, dict[str, Any]], published: dict[str, dict[str, float]] | None = None
) -> str:
    """A table of overall accuracy and accuracy by question type, with one column per report.

    Each entry of ``published`` adds a column; its values are percentages by the same names.
    """
    published = published or {}
    rows = [["", *reports, *published, "questions"]]
    first = next(iter(reports.values()))
    for name in ("overall", *first["by_type"]):
        cells = [
            r["overall"] if name == "overall" else r["by_type"][name] for r in reports.values()
        ]
        shares = [percent(cell["accuracy"]) for cell in cells]
        shares += [f"{p[name]:.1f}%" if name in p else "-" for p in published.values()]
        rows.append([name, *shares, f"{cells[0]['questions']:,}"])
    return text_table(rows)
