"""Supervision by programs: the loss by hand, in accelerated networks, and in a run."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from filmvqa.checkpoints.checkpoint import model_from_checkpoint
from filmvqa.evaluation.batches import Batch
from filmvqa.models import build_model
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.models.protocols import PlaceScores
from filmvqa.questions.program_targets import NamedObjects
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.training.added_losses import program_loss
from tests.models.small_models import SMALL
from tests.training.tiny_runs import Runs, loader_of

COUNTS: dict[str, Any] = {
    "reads": True, "sets": 2, "head_inputs": "all", "coordinates": "none",
    "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [14]},
}  # fmt: skip
SLOTS = {"backbone": "clevr_slots"}


def batch_of(
    named: NamedObjects, image_of_question: list[int], features: Tensor | None = None
) -> Batch:
    images = len(named.positions)
    count = len(image_of_question)
    return Batch(
        features=torch.zeros(images, 1, 2, 2) if features is None else features,
        image_of_question=torch.tensor(image_of_question), questions=torch.ones(count, 1).long(),
        targets=None, index=torch.arange(count), whole_size=count, named=named,
    )  # fmt: skip


def two_questions() -> tuple[PlaceScores, Batch]:
    """Two questions about an image of 2 × 3 places with objects 0, 1, 2 at places 0, 5, 4.

    The first refers to objects 2 and 1, the second to object 0, and counts the set of 0 and 2.
    """
    positions = torch.tensor([[[0.1, 0.2], [0.9, 0.99], [0.5, 0.7]]])
    named = NamedObjects(
        torch.tensor([[2, 1], [0, -1]]), torch.tensor([[-1, -1], [0b101, -1]]), positions
    )
    torch.manual_seed(0)
    scores = PlaceScores((2, 3), torch.randn(2, 2, 6), torch.randn(2, 2, 6))
    return scores, batch_of(named, [0, 0])


def test_the_loss_by_hand() -> None:
    scores, batch = two_questions()
    log_attention = torch.log_softmax(scores.reads, 2)
    reads = [-(log_attention[0, 0, 4] + log_attention[0, 1, 5]) / 2, -log_attention[1, 0, 0]]
    s = torch.sigmoid(scores.sets[1, 0])
    of_set = -(s[0].log() + s[4].log() + (1 - s[5]).log()) / 3
    expected = (reads[0] + reads[1] + of_set) / 2
    assert program_loss(scores, batch, None) == pytest.approx(expected.item(), abs=1e-6)


def test_each_question_counts_as_much_in_a_part_of_a_batch() -> None:
    """The mean over processes is then the mean of the whole batch."""
    scores, batch = two_questions()
    named = batch.named
    assert named is not None
    parts = [
        program_loss(
            PlaceScores(scores.size, scores.reads[[i]], scores.sets[[i]]),
            batch_of(NamedObjects(named.referents[[i]], named.sets[[i]], named.positions), [0]),
            None,
        )
        for i in range(2)
    ]
    whole = program_loss(scores, batch, None)
    assert whole.item() == pytest.approx(sum(parts).item() / 2, abs=1e-6)


def test_a_place_of_two_objects_is_in_a_set_if_either_is() -> None:
    positions = torch.tensor([[[0.1, 0.1], [0.12, 0.1], [0.9, 0.9]]])
    named = NamedObjects(torch.tensor([[-1]]), torch.tensor([[0b010]]), positions)
    scores = PlaceScores((2, 2), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    scores.sets[0, 0] = torch.tensor([30.0, 7.0, -7.0, -30.0])
    assert program_loss(scores, batch_of(named, [0]), None).item() < 1e-6


def test_programs_that_name_more_than_the_network_reads_or_nothing() -> None:
    positions = torch.tensor([[[0.1, 0.1], [0.9, 0.9]]])
    named = NamedObjects(torch.tensor([[0, 1], [-1, -1]]), torch.tensor([[-1], [-1]]), positions)
    scores = PlaceScores((2, 2), torch.zeros(2, 1, 4), torch.zeros(2, 0, 4))
    loss = program_loss(scores, batch_of(named, [0, 0]), None)
    assert loss.item() == pytest.approx(math.log(4) / 2)


def test_objects_get_their_nearest_slots() -> None:
    """An object has no slot if another object is nearer to its nearest slot."""
    features = torch.zeros(1, 5, 4, 1)
    features[0, 2:, 0, 0] = torch.tensor([0.8, 0.8, 0.9])  # x, y and probability: at (0.9, 0.9)
    features[0, 2:, 2, 0] = torch.tensor([-0.8, 0.0, 0.7])  # at (0.1, 0.5); the others are empty
    positions = torch.tensor([[[0.12, 0.5], [0.4, 0.5], [0.88, 0.9], [torch.nan] * 2]])
    named = NamedObjects(torch.tensor([[0], [1], [2]]), torch.tensor([[-1]] * 3), positions)
    scores = PlaceScores((4, 1), torch.randn(3, 1, 4), torch.zeros(3, 0, 4))
    attention = torch.log_softmax(scores.reads, 2)
    loss = program_loss(scores, batch_of(named, [0, 0, 0], features), SLOTS)
    assert loss.item() == pytest.approx(-(attention[0, 0, 2] + attention[2, 0, 0]).item() / 3)
    halved = PlaceScores((2, 1), torch.zeros(3, 1, 2), torch.zeros(3, 0, 2))
    with pytest.raises(UserError, match=r"2 places for 4 slots; give model.stem.strides=\[1\]"):
        program_loss(halved, batch_of(named, [0, 0, 0], features), SLOTS)


def read_batch(tiny_set: Path, count: int = 24) -> tuple[Batch, Vocabulary]:
    loader = loader_of(tiny_set, programs=True)
    return loader.batch(torch.arange(count) * 3), Vocabulary.load(tiny_set / "vocab.json")


def network(batch: Batch, vocabulary: Vocabulary) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(
        "film", **{**SMALL["film"], **COUNTS}, vocab_size=len(vocabulary.question),
        num_answers=len(vocabulary.answer), feature_shape=list(batch.features.shape[1:]),
    )  # fmt: skip


def loss_of(model: torch.nn.Module, batch: Batch) -> Tensor:
    _, scores = model(batch.features, batch.questions, batch.image_of_question, return_scores=True)
    return program_loss(scores, batch, None)


def test_accelerated_networks_have_the_same_loss_and_gradients(tiny_set: Path) -> None:
    batch, vocabulary = read_batch(tiny_set)
    batch.features = batch.features.float()
    plain = network(batch, vocabulary)
    fast = copy.deepcopy(plain)
    assert "blocks.0" in accelerate(fast).replaced
    losses = []
    for model in (plain, fast):
        losses.append(loss_of(model, batch))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        if one.grad is not None:
            scale = one.grad.abs().max().clamp(min=1e-2)
            assert (one.grad - other.grad).abs().max() <= 1e-4 * scale, name
    assert plain.film_generator.decoder[0].weight.grad.abs().max() > 1e-3


def test_batches_without_programs_are_refused(tiny_set: Path) -> None:
    batch = loader_of(tiny_set).batch(torch.arange(4))
    assert batch.named is None
    with pytest.raises(UserError, match=r"trainer.program_loss: .* no programs; give 0"):
        program_loss(two_questions()[0], batch, None)


def test_reads_learn_to_find_referents(tiny_set: Path, runs: Runs) -> None:
    """The loss falls further than without supervision, and attention to referents rises."""
    options = {"model": COUNTS, "questions_per_image": 4, "optim": {"lr": 1e-2}}
    batch, vocabulary = read_batch(tiny_set, 150)
    losses, shares = {}, {}
    for weight in (0.0, 1.0):
        runs.train(str(weight), max_steps=150, eval_every=75, program_loss=weight, **options)
        model, _ = model_from_checkpoint(runs.last(str(weight)), runs.folder)
        losses[weight] = loss_of(model.eval(), batch).item()
        shares[weight] = share_at_first_referent(model, batch)
    begin = network(batch, vocabulary).eval()
    assert losses[1.0] < 0.7 * losses[0.0]
    assert losses[1.0] < 0.7 * loss_of(begin, batch).item()
    assert shares[1.0] > 2 * max(shares[0.0], share_at_first_referent(begin, batch))
    inputs = runs.last("1.0")["inputs"]
    assert "program_targets" in inputs["train"]
    assert "program_targets" not in inputs["val"]
    assert "program_targets" not in runs.last("0.0")["inputs"]["train"]


def share_at_first_referent(model: torch.nn.Module, batch: Batch) -> float:
    """The first block's mean attention to the place of the first referent."""
    assert batch.named is not None
    _, scores = model(batch.features, batch.questions, batch.image_of_question, return_scores=True)
    first = batch.named.referents[:, 0]
    has_one = first >= 0
    positions = batch.named.positions[batch.image_of_question[has_one], first[has_one]]
    height, width = scores.size
    x, y = positions.unbind(1)
    places = (y * height).long() * width + (x * width).long()
    attention = torch.softmax(scores.reads[has_one, 0], 1)
    return attention.gather(1, places[:, None]).mean().item()
