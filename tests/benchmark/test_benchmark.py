from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from filmvqa.benchmark.measure import Work, rnn_gradient_operations, rnn_operations
from filmvqa.benchmark.reference import ReferenceModel
from filmvqa.models import build_model
from filmvqa.models.fast.prefix_tree import prefix_tree
from filmvqa.models.fast.recurrence import run_recurrence
from tests.conftest import run_script

pytestmark = pytest.mark.slow

TINY = [
    "images=4", "copies=4", "questions=80", "runs=1", "reference_runs=1", "times=[1,2]", "matrix_sizes=[256,512]",
    "trainer.batch_size=4", "models.film.encoder.hidden_dim=16", "models.film.channels=16",
    "models.film_pixels.encoder.hidden_dim=16", "models.film_pixels.channels=8",
    "models.mac.dim=16", "models.mac.num_steps=2", "device=cpu",
]  # fmt: skip
PARTS = [
    "question_preprocessing", "feature_extraction", "feature_store.memory", "feature_store.stream",
    "train_step.film", "train_step.film_pixels", "train_step.mac", "train_step.film.stream",
    "train_step.film.grouped", "evaluation",
]  # fmt: skip


def test_every_part_is_measured(tmp_path: Path) -> None:
    run = run_script("benchmark.py", *TINY, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "outputs/benchmark.json").read_text())
    assert set(content) == {"hardware", "ceilings", "sizes", *PARTS}
    assert all(value > 0 for value in content["ceilings"].values())
    for name in PARTS:
        part = content[name]
        assert part["rate"] > 0
        assert len(part["runs"]) == 1
        assert name in run.stdout
        if part["reference_rate"] is not None:
            assert part["ratio"] == pytest.approx(part["rate"] / part["reference_rate"])
        if name.startswith(("train_step", "evaluation", "feature_extraction")):
            ceiling = content["ceilings"][part["ceiling"]]
            assert part["share_of_ceiling"] == pytest.approx(part["rate"] * part["flops"] / ceiling)
    assert {name for name in PARTS if content[name]["ratio"]} == {
        "feature_extraction", "feature_store.stream", "train_step.film", "train_step.film_pixels",
        "train_step.mac",
    }  # fmt: skip
    for rows in content["sizes"].values():
        assert len(rows) == 2


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    run = run_script("benchmark.py", "parts=[speed]", cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("error: parts=['speed']; choose from question_preprocessing")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film", {"channels": 8, "encoder": {"hidden_dim": 12}}),
        ("mac", {"dim": 8, "num_steps": 2}),
    ],
)
def test_the_reference_model_computes_the_same(name: str, options: dict) -> None:
    torch.manual_seed(0)
    model = build_model(name, vocab_size=9, num_answers=5, feature_shape=(6, 4, 4), **options)
    model.eval()  # dropout would differ
    features, image_of_question = torch.randn(3, 6, 4, 4), torch.tensor([0, 2, 1, 1])
    questions = torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0], [1, 2, 0, 0], [1, 4, 5, 2]])
    reference = ReferenceModel(copy.deepcopy(model))
    inputs = (features, questions, image_of_question)
    assert torch.allclose(reference(*inputs), model(*inputs), rtol=1e-5, atol=1e-6)


def test_flops_of_a_gru_are_counted() -> None:
    """The products of the forward pass, and twice as many in the backward pass."""
    rnn, width, inputs = nn.GRU(5, 7, batch_first=True), 7, 5
    questions = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 5, 0]])
    tree = prefix_tree(questions, (questions != 0).sum(1))
    words = torch.randn(len(tree.words), inputs, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        states = run_recurrence(rnn, words, tree)
    prefixes, distinct = len(tree.words), 5
    assert prefixes == distinct
    assert counter.get_total_flops() == 2 * prefixes * 3 * width * (inputs + width)
    with FlopCounterMode(display=False) as counter:
        states.sum().backward()
    state_gradients = 2 * (prefixes - tree.sizes[0]) * 3 * width * width
    other_gradients = 2 * prefixes * 3 * width * (width + 2 * inputs)
    assert counter.get_total_flops() == state_gradients + other_gradients


def test_work_is_timed_after_warming_up_and_compared() -> None:
    calls = []
    work = Work("images", 10, lambda: calls.append("call"), lambda: calls.append("prepare"))
    assert len(work.rates(3, torch.device("cpu"), warm_up=2)) == 3
    assert calls == ["prepare", "call"] * 5
    work.flops, work.ceiling = 5.0, "product"
    record = work.record([2.0, 4.0, 3.0], [1.0, 2.0], {"product": 60.0})
    assert (record["rate"], record["reference_rate"], record["ratio"]) == (3.0, 1.5, 2.0)
    assert (record["share_of_ceiling"], record["spread"]) == (0.25, [2.0, 4.0])


@pytest.mark.parametrize("rnn_type", [nn.GRU, nn.LSTM])
def test_a_recurrent_networks_operations_are_those_of_its_products(rnn_type: type) -> None:
    """On a CPU, torch runs the network as separate products, and counts them."""
    rnn, words = rnn_type(50, 70).double(), torch.randn(60, 50, requires_grad=True).double()
    batch_sizes = torch.tensor([6] * 10)
    with FlopCounterMode(display=False) as forward:
        states = rnn(PackedSequence(words, batch_sizes))[0].data
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    weights = [weight.shape for weight in rnn.parameters()]
    assert rnn_operations(words.shape, weights) == forward.get_total_flops()
    # The first states are zero and need no gradient.
    counted = backward.get_total_flops()
    assert 0.9 * rnn_gradient_operations(words.shape, weights) < counted
    assert counted <= rnn_gradient_operations(words.shape, weights)
