"""Baselines of the FiLM paper's Table 1.

Default sizes are those of Johnson et al. 2017 (CLEVR, section 4, and the code clevr-iep), whose
accuracies the paper quotes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm1d, BatchNorm2d
from filmvqa.models.classifier import mlp
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.options import FeatureShape, PixelRange, StridesByAxis
from filmvqa.models.registry import register_model
from filmvqa.models.vision import Stem, for_each_question, scale_pixels
from filmvqa.settings.typed import Natural, Positive, Probability
from filmvqa.system.devices import at_least_float32
from filmvqa.system.errors import OptionError

#: Where a baseline's classifier has batch norm: nowhere, after its hidden layers, or also before
#: them.
ClassifierNorm = Literal["none", "hidden", "all"]


def _lstm_encoder(
    vocab_size: int, embedding_dim: int, hidden_dim: int, num_layers: int, layer_dropout: float
) -> QuestionEncoder:
    return QuestionEncoder(
        vocab_size,
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        cell="lstm",
        layer_dropout=layer_dropout,
    )


def _classifier(
    input_dim: int,
    hidden_dims: Sequence[int],
    num_answers: int,
    norm: ClassifierNorm,
    dropout: float,
) -> nn.Sequential:
    """Build the baselines' classifier: hidden layers and logits.

    Dropout applies to the input and to each hidden layer, as in clevr-iep's ``build_mlp``, which
    has batch norm as ``all`` does.
    """
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    layers += [BatchNorm1d(input_dim)] if norm == "all" else []
    return nn.Sequential(
        *layers,
        *mlp(input_dim, hidden_dims, num_answers, norm=norm != "none", dropout=dropout),
    )


@register_model("lstm")
class QuestionOnlyLSTM(nn.Module):
    """An LSTM and a classifier that ignore the image (LSTM), which shows the questions' bias.

    Parameters
    ----------
    vocab_size
        Number of question tokens, padding included.
    num_answers
        Number of answers.
    feature_shape
        (C, H, W) of an image's features, which are ignored.
    embedding_dim, hidden_dim, num_layers, layer_dropout
        Options of ``QuestionEncoder``.
    classifier_dims
        Widths of the classifier's hidden layers.
    classifier_norm
        Where the classifier has batch norm. clevr-iep has ``none``, or ``all`` with
        --classifier_batchnorm.
    classifier_dropout
        Dropout probability of the classifier's input and hidden layers.
    """

    blind: ClassVar[bool] = True

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        embedding_dim: Positive = 300,
        hidden_dim: Positive = 256,
        num_layers: Positive = 2,
        layer_dropout: Probability = 0.0,
        classifier_dims: Sequence[Positive] = (1024,),
        classifier_norm: ClassifierNorm = "hidden",
        classifier_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        del feature_shape  # in the signature of every model
        self.encoder = _lstm_encoder(
            vocab_size, embedding_dim, hidden_dim, num_layers, layer_dropout
        )
        self.classifier = _classifier(
            hidden_dim, classifier_dims, num_answers, classifier_norm, classifier_dropout
        )

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of questions (B, T)."""
        del features, image_of_question
        logits: Tensor = self.classifier(self.encoder(questions))
        return logits


class _ResidualBlock(nn.Module):
    """ReLU(x + BN(conv(ReLU(BN(conv(x)))))), the residual block of CNN+LSTM."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(out)))


@register_model("cnn_lstm")
class CnnLSTM(nn.Module):
    """Classify the concatenated encodings of image and question (CNN+LSTM).

    Parameters
    ----------
    vocab_size
        Number of question tokens, padding included.
    num_answers
        Number of answers.
    feature_shape
        (C, H, W) of an image's features.
    embedding_dim, hidden_dim, num_layers, layer_dropout
        Options of ``QuestionEncoder``.
    stem_strides
        Strides of the layers of a preceding ``Stem`` without coordinate maps and with
        ``res_block_dim`` channels, which spectrograms need. None: no stem.
    num_res_blocks, res_block_dim
        Number and channels of residual blocks before the 1×1 convolution. A 3×3 convolution maps
        the features to these channels.
    projection_dim
        Channels of the 1×1 convolution. 0 omits it.
    pool
        ``maxpool2`` or ``none``.
    pixel_range
        Range of uint8 pixels, as in ``scale_pixels``.
    classifier_dims
        Widths of the classifier's hidden layers.
    classifier_norm
        Where the classifier has batch norm. clevr-iep has ``none``, or ``all`` with
        --classifier_batchnorm.
    classifier_dropout
        Dropout probability of the classifier's input and hidden layers.
    """

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        embedding_dim: Positive = 300,
        hidden_dim: Positive = 256,
        num_layers: Positive = 2,
        layer_dropout: Probability = 0.0,
        stem_strides: StridesByAxis | None = None,
        num_res_blocks: Natural = 0,
        res_block_dim: Positive = 128,
        projection_dim: Natural = 512,
        pool: Literal["maxpool2", "none"] = "maxpool2",
        pixel_range: PixelRange = "centered",
        classifier_dims: Sequence[Positive] = (1024,),
        classifier_norm: ClassifierNorm = "hidden",
        classifier_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = feature_shape
        stem = []
        if stem_strides:
            stem = [Stem(channels, res_block_dim, strides=stem_strides, coordinates=False)]
            channels, (height, width) = res_block_dim, stem[0].output_size(height, width)
        if pool == "maxpool2" and min(height, width) < 2:
            raise OptionError(
                f"name=cnn_lstm: its pooling leaves nothing of maps of {height}×{width}; choose "
                "pool=none, another model, or larger images (data.image_size)"
            )
        self.encoder = _lstm_encoder(
            vocab_size, embedding_dim, hidden_dim, num_layers, layer_dropout
        )
        self.pixel_range = pixel_range
        layers: list[nn.Module] = [*stem]
        if num_res_blocks:
            layers += [nn.Conv2d(channels, res_block_dim, 3, padding=1), nn.ReLU()]
            layers += [_ResidualBlock(res_block_dim) for _ in range(num_res_blocks)]
            channels = res_block_dim
        if projection_dim:
            layers += [nn.Conv2d(channels, projection_dim, 1), nn.ReLU()]
            channels = projection_dim
        if pool == "maxpool2":
            layers.append(nn.MaxPool2d(2, 2))
            height, width = height // 2, width // 2
        self.cnn = nn.Sequential(*layers, nn.Flatten())
        self.classifier = _classifier(
            channels * height * width + hidden_dim, classifier_dims, num_answers,
            classifier_norm, classifier_dropout,
        )  # fmt: skip

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of questions (B, T) about features (U, C, H, W)."""
        image_features = self.cnn(scale_pixels(features, self.pixel_range))  # (U, D), once
        image_features = for_each_question(image_features, image_of_question)  # (B, D)
        logits: Tensor = self.classifier(torch.cat([image_features, self.encoder(questions)], 1))
        return logits


class StackedAttention(nn.Module):
    """One layer of stacked attention: add the attended image to the query (Yang et al. 2016)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.image = nn.Linear(dim, hidden_dim)
        self.query = nn.Linear(dim, hidden_dim)
        self.attend = nn.Linear(hidden_dim, 1)

    def forward(self, image: Tensor, query: Tensor) -> Tensor:
        """Compute the next query (B, d) from an image's positions (B, N, d) and a query (B, d)."""
        hidden = torch.tanh(self.image(image) + self.query(query)[:, None])
        weights = torch.softmax(at_least_float32(self.attend(hidden)), 1)  # (B, N, 1)
        return query + (weights.to(image.dtype) * image).sum(1)


@register_model("cnn_lstm_sa")
class CnnLSTMStackedAttention(nn.Module):
    """Stacked attention to the image, with the question's encoding as first query (CNN+LSTM+SA).

    Parameters
    ----------
    vocab_size
        Number of question tokens, padding included.
    num_answers
        Number of answers.
    feature_shape
        (C, H, W) of an image's features.
    embedding_dim, hidden_dim, num_layers, layer_dropout
        Options of ``QuestionEncoder``.
    attention_dim
        Width of the attention's hidden layer.
    num_attentions
        Number of attention layers.
    pixel_range
        Range of uint8 pixels, as in ``scale_pixels``.
    kaiming_normal
        Whether to initialise the weights of linear and convolution layers by Kaiming's normal
        distribution, as the original FiLM code does. clevr-iep uses torch's default.
    classifier_dims
        Widths of the classifier's hidden layers.
    classifier_norm
        Where the classifier has batch norm. clevr-iep has ``none``, or ``all`` with
        --classifier_batchnorm.
    classifier_dropout
        Dropout probability of the classifier's input and hidden layers.
    """

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        embedding_dim: Positive = 300,
        hidden_dim: Positive = 256,
        num_layers: Positive = 2,
        layer_dropout: Probability = 0.0,
        attention_dim: Positive = 512,
        num_attentions: Natural = 2,
        pixel_range: PixelRange = "centered",
        kaiming_normal: bool = False,
        classifier_dims: Sequence[Positive] = (1024,),
        classifier_norm: ClassifierNorm = "hidden",
        classifier_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.pixel_range = pixel_range
        self.encoder = _lstm_encoder(
            vocab_size, embedding_dim, hidden_dim, num_layers, layer_dropout
        )
        self.cnn = nn.Conv2d(feature_shape[0], hidden_dim, 1)
        self.attentions = nn.ModuleList(
            StackedAttention(hidden_dim, attention_dim) for _ in range(num_attentions)
        )
        self.classifier = _classifier(
            hidden_dim, classifier_dims, num_answers, classifier_norm, classifier_dropout
        )
        if kaiming_normal:
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of questions (B, T) about features (U, C, H, W)."""
        image = self.cnn(scale_pixels(features, self.pixel_range))
        image = image.flatten(2).transpose(1, 2)  # (U, N, hidden_dim)
        image = for_each_question(image, image_of_question)  # (B, N, hidden_dim)
        query = self.encoder(questions)
        for attention in self.attentions:
            query = attention(image, query)
        logits: Tensor = self.classifier(query)
        return logits
