"""The MAC network: memory, attention and composition (Hudson and Manning, ICLR 2018).

Equation numbers and letters are the paper's: d the width, c and m the control and memory
states, k the knowledge base (the image), cw the contextual words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.options import FeatureShape, Positive, Probability
from filmvqa.models.vision import scale_pixels


class ControlUnit(nn.Module):
    """Which part of the question this step is about (section 3.2.1)."""

    def __init__(self, dim: int, num_steps: int) -> None:
        super().__init__()
        self.position_aware = nn.ModuleList(_linear(dim, dim) for _ in range(num_steps))
        self.merge = _linear(2 * dim, dim)
        self.attend = _linear(dim, 1)

    def forward(
        self, step: int, control: Tensor, question: Tensor, words: Tensor, padding: Tensor
    ) -> Tensor:
        """c (B, d) from the last one, q (B, d) and cw (B, T, d); padding (B, T) is not read."""
        position = self.position_aware[step](question)
        # tanh as in the authors' code; the paper's equation c1 has none.
        merged = torch.tanh(self.merge(torch.cat([control, position], 1)))
        scores = self.attend(merged[:, None] * words).squeeze(2).float()  # (B, T)
        weights = torch.softmax(scores.masked_fill(padding, -torch.inf), 1).to(words.dtype)
        out: Tensor = (weights[:, None] @ words).squeeze(1)
        return out


class ReadUnit(nn.Module):
    """What the image has for this step (section 3.2.2), with ELU as in the authors' code."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.project_memory = _linear(dim, dim)
        self.project_knowledge = _linear(dim, dim)
        self.merge = _linear(2 * dim, dim)
        self.attend = _linear(dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, control: Tensor, memory: Tensor, knowledge: Tensor, projected: Tensor
    ) -> Tensor:
        """r (B, d) from c, m (B, d), k (B, N, d) and k projected by ``project_knowledge``."""
        direct = self.project_memory(self.dropout(memory))[:, None] * projected
        related = F.elu(self.merge(torch.cat([direct, projected], 2)))  # (B, N, d)
        scores = self.attend(self.dropout(F.elu(control[:, None] * related))).squeeze(2)
        weights = torch.softmax(scores.float(), 1).to(knowledge.dtype)  # (B, N)
        out: Tensor = (weights[:, None] @ knowledge).squeeze(1)
        return out


class WriteUnit(nn.Module):
    """The new memory (section 3.2.3), optionally with attention to earlier steps and a gate."""

    def __init__(self, dim: int, self_attention: bool, memory_gate: bool, gate_bias: float) -> None:
        super().__init__()
        self.merge = _linear(2 * dim, dim)
        self.attend = _linear(dim, 1) if self_attention else None
        self.recall = _linear(dim, dim, bias=False) if self_attention else None
        self.gate = _linear(dim, 1) if memory_gate else None
        if self.gate is not None:
            nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, read: Tensor, controls: list[Tensor], memories: list[Tensor]) -> Tensor:
        """m (B, d) from r, the controls up to this step's and the memories before it."""
        memory: Tensor = self.merge(torch.cat([read, memories[-1]], 1))
        if self.attend is not None and self.recall is not None and len(controls) > 1:
            earlier = torch.stack(controls[:-1], 1)  # (B, i, d)
            scores = self.attend(controls[-1][:, None] * earlier)
            weights = torch.softmax(scores.float(), 1).to(memory.dtype)
            memory = memory + self.recall((weights * torch.stack(memories, 1)).sum(1))
        if self.gate is not None:
            keep = torch.sigmoid(self.gate(controls[-1]))
            memory = keep * memories[-1] + (1 - keep) * memory
        return memory


class MacNet(nn.Module):
    """A bidirectional LSTM reads the question, ``num_steps`` MAC cells reason over the image.

    The defaults are the paper's (section 4 and supplement A): d 512, 12 steps, ELU, dropout
    0.15 on words and in the read unit, 0.18 in the stem, 0.08 on the question, and the same
    mask of 0.15 on the memory at every step (variational dropout, Gal and Ghahramani 2016).

    Parameters
    ----------
    feature_shape
        (C, H, W) of an image's features.
    stem_strides
        Of the two convolutions that make the knowledge base.
    self_attention, memory_gate
        The write unit's options; ``gate_bias`` is where the gate starts.
    """

    def __init__(
        self,
        vocab_size: Positive,
        num_answers: Positive,
        feature_shape: FeatureShape,
        *,
        dim: Positive = 512,
        num_steps: Positive = 12,
        embedding_dim: Positive = 300,
        stem_strides: Sequence[Positive] = (1, 1),
        self_attention: bool = False,
        memory_gate: bool = False,
        gate_bias: float = 1.0,
        embedding_dropout: Probability = 0.15,
        stem_dropout: Probability = 0.18,
        question_dropout: Probability = 0.08,
        memory_dropout: Probability = 0.15,
        read_dropout: Probability = 0.15,
        output_dropout: Probability = 0.15,
    ) -> None:
        super().__init__()
        self.encoder = QuestionEncoder(
            vocab_size,
            embedding_dim=embedding_dim,
            hidden_dim=dim,
            cell="lstm",
            bidirectional=True,
            embedding_dropout=embedding_dropout,
            dropout=question_dropout,
        )
        nn.init.uniform_(self.encoder.embedding.weight, -1.0, 1.0)
        layers: list[nn.Module] = []
        inputs = feature_shape[0]
        for stride in stem_strides:
            convolution = nn.Conv2d(inputs, dim, 3, stride, padding=1)
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [nn.Dropout(stem_dropout), convolution, nn.ELU()]
            inputs = dim
        self.stem = nn.Sequential(*layers)
        self.control = ControlUnit(dim, num_steps)
        self.read = ReadUnit(dim, read_dropout)
        self.write = WriteUnit(dim, self_attention, memory_gate, gate_bias)
        self.control_start = nn.Parameter(torch.randn(dim))
        self.memory_start = nn.Parameter(torch.randn(dim))
        self.num_steps, self.memory_dropout = num_steps, memory_dropout
        self.question = _linear(dim, dim)
        self.output = nn.Sequential(
            nn.Dropout(output_dropout), _linear(2 * dim, dim), nn.ELU(),
            nn.Dropout(output_dropout), _linear(dim, num_answers),
        )  # fmt: skip

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of ``questions`` (B, T) about ``features`` (U, C, H, W)."""
        words, question = self.encoder.encode_words(questions)  # (B, T, d), (B, d)
        padding = (questions == 0).to(words.device, non_blocking=True)
        knowledge = self.stem(scale_pixels(features)).flatten(2).transpose(1, 2)  # (U, N, d)
        projected = self.read.project_knowledge(self.read.dropout(knowledge))  # once an image
        if image_of_question is not None:
            knowledge, projected = knowledge[image_of_question], projected[image_of_question]
        controls = [self.control_start.expand(len(questions), -1).to(words.dtype)]
        memories = [self.memory_start.expand(len(questions), -1).to(words.dtype)]
        # One mask for all steps.
        mask = F.dropout(torch.ones_like(memories[0]), self.memory_dropout, self.training)
        for step in range(self.num_steps):
            controls.append(self.control(step, controls[-1], question, words, padding))
            read = self.read(controls[-1], memories[-1] * mask, knowledge, projected)
            memories.append(self.write(read, controls, memories))
        out: Tensor = self.output(torch.cat([memories[-1], self.question(question)], 1))
        return out


def _linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Xavier's start, as the authors': with torch's own, twelve steps shrink the gradient."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
