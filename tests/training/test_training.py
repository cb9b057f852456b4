"""Training runs: their files, early stopping, optimizers, schedules and compilation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from filmvqa.evaluation.batches import Loader
from filmvqa.models import MODELS, build_model, targets_of
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.tasks.protocol import find_task
from filmvqa.training.optimizer import build_optimizer, build_schedule
from filmvqa.training.settings import OptimSettings
from filmvqa.training.state import compile_parts
from filmvqa.training.trainer import Trainer
from tests.models.small_models import small
from tests.training.tiny_runs import LARGER, Runs, learn_by_heart, loader_of, same


def test_the_files_of_a_run(runs: Runs) -> None:
    best = runs.train()
    assert {p.name for p in (runs.folder / "run").iterdir()} == {
        "config.yaml", "metrics.jsonl", "last.pt", "best.pt", "provenance.json",
        ".lock",
    }  # fmt: skip
    assert yaml.safe_load((runs.folder / "run/config.yaml").read_text())["seed"] == 0
    records = runs.metrics()
    assert [r["step"] for r in records if "loss" in r] == [4, 8, 12, 16, 20, 24]
    evaluations = [r for r in records if "val_accuracy" in r]
    assert [r["step"] for r in evaluations] == [8, 16, 24]
    assert max(r["val_accuracy"] for r in evaluations) == best
    assert all(r["gap"] == r["train_accuracy"] - r["val_accuracy"] for r in evaluations)


def test_another_seed_gives_other_weights(runs: Runs) -> None:
    for seed in (0, 1):
        runs.train(str(seed), seed=seed)
    assert not same(runs.last("0")["weights"], runs.last("1")["weights"])


def test_early_stopping(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(
        "filmvqa.training.trainer.Trainer._scores",
        lambda self, loader, rows: (
            torch.arange(len(rows)) < next(scores) * len(rows)
            if loader is self.val_loader
            else torch.ones(len(rows))
        ),
    )
    assert runs.train(max_steps=40, patience=2) == 0.6
    assert runs.last()["progress"]["step"] == 32
    assert runs.best()["progress"]["step"] == 16


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name != "qtype" and targets_of(name) == "answers"]
)  # qtype only counts; test_masks has masks
def test_sixty_four_questions_are_learned_by_heart(name: str, tiny_set: Path) -> None:
    torch.manual_seed(0)
    vocabulary, loader = Vocabulary.load(tiny_set / "vocab.json"), loader_of(tiny_set)
    model = build_model(
        name, vocab_size=len(vocabulary.question), num_answers=len(vocabulary.answer),
        feature_shape=loader.store.shape, **LARGER[name],
    )  # fmt: skip
    batch = loader.batch(torch.arange(64))
    assert learn_by_heart(find_task("answers"), model, batch, 1.0) == 1


def test_coupled_and_decoupled_weight_decay() -> None:
    """Without a gradient, Adam's L2 moves a weight by lr, and AdamW shrinks it by lr × decay."""
    for name, expected in (("adam", 2.0 - 0.1), ("adamw", 2.0 * (1 - 0.1 * 0.5))):
        layer = torch.nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(2.0)
        optimizer = build_optimizer(layer, OptimSettings(name=name, lr=0.1, weight_decay=0.5))
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        assert layer.weight.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("steps", [8, 5])
def test_a_warm_up_that_does_not_end_is_warned_of(
    runs: Runs, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.train(max_steps=steps)
    message = f"optim.warmup_steps=5: the run ends after {steps} steps, before its learning rate"
    assert (message in capsys.readouterr().err) == (steps == 5)


def test_schedules() -> None:
    def rates(name: str) -> list[float]:
        optimizer = torch.optim.Adam(torch.nn.Linear(1, 1).parameters(), lr=1.0)
        schedule = build_schedule(optimizer, OptimSettings(schedule=name, warmup_steps=4), 20)
        out = []
        for _ in range(21):
            out.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return out

    constant, cosine = rates("constant"), rates("cosine")
    assert constant[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(constant[4:]) == {1.0}
    assert cosine[:5] == pytest.approx(constant[:5])
    assert cosine[12] == pytest.approx(0.5)
    assert cosine[20] == pytest.approx(0, abs=1e-9)


def test_compiled_parts_compute_the_same() -> None:
    model = small("film", feature_shape=(6, 4, 4))
    names = list(model.state_dict())
    features, questions = torch.randn(3, 6, 4, 4), torch.tensor([[1, 4, 2], [1, 2, 0], [1, 5, 2]])
    expected = model.eval()(features, questions)
    compile_parts(model, backend="eager")  # traces without compiling
    assert torch.allclose(model(features, questions), expected, atol=1e-6)
    assert list(model.state_dict()) == names


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("store", ["device", "memory", "stream"])
def test_steps_do_not_wait_for_the_device(
    runs: Runs, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(method: Any) -> Any:
        def run(*arguments: Any) -> Any:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return method(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    for owner, name in ((Trainer, "step"), (Loader, "batch")):
        monkeypatch.setattr(owner, name, strict(getattr(owner, name)))
    runs.train(run={"device": "cuda", "store": store})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are listed in /proc")
@pytest.mark.parametrize("store", ["device", "stream"])
def test_a_run_leaves_no_descriptor_open(runs: Runs, store: str) -> None:
    """Neither a finished run, nor one that is refused after its data were opened."""
    runs.train("first", max_steps=8, run={"store": store})
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    runs.train(max_steps=8, run={"store": store})
    with pytest.raises(UserError, match="channels"):
        runs.train("refused", model={"channels": -1}, run={"store": store})
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
