"""What FiLM is compared with in the paper's Table 1, but for MAC.

Sizes are those of Johnson et al. 2017 (CLEVR, section 4, and clevr-iep), whose numbers the
paper quotes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.options import FeatureShape, Natural, Positive
from filmvqa.models.vision import mlp, scale_pixels


def _lstm_encoder(
    vocab_size: int, embedding_dim: int, hidden_dim: int, num_layers: int
) -> QuestionEncoder:
    return QuestionEncoder(
        vocab_size,
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        cell="lstm",
    )


class QuestionTypeMode(nn.Module):
    """The most frequent training answer of each question type (the paper's Q-type row).

    Types come from programs, which a model does not see: ``fit`` counts which pairs of
    neighbouring words the questions of each type have, and ``forward`` takes the type under
    which a question's are most likely (naive Bayes). Counted on 15,000 generated questions of all
    families, that is right for 3,000 of 3,000 others. Nothing is trained by gradient.
    """

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        num_types: Positive = 13,
    ) -> None:
        super().__init__()
        del feature_shape  # part of every model's signature
        self.vocab_size = vocab_size
        num_pairs = vocab_size * vocab_size
        self.present: Tensor
        self.register_buffer("present", torch.zeros(num_pairs, num_types))
        self.absent: Tensor
        self.register_buffer("absent", torch.zeros(num_types))
        self.answers: Tensor
        self.register_buffer("answers", torch.zeros(num_types, num_answers))

    def _word_pairs(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) to distinct (question, pair of words) as two index vectors."""
        pair = questions[:, :-1] * self.vocab_size + questions[:, 1:]
        row = torch.arange(len(pair), device=pair.device)[:, None].expand_as(pair)
        is_word = questions[:, 1:] != 0
        distinct: Tensor = torch.unique(torch.stack([row[is_word], pair[is_word]]), dim=1)
        return distinct[0], distinct[1]

    @torch.no_grad()
    def fit(self, questions: Tensor, answers: Tensor, types: Tensor) -> None:
        """Count training questions (N, T) with answers and types (N,); once."""
        row, pair = self._word_pairs(questions)
        num_types = len(self.answers)
        type_counts = torch.bincount(types, minlength=num_types).double()  # (num_types,)
        pair_counts = torch.zeros(self.present.shape, dtype=torch.float64)
        ones = torch.ones(len(row), dtype=torch.float64)
        pair_counts.index_put_((pair, types[row]), ones, accumulate=True)
        occurs = pair_counts.sum(1) > 0
        # Add-one smoothing, on a small scale.
        probability = (pair_counts + 1e-3) / (type_counts + 2e-3)
        log_odds = probability.log() - (1 - probability).log()
        self.present.copy_(torch.where(occurs[:, None], log_odds, 0.0))
        log_prior = ((type_counts + 1e-3) / type_counts.sum()).log()
        self.absent.copy_(log_prior + (1 - probability[occurs]).log().sum(0))
        self.answers.index_put_((types, answers), torch.ones(len(types)), accumulate=True)

    def question_types(self, questions: Tensor) -> Tensor:
        """(B, T) to the most likely type (B,)."""
        row, pair = self._word_pairs(questions)
        scores = self.absent.expand(len(questions), -1).clone()
        return scores.index_add(0, row, self.present[pair]).argmax(1)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers): how often each answer had the question's type."""
        del features, image_of_question
        return self.answers[self.question_types(questions.to(self.answers.device))]


class QuestionOnlyLSTM(nn.Module):
    """Answers from the question alone: how far language biases carry. Features are ignored."""

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        embedding_dim: Positive = 300,
        hidden_dim: Positive = 256,
        num_layers: Positive = 2,
        classifier_dims: Sequence[Positive] = (1024,),
    ) -> None:
        super().__init__()
        del feature_shape  # part of every model's signature
        self.encoder = _lstm_encoder(vocab_size, embedding_dim, hidden_dim, num_layers)
        self.classifier = mlp(hidden_dim, classifier_dims, num_answers)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of ``questions`` (B, T)."""
        del features, image_of_question
        logits: Tensor = self.classifier(self.encoder(questions))
        return logits


class CnnLSTM(nn.Module):
    """Image and question encoded apart, put side by side, and classified (CNN+LSTM)."""

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        embedding_dim: Positive = 300,
        hidden_dim: Positive = 256,
        num_layers: Positive = 2,
        projection_dim: Positive = 512,
        classifier_dims: Sequence[Positive] = (1024,),
    ) -> None:
        super().__init__()
        channels, height, width = feature_shape
        self.encoder = _lstm_encoder(vocab_size, embedding_dim, hidden_dim, num_layers)
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, projection_dim, 1), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten()
        )
        image_dim = projection_dim * (height // 2) * (width // 2)
        self.classifier = mlp(image_dim + hidden_dim, classifier_dims, num_answers)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of ``questions`` (B, T) about ``features`` (U, C, H, W)."""
        image_features = self.cnn(scale_pixels(features))  # (U, D): once an image
        if image_of_question is not None:
            image_features = image_features[image_of_question]  # (B, D)
        logits: Tensor = self.classifier(torch.cat([image_features, self.encoder(questions)], 1))
        return logits


class StackedAttention(nn.Module):
    """One look at the image with a query, which what is seen refines (Yang et al. 2016)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.image = nn.Linear(dim, hidden_dim)
        self.query = nn.Linear(dim, hidden_dim)
        self.attend = nn.Linear(hidden_dim, 1)

    def forward(self, image: Tensor, query: Tensor) -> Tensor:
        """Places (B, N, d) and query (B, d) to the next query (B, d)."""
        hidden = torch.tanh(self.image(image) + self.query(query)[:, None])
        weights = torch.softmax(self.attend(hidden).float(), 1).to(image.dtype)  # (B, N, 1)
        return query + (weights * image).sum(1)


class CnnLSTMStackedAttention(nn.Module):
    """The question's encoding looks at the image, again and again (CNN+LSTM+SA)."""

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        embedding_dim: Positive = 300,
        hidden_dim: Positive = 256,
        num_layers: Positive = 2,
        attention_dim: Positive = 512,
        num_attentions: Natural = 2,
        classifier_dims: Sequence[Positive] = (1024,),
    ) -> None:
        super().__init__()
        self.encoder = _lstm_encoder(vocab_size, embedding_dim, hidden_dim, num_layers)
        self.cnn = nn.Conv2d(feature_shape[0], hidden_dim, 1)
        self.attentions = nn.ModuleList(
            StackedAttention(hidden_dim, attention_dim) for _ in range(num_attentions)
        )
        self.classifier = mlp(hidden_dim, classifier_dims, num_answers)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of ``questions`` (B, T) about ``features`` (U, C, H, W)."""
        image = self.cnn(scale_pixels(features)).flatten(2).transpose(1, 2)  # (U, N, hidden_dim)
        if image_of_question is not None:
            image = image[image_of_question]  # (B, N, hidden_dim)
        query = self.encoder(questions)
        for attention in self.attentions:
            query = attention(image, query)
        logits: Tensor = self.classifier(query)
        return logits
