"""A task and a model in one file outside the package: the number of words of a question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from filmvqa.tasks.protocol import Answer, Prediction, Targets, Task, register_task


class LengthTargets(Targets):
    noun = "lengths"

    def known(self, questions):
        return True

    def read(self, questions, rows, images, image_of_question):
        return questions.lengths[rows].float()

    def output_options(self, vocabulary):
        return {}


class LengthPrediction(Prediction, kw_only=True):
    length: float
    closeness: float | None = None

    @property
    def score(self):
        return self.closeness


@register_task("lengths")
class LengthTask(Task):
    targets, metric, draws = LengthTargets, "closeness", False
    prediction, prediction_dtype = LengthPrediction, torch.float32
    columns = ("closeness", "questions")
    does, gives = "counts the words of questions", "a number"
    scored_as = "Closeness in percent."

    def loss(self, output, targets):
        return F.mse_loss(output.float(), targets)

    def predictions(self, output):
        return output.float()

    def scores(self, predictions, targets):
        return 1 / (1 + (predictions - targets).abs())

    def report(self, predictions, targets, questions):
        closeness = float(self.scores(predictions, targets).mean())
        row = {self.metric: closeness, "interval": [0.0, 1.0], "questions": len(targets)}
        return {"targets": self.name, "overall": row}

    def cells(self, row):
        return [f"{row['closeness']:.2f}", f"{row['questions']}"]

    def records(self, predictions, targets, vocabulary):
        scores = self.scores(predictions, targets).tolist()
        pairs = zip(predictions.tolist(), scores, strict=True)
        return [{"length": length, "closeness": score} for length, score in pairs]

    def words(self, predictions, vocabulary):
        return [f"{length:.1f} words" for length in predictions.tolist()]

    def answers(self, output, vocabulary):
        return [Answer(text, {}) for text in self.words(self.predictions(output), vocabulary)]


class WordCounter(nn.Module):
    TARGETS = "lengths"

    def __init__(self, vocab_size: int, feature_shape: Sequence[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 4, padding_idx=0)
        self.linear = nn.Linear(4, 1)

    def forward(self, features, questions, image_of_question=None):
        words = self.embedding(questions.to(features.device))  # (B, T, 4)
        return self.linear(words.sum(1))[:, 0]
