"""Two processes that train together have the questions, losses and weights of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from filmvqa.checkpoints.checkpoint import load_checkpoint
from tests.models.small_models import SMALL
from tests.training.several_processes import Job, run_job, run_jobs
from tests.training.tiny_runs import loader_of, metrics, same

FILM = {"name": "film", **SMALL["film"]}
READS = FILM | {
    "reads": True, "sets": 2, "generator": {"word_attention": True},
    "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [14]},
}  # fmt: skip
MAC = {"name": "mac", **SMALL["mac"]}
NO_DROPOUT = {
    f"{part}_dropout": 0.0 for part in ("embedding", "stem", "question", "read", "output", "memory")
}
#: Models and options of their trainers by name.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "film": (FILM, {"ema_decay": 0.9, "film_penalty": 0.1}),
    "reads": (READS, {"questions_per_image": 4, "program_loss": 0.5}),
    "mac": (MAC | NO_DROPOUT, {"ema_decay": 0.9}),
    "lstm": ({"name": "lstm", **SMALL["lstm"], "classifier_norm": "all"}, {}),
    "cnn_lstm": ({"name": "cnn_lstm", **SMALL["cnn_lstm"]}, {"questions_per_image": 4}),
}


def job(folder: Path, case: str, *, double: bool, **trainer: Any) -> Job:
    model, options = CASES[case]
    return Job(str(folder), model, double, options | trainer)


@pytest.fixture(scope="module")
def folders(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """All cases in one process, and in two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")

    def jobs(folder: Path) -> list[Job]:
        every = [
            job(folder / f"{case}_{double}", case, double=double)
            for case in CASES for double in (True, False)
        ]  # fmt: skip
        dropout = Job(str(folder / "dropout"), MAC, trainer={"max_steps": 16})
        started = replace(dropout, folder=str(folder / "resumed"), trainer={"max_steps": 9})
        alone = Job(str(folder / "each"), FILM, trainer={"sync_batch_norm": False})
        film = job(folder / "fewer", "film", double=True, max_steps=8)
        return [*every, dropout, started, replace(started, trainer={"max_steps": 16}), alone, film]

    for each in jobs(one):
        run_job(tiny_set, each)
    run_jobs(2, tiny_set, jobs(two))
    return one, two


def losses(folder: Path) -> Tensor:
    return torch.tensor([record["loss"] for record in metrics(folder) if "loss" in record])


def weights(folder: Path, key: str = "weights") -> dict[str, Tensor]:
    """Weights without biases, which have no effect before a batch norm."""
    content: dict[str, Tensor] = load_checkpoint(folder / "last.pt")[key]
    return {name: value for name, value in content.items() if not name.endswith("bias")}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_in_double_precision_two_processes_equal_one(case: str, folders: tuple[Path, Path]) -> None:
    """Losses are recorded in float32, hence their tolerance."""
    one, two = (folder / f"{case}_True" for folder in folders)
    torch.testing.assert_close(losses(one), losses(two), rtol=1e-6, atol=1e-6)
    assert_close(weights(one), weights(two), 1e-8)
    if "ema_decay" in CASES[case][1]:
        assert_close(weights(one, "ema_weights"), weights(two, "ema_weights"), 1e-8)


@pytest.mark.parametrize("case", CASES)
def test_in_single_precision_they_differ_by_rounding(case: str, folders: tuple[Path, Path]) -> None:
    one, two = (folder / f"{case}_False" for folder in folders)
    torch.testing.assert_close(losses(one), losses(two), rtol=1e-4, atol=1e-4)
    assert_close(weights(one), weights(two), 1e-3)


def test_evaluations_and_records_equal_those_of_one(folders: tuple[Path, Path]) -> None:
    one, two = (folder / "film_True" for folder in folders)
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ("step", "accuracy", "val_accuracy", "train_accuracy", "val_by_type"):
            assert ours.get(key) == theirs.get(key)


def test_a_batch_smaller_than_the_number_of_processes(tiny_set: Path, tmp_path: Path) -> None:
    """Three processes train, and each epoch's last batch has two questions."""
    questions = len(loader_of(tiny_set).questions)
    jobs = [
        job(tmp_path / str(count), "film", double=True, batch_size=questions - 2, max_steps=4)
        for count in (1, 3)
    ]
    run_job(tiny_set, jobs[0])
    run_jobs(3, tiny_set, jobs[1:])
    torch.testing.assert_close(losses(tmp_path / "1"), losses(tmp_path / "3"), rtol=1e-6, atol=1e-6)
    assert_close(weights(tmp_path / "1"), weights(tmp_path / "3"), 1e-6)


def test_an_interrupted_run_ends_with_the_same_bits(folders: tuple[Path, Path]) -> None:
    """With dropout, whose masks differ between processes."""
    _, two = folders
    whole, resumed = (load_checkpoint(two / name / "last.pt") for name in ("dropout", "resumed"))
    assert same(whole["weights"], resumed["weights"])
    assert same(whole["optimizer"], resumed["optimizer"])
    first, second = (s["cpu"] for s in (whole["random"], *whole["random_of_others"]))
    assert not torch.equal(first, second)


def test_a_run_of_two_processes_is_resumed_by_one(
    folders: tuple[Path, Path], tiny_set: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = folders
    run_job(tiny_set, job(two / "fewer", "film", double=True))
    assert "resuming where bits may differ (processes was 2, now" in capfd.readouterr().err
    torch.testing.assert_close(
        losses(two / "fewer"), losses(one / "film_True"), rtol=1e-6, atol=1e-6
    )


def test_each_process_can_normalise_its_part_alone(folders: tuple[Path, Path]) -> None:
    one, two = (losses(folder / "each") for folder in folders)
    assert two.isfinite().all()
    assert abs(one[0] - two[0]) > 1e-4
