"""Weight decay by part, penalties, averaged weights, clipping, and warnings of overfitting."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from filmvqa.checkpoints.checkpoint import eval_weights, model_from_checkpoint
from filmvqa.system.errors import UserError
from filmvqa.training.optimizer import build_optimizer
from filmvqa.training.overfitting import overfitting_warning
from filmvqa.training.settings import OptimSettings
from filmvqa.training.state import update_ema
from filmvqa.training.trainer import Trainer
from tests.models.small_models import small
from tests.training.tiny_runs import Runs, after_steps


def decays(**options: object) -> dict[str, float]:
    """The weight decay of each weight of a small FiLM."""
    model = small("film")
    optimizer = build_optimizer(model, OptimSettings(weight_decay=1e-5, **options))
    names = {id(w): n for n, w in model.named_parameters()}
    decay_of = {
        names[id(w)]: group["weight_decay"]
        for group in optimizer.param_groups for w in group["params"]
    }  # fmt: skip
    assert len(decay_of) == len(names)
    return decay_of


def test_the_film_generator_can_have_another_weight_decay() -> None:
    for name, decay in decays(part_weight_decay={"film_generator": 1e-3, "encoder": None}).items():
        assert decay == (1e-3 if name.startswith("film_generator.") else 1e-5), name
    with pytest.raises(UserError, match=r"no part 'generator'; it has encoder, "):
        decays(part_weight_decay={"generator": 1e-3})


def test_norms_and_biases_can_have_no_weight_decay() -> None:
    expected = {
        "film_generator.decoder.0.weight": 1e-3, "film_generator.decoder.0.bias": 0,
        "stem.layers.1.weight": 0, "stem.layers.0.weight": 1e-5, "encoder.embedding.weight": 1e-5,
    }  # fmt: skip
    options = {"decay_norms_and_biases": False, "part_weight_decay": {"film_generator": 1e-3}}
    assert decays(**options).items() >= expected.items()
    assert set(decays().values()) == {1e-5}


def test_the_penalty_moves_gamma_to_one_and_beta_to_zero(runs: Runs) -> None:
    sizes = []
    for penalty in (0.0, 100.0):
        optim = {"lr": 1e-2, "schedule": "constant"}
        runs.train(str(penalty), max_steps=48, film_penalty=penalty, optim=optim)
        model, _ = model_from_checkpoint(runs.last(str(penalty)), runs.folder)
        modulation = model.modulate(torch.randint(4, 20, (16, 8)))
        sizes.append(model.film_generator.penalty(modulation).item())
    assert sizes[1] < 0.3 * sizes[0]


def test_averaged_weights_follow_their_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = copy.deepcopy(layer)
    expected = layer.weight.item()
    for value in (1.0, 2.0, 5.0):
        layer.weight.data.fill_(value)
        update_ema(average, layer, 0.9)
        expected = 0.9 * expected + 0.1 * value
        assert average.weight.item() == pytest.approx(expected)


def test_averaged_weights_are_saved_and_evaluated(runs: Runs) -> None:
    runs.train(ema_decay=0.99)
    content = runs.last()
    name = "film_generator.decoder.0.weight"
    assert not torch.equal(content["ema_weights"][name], content["weights"][name])
    assert eval_weights(content) is content["ema_weights"]


def history(*evaluations: tuple[float, float]) -> list[dict]:
    return [{"step": 10 * i, "val_accuracy": val, "gap": gap}
            for i, (val, gap) in enumerate(evaluations, 1)]  # fmt: skip


def test_overfitting_is_warned_of_once_if_the_gap_grows_without_better_validation() -> None:
    past = history((0.7, 0.01), (0.8, 0.02), (0.8, 0.03), (0.801, 0.04), (0.79, 0.06), (0.8, 0.09))
    warnings = [overfitting_warning(past[: i + 1]) for i in range(len(past))]
    assert [w is not None for w in warnings] == [False] * 4 + [True, False]
    assert "since step 20 validation has not improved on 80.0%" in warnings[4]
    assert "grew from 2.0 to 6.0 points" in warnings[4]
    assert "optim.weight_decay" in warnings[4]


@pytest.mark.parametrize(
    "evaluations",
    [
        [(0.5 + 0.02 * i, 0.05 * i) for i in range(8)],  # validation improves
        [(0.8, 0.02)] * 8,  # the gap is constant
        [(0.8, 0.2 - 0.02 * i) for i in range(8)],  # the gap shrinks
        [(0.8, 0.0), (0.8, 0.1), (0.8, 0.2)],  # too few evaluations
    ],
)
def test_other_evaluations_are_no_overfitting(evaluations: list) -> None:
    past = history(*evaluations)
    assert all(overfitting_warning(past[: i + 1]) is None for i in range(len(past)))


def test_a_run_that_overfits_prints_a_warning(runs: Runs, capsys) -> None:
    runs.train(run={"fraction": 0.1}, max_steps=300, eval_every=10,
        max_epochs=150, train_sample=None, optim={"lr": 1e-2, "schedule": "constant"},
    )  # fmt: skip
    assert capsys.readouterr().out.count("overfitting: since step") >= 1
    last = [r for r in runs.metrics() if "gap" in r][-1]
    assert last["gap"] > 0.2
    assert set(last["val_by_type"]) <= {
        "count", "exist", "compare integer", "query attribute", "compare attribute",
    }  # fmt: skip


@pytest.mark.parametrize("by_part", [False, True])
def test_gradients_are_clipped_together_or_by_part(
    runs: Runs, by_part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By part: encoder and FiLM generator to one norm, the rest to another, as the original."""
    norms: list[list[float]] = []

    def measure(trainer: Trainer, batch: Any) -> None:
        parts: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for name, weight in trainer.state.model.named_parameters():
            parts[name.split(".")[0] in ("encoder", "film_generator")].append(weight.grad.flatten())
        norms.append([float(torch.cat(gradients).norm()) for gradients in parts.values()])

    after_steps(monkeypatch, measure)
    options = {"grad_clip": 1e-4, "grad_clip_by_part": by_part, "precision": "float32"}
    runs.train(max_steps=3, eval_every=3, **options)
    for question, network in norms:
        if by_part:
            assert (question, network) == pytest.approx((1e-4, 1e-4), rel=1e-2)
        else:
            assert (question**2 + network**2) ** 0.5 == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"film_penalty": 0.1, "name": "lstm"}, "no γ and β"),
        ({"program_loss": 0.1}, r"program_loss: this model reads no maps; film_reads"),
        ({"program_loss": 0.1, "name": "mac"}, r"program_loss: this model reads no maps"),
        ({"grad_clip_by_part": True}, r"grad_clip_by_part: needs trainer\.grad_clip; give"),
        ({"grad_clip_by_part": True, "grad_clip": 1.0, "name": "lstm"},
         r"grad_clip_by_part: this model has no FiLM generator"),
    ],
    ids=str,
)  # fmt: skip
def test_options_for_parts_that_a_model_lacks_are_refused(
    runs: Runs, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        runs.train(**options)
    assert not (runs.folder / "run/last.pt").exists()
