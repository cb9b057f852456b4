"""MAC's equations for one question at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from filmvqa.models.mac import MacNet


def answer(model: MacNet, features: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a question, and attention to its words (S, T) and to places (S, N).

    Equations c1 to c3, r1 to r4 and w1 to w3 of the paper.
    """
    row = row[row != 0][None]
    words, q = model.encoder.encode_words(row)
    words, q = words[0], q[0]
    knowledge = model.stem(features[None])[0].flatten(1).T  # (N, d)
    k = knowledge @ model.read.project_knowledge.weight.T + model.read.project_knowledge.bias
    controls, memories = [model.control_start], [model.memory_start]
    word_weights, place_weights = [], []
    for step in range(model.num_steps):
        position = model.control.position_aware[step](q)
        cq = torch.tanh(model.control.merge(torch.cat([controls[-1], position])))
        weights = torch.stack([model.control.attend(cq * w)[0] for w in words]).softmax(0)
        word_weights.append(weights)
        control = sum(a * w for a, w in zip(weights, words, strict=True))
        controls.append(control)
        projected_memory = model.read.project_memory(memories[-1])
        scores = []
        for k_n in k:
            merged = F.elu(model.read.merge(torch.cat([projected_memory * k_n, k_n])))
            scores.append(model.read.attend(F.elu(control * merged))[0])
        weights = torch.stack(scores).softmax(0)
        place_weights.append(weights)
        retrieved = sum(a * x for a, x in zip(weights, knowledge, strict=True))
        memory = model.write.merge(torch.cat([retrieved, memories[-1]]))
        if model.write.attend is not None:
            scores = torch.stack([model.write.attend(control * c)[0] for c in controls[:-1]])
            past = sum(a * m for a, m in zip(scores.softmax(0), memories, strict=True))
            memory = memory + model.write.recall(past)
        if model.write.gate is not None:
            gate = torch.sigmoid(model.write.gate(control))
            memory = gate * memories[-1] + (1 - gate) * memory
        memories.append(memory)
    logits = model.output(torch.cat([memories[-1], model.question(q)]))
    return logits, torch.stack(word_weights), torch.stack(place_weights)
