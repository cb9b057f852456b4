"""The MAC network: memory, attention and composition (Hudson and Manning, ICLR 2018).

Names of equations and variables are the paper's: d is the width, c and m are the control and memory
states, k is the knowledge base (the image's N positions), q is the question, cw are its contextual
words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.options import FeatureShape, Strides
from filmvqa.models.protocols import Attention
from filmvqa.models.registry import register_model
from filmvqa.models.vision import for_each_question, scale_pixels
from filmvqa.settings.typed import Positive, Probability
from filmvqa.system.devices import at_least_float32
from filmvqa.system.errors import OptionError


class ControlUnit(nn.Module):
    """Attend to the part of the question that matters at a step (section 3.2.1)."""

    def __init__(self, dim: int, num_steps: int) -> None:
        super().__init__()
        self.position_aware = nn.ModuleList(_xavier_linear(dim, dim) for _ in range(num_steps))
        self.merge = _xavier_linear(2 * dim, dim)
        self.attend = _xavier_linear(dim, 1)
        self.softmax = nn.Softmax(1)  # a module, so that a hook can record it

    def forward(
        self, step: int, control: Tensor, question: Tensor, words: Tensor, padding: Tensor
    ) -> Tensor:
        """Compute the next control state c (B, d).

        Parameters
        ----------
        step
            Index of the step, from 0.
        control
            Control state c (B, d) of the previous step.
        question
            Encoded question q (B, d).
        words
            Contextual words cw (B, T, d).
        padding
            Mask of padding (B, T), which gets no attention.
        """
        q = self.position_aware[step](question)
        # Equation c1. Only the authors' code has the tanh.
        cq = torch.tanh(self.merge(torch.cat([control, q], 1)))  # (B, d)
        ca = self.attend(cq[:, None] * words).squeeze(2)  # (B, T)
        cv = self.softmax(at_least_float32(ca).masked_fill(padding, -torch.inf)).to(words.dtype)
        new_control: Tensor = (cv[:, None] @ words).squeeze(1)
        return new_control


class ReadUnit(nn.Module):
    """Attend to the image (section 3.2.2), with ELU as in the authors' code."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.project_memory = _xavier_linear(dim, dim)
        self.project_knowledge = _xavier_linear(dim, dim)
        self.merge = _xavier_linear(2 * dim, dim)
        self.attend = _xavier_linear(dim, 1)
        self.softmax = nn.Softmax(1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, control: Tensor, memory: Tensor, knowledge: Tensor, projected_knowledge: Tensor
    ) -> Tensor:
        """Compute the retrieved information r (B, d).

        Parameters
        ----------
        control, memory
            c of this step and m of the previous step, (B, d) each.
        knowledge
            Knowledge base k (B, N, d).
        projected_knowledge
            k after dropout and ``project_knowledge`` (B, N, d), the same at every step.
        """
        projected_memory = self.project_memory(self.dropout(memory))  # (B, d)
        interaction = projected_memory[:, None] * projected_knowledge  # (B, N, d)
        merged = F.elu(self.merge(torch.cat([interaction, projected_knowledge], 2)))  # (B, N, d)
        ra = self.attend(self.dropout(F.elu(control[:, None] * merged))).squeeze(2)  # (B, N)
        rv = self.softmax(at_least_float32(ra)).to(knowledge.dtype)
        retrieved: Tensor = (rv[:, None] @ knowledge).squeeze(1)
        return retrieved


class WriteUnit(nn.Module):
    """Compute the new memory (section 3.2.3), optionally with self-attention and a memory gate."""

    def __init__(self, dim: int, self_attention: bool, memory_gate: bool, gate_bias: float) -> None:
        super().__init__()
        self.merge = _xavier_linear(2 * dim, dim)
        self.attend = _xavier_linear(dim, 1) if self_attention else None
        self.recall = _xavier_linear(dim, dim, bias=False) if self_attention else None
        self.gate = _xavier_linear(dim, 1) if memory_gate else None
        if self.gate is not None:
            nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, retrieved: Tensor, controls: list[Tensor], memories: list[Tensor]) -> Tensor:
        """Compute the new memory state m (B, d).

        Parameters
        ----------
        retrieved
            r of this step (B, d).
        controls
            The initial control state and those of all steps so far, this one included, (B, d) each.
        memories
            The initial memory state and those of all previous steps, (B, d) each.
        """
        memory: Tensor = self.merge(torch.cat([retrieved, memories[-1]], 1))
        if self.attend is not None and self.recall is not None and len(controls) > 1:
            previous_controls = torch.stack(controls[:-1], 1)  # (B, i, d)
            scores = self.attend(controls[-1][:, None] * previous_controls)  # (B, i, 1)
            sa = torch.softmax(at_least_float32(scores), 1).to(memory.dtype)
            memory = memory + self.recall((sa * torch.stack(memories, 1)).sum(1))
        if self.gate is not None:
            gate = torch.sigmoid(self.gate(controls[-1]))  # (B, 1)
            memory = gate * memories[-1] + (1 - gate) * memory
        return memory


@register_model("mac")
class MacNet(nn.Module):
    """``num_steps`` MAC cells over an image's convolutions and a bidirectional LSTM's question.

    The defaults are the paper's (section 4 and supplement A).

    Parameters
    ----------
    vocab_size
        Number of question tokens, padding included.
    num_answers
        Number of answers.
    feature_shape
        (C, H, W) of an image's features.
    dim
        The width d.
    num_steps
        Number of MAC cells.
    embedding_dim
        Width of a word's embedding.
    stem_strides
        Stride of each convolution that computes the knowledge base.
    self_attention
        Whether the write unit attends to the memories of earlier steps (equations w2.1 to w2.3).
    memory_gate
        Whether a gate interpolates between old and new memory (equations w3.1 and w3.2).
    gate_bias
        Initial bias of the memory gate.
    embedding_dropout, stem_dropout, question_dropout, read_dropout, output_dropout
        Dropout probability of the embeddings, of the inputs of the stem's convolutions, of the
        encoded question, in the read unit, and of the inputs of the classifier's layers.
    memory_dropout
        Dropout probability of the memory. All steps share one mask (variational dropout, Gal and
        Ghahramani 2016).
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
        stem_strides: Strides = (1, 1),
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
        if dim % 2:
            raise OptionError(f"dim={dim}: must be even, half for each direction of the LSTM")
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
        input_dim = feature_shape[0]
        for stride in stem_strides:
            convolution = nn.Conv2d(input_dim, dim, 3, stride, padding=1)
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [nn.Dropout(stem_dropout), convolution, nn.ELU()]
            input_dim = dim
        self.stem = nn.Sequential(*layers)
        self.control = ControlUnit(dim, num_steps)
        self.read = ReadUnit(dim, read_dropout)
        self.write = WriteUnit(dim, self_attention, memory_gate, gate_bias)
        self.control_start = nn.Parameter(torch.randn(dim))
        self.memory_start = nn.Parameter(torch.randn(dim))
        self.num_steps, self.memory_dropout = num_steps, memory_dropout
        self.question = _xavier_linear(dim, dim)
        self.output = nn.Sequential(
            nn.Dropout(output_dropout), _xavier_linear(2 * dim, dim), nn.ELU(),
            nn.Dropout(output_dropout), _xavier_linear(dim, num_answers),
        )  # fmt: skip

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        """Logits (B, num_answers) of questions (B, T) about features (U, C, H, W)."""
        words, question = self.encoder.encode_words(questions)  # (B, T, d), (B, d)
        padding = (questions == 0).to(words.device, non_blocking=True)
        knowledge = self.stem(scale_pixels(features)).flatten(2).transpose(1, 2)  # (U, N, d)
        # (U, N, d), once for each image
        projected_knowledge = self.read.project_knowledge(self.read.dropout(knowledge))
        knowledge, projected_knowledge = (  # (B, N, d)
            for_each_question(x, image_of_question) for x in (knowledge, projected_knowledge)
        )
        controls = [self.control_start.expand(len(questions), -1).to(words.dtype)]
        memories = [self.memory_start.expand(len(questions), -1).to(words.dtype)]
        # One mask (B, d) for all steps.
        mask = F.dropout(torch.ones_like(memories[0]), self.memory_dropout, self.training)
        for step in range(self.num_steps):
            controls.append(self.control(step, controls[-1], question, words, padding))
            memory = memories[-1] * mask
            retrieved = self.read(controls[-1], memory, knowledge, projected_knowledge)
            memories.append(self.write(retrieved, controls, memories))
        logits: Tensor = self.output(torch.cat([memories[-1], self.question(question)], 1))
        return logits

    @contextmanager
    def record_attention(self) -> Iterator[Attention]:
        """Within the block, each forward pass stores its attention in the yielded object.

        Attention to words is the control unit's, attention to places the read unit's.
        """
        attention = Attention()

        def begin(module: nn.Module, inputs: Any) -> None:
            attention.words_by_step.clear()
            attention.places_by_step.clear()

        def at_stem(module: nn.Module, inputs: Any, output: Tensor) -> None:
            attention.size = (output.shape[2], output.shape[3])

        def into(weights: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda module, inputs, output: weights.append(output)

        with (
            self.register_forward_pre_hook(begin),
            self.stem.register_forward_hook(at_stem),
            self.control.softmax.register_forward_hook(into(attention.words_by_step)),
            self.read.softmax.register_forward_hook(into(attention.places_by_step)),
        ):
            yield attention


def _xavier_linear(input_dim: int, output_dim: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier's initialisation, as in the authors' code, and zero bias.

    With torch's default, the gradient vanishes over twelve steps.
    """
    layer = nn.Linear(input_dim, output_dim, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
