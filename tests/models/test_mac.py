"""MAC against its equations, in float64."""

from __future__ import annotations

import pytest
import torch

from filmvqa.models.mac import MacNet
from tests.models.mac_equations import answer
from tests.models.small_models import questions, small


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("memory_gate", [False, True])
def test_mac_is_its_equations(self_attention: bool, memory_gate: bool) -> None:
    options = {"self_attention": self_attention, "memory_gate": memory_gate, "gate_bias": 0.3}
    model = small("mac", **options).double().eval()
    rows = questions([4, 7, 1])
    # The model casts features to float32, so that only the reference runs in float64.
    features = torch.randn(3, 6, 5, 5)
    model.stem = model.stem.double()
    with torch.inference_mode():
        expected = torch.stack(
            [answer(model, x.double(), row)[0] for x, row in zip(features, rows, strict=True)]
        )
        logits = model.float()(features, rows)
    assert torch.allclose(logits.double(), expected, atol=1e-4)


def test_memory_dropout_keeps_one_mask_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {f"{n}_dropout": 0.0 for n in ("embedding", "stem", "question", "read", "output")}
    model = small("mac", **options, memory_dropout=0.5).train()
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
