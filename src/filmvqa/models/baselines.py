"""What FiLM is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.vision import mlp


class QuestionOnlyLSTM(nn.Module):
    """Answers from the question alone (the paper's LSTM row, after Johnson et al. 2017):
    how far language biases carry. The image features are ignored."""

    def __init__(
        self,
        vocab_size: int,
        num_answers: int,
        feature_dim: int,
        *,
        embedding_dim: int = 300,
        hidden_dim: int = 256,
        num_layers: int = 2,
        classifier_dims: Sequence[int] = (1024,),
    ) -> None:
        super().__init__()
        del feature_dim  # part of every model's signature
        self.encoder = QuestionEncoder(
            vocab_size,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            cell="lstm",
        )
        self.classifier = mlp(self.encoder.output_dim, tuple(classifier_dims), num_answers)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of ``questions`` (B, T)."""
        del features, image_of_question
        out: Tensor = self.classifier(self.encoder(questions))
        return out
