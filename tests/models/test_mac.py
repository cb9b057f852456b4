"""MAC against its equations, written out one question at a time in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from filmvqa.models import build_model
from filmvqa.models.mac import MacNet
from tests.models.small_models import SIZES, SMALL, questions


def reference(model: MacNet, features: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Logits of one question: equations c1 to c3, r1 to r4, w1 to w3 of the paper."""
    row = row[row != 0][None]
    words, q = model.encoder.encode_words(row)
    words, q = words[0], q[0]
    knowledge = model.stem(features[None])[0].flatten(1).T  # (N, d)
    k = knowledge @ model.read.project_knowledge.weight.T + model.read.project_knowledge.bias
    controls, memories = [model.control_start], [model.memory_start]
    for step in range(model.num_steps):
        position = model.control.position_aware[step](q)
        cq = torch.tanh(model.control.merge(torch.cat([controls[-1], position])))
        weights = torch.stack([model.control.attend(cq * w)[0] for w in words]).softmax(0)
        control = sum(a * w for a, w in zip(weights, words, strict=True))
        controls.append(control)
        projected_memory = model.read.project_memory(memories[-1])
        scores = []
        for k_n in k:
            merged = F.elu(model.read.merge(torch.cat([projected_memory * k_n, k_n])))
            scores.append(model.read.attend(F.elu(control * merged))[0])
        weights = torch.stack(scores).softmax(0)
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
    return model.output(torch.cat([memories[-1], model.question(q)]))


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("memory_gate", [False, True])
def test_mac_is_its_equations(self_attention: bool, memory_gate: bool) -> None:
    torch.manual_seed(0)
    options = {"self_attention": self_attention, "memory_gate": memory_gate, "gate_bias": 0.3}
    model = build_model("mac", **SIZES, **SMALL["mac"] | options).double().eval()
    rows = questions([4, 7, 1])
    # The model casts features to float32, so that only the reference runs in float64.
    features = torch.randn(3, 6, 5, 5)
    model.stem = model.stem.double()
    with torch.inference_mode():
        expected = torch.stack(
            [reference(model, x.double(), row) for x, row in zip(features, rows, strict=True)]
        )
        logits = model.float()(features, rows)
    assert torch.allclose(logits.double(), expected, atol=1e-4)


def test_memory_dropout_keeps_one_mask_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {f"{n}_dropout": 0.0 for n in ("embedding", "stem", "question", "read", "output")}
    model = build_model("mac", **SIZES, **SMALL["mac"] | options | {"memory_dropout": 0.5}).train()
    masks = []
    original = model.read.forward

    def spy(control, memory, knowledge, projected_knowledge):
        masks.append(memory == 0)
        return original(control, memory, knowledge, projected_knowledge)

    monkeypatch.setattr(model.read, "forward", spy)
    model(torch.randn(2, 6, 5, 5), questions([3, 5]))
    assert len(masks) == 3
    assert 0 < masks[0].sum() < masks[0].numel()
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_the_papers_mac_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = MacNet(93, 28, (1024, 14, 14))
    assert model.num_steps == len(model.control.position_aware) == 12
    assert model.encoder.layers[0][0].hidden_size == 256
    assert model.encoder.embedding.weight.shape == (93, 300)
    assert model.stem[1].weight.shape == (512, 1024, 3, 3)
    assert model.stem[4].weight.shape == (512, 512, 3, 3)
