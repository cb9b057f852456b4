"""Searches whose trials are not trained: which are tried, pruned, resumed and refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filmvqa.studies.search import study as module
from filmvqa.studies.search.settings import Range, SearchSettings, dimensions
from filmvqa.studies.search.study import Study, run_search
from filmvqa.system.errors import UserError

optuna = pytest.importorskip("optuna")

SPACE = {"optim": {"weight_decay": {"low": 1e-6, "high": 1e-2, "log": True}}}
CONFIG = {"optim": {"lr": 1e-3}, "trainer": {"batch_size": 64}}
#: The validation accuracies of a run, by its weight decay.
Course = Callable[[float], list[float]]


def course(weight_decay: float) -> list[float]:
    best = 1 - 0.1 * abs(math.log10(weight_decay) + 5)  # 1e-5 is the best
    return [0.5 * best, 0.8 * best, best]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, int]]:
    """Replace training; record the folder, weight decay and number of evaluations of each run."""
    runs: list[tuple[str, float, int]] = []

    def train_run(folder: Path, values: dict[str, float], *, end_after: Any) -> float:
        accuracies = course(values["optim.weight_decay"])
        for step, accuracy in enumerate(accuracies, 1):
            if end_after(step, accuracy):
                break
        runs.append((folder.name, values["optim.weight_decay"], step))
        return max(accuracies[:step])

    monkeypatch.setattr(module, "train_run", train_run)
    monkeypatch.setattr(module, "update_curves", lambda layout: None)
    return runs


def make(folder: Path, config: dict[str, Any] = CONFIG, **settings: Any) -> Study:
    return Study(folder, SearchSettings(**{"space": SPACE, "trials": 4} | settings), config)


def search(folder: Path, config: dict[str, Any] = CONFIG, **settings: Any) -> Study:
    study = make(folder, config, **settings)
    run_search(study, lambda values: values)  # type: ignore[arg-type, return-value]
    return study


def test_a_search_ends_and_the_same_command_does_nothing(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path / "a")
    assert [name for name, *_ in trained] == [f"trial_{k:04d}" for k in range(4)]
    values = [value for _, value, _ in trained]
    assert all(1e-6 <= value <= 1e-2 for value in values)
    assert len(set(values)) == 4
    search(tmp_path / "a")
    assert len(trained) == 4
    best = min(values, key=lambda value: abs(math.log10(value) + 5))
    row = capsys.readouterr().out.splitlines()[-4]
    assert row.split()[1:] == [f"{best:.3g}", f"{100 * course(best)[-1]:.2f}%", "complete"]
    search(tmp_path / "a", trials=6)  # continues the search
    search(tmp_path / "b", trials=6)
    assert trained[:6] == trained[6:]  # values depend only on the seed
    search(tmp_path / "c", trials=1, seed=1)
    assert trained[-1][1] != values[0]


def test_trials_below_the_median_are_pruned(tmp_path: Path, trained: list) -> None:
    study = search(tmp_path, trials=12, prune_after_trials=3)
    assert all(steps == 3 for *_, steps in trained[:3])
    pruned = [value for _, value, steps in trained if steps < 3]
    assert pruned
    best = min((value for _, value, _ in trained), key=lambda v: abs(math.log10(v) + 5))
    assert best not in pruned
    assert f"{len(pruned)} pruned" == f"{study.table().count('pruned')} pruned"
    trained.clear()
    search(tmp_path / "late", trials=12, prune_after_trials=3, prune_after_steps=3)
    assert all(steps == 3 for *_, steps in trained)


def test_an_interrupted_trial_is_resumed_with_its_values(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = module.train_run

    def stopped(folder: Path, values: Any, *, end_after: Any) -> float:
        end_after(1, 0.5)
        trained.append((folder.name, values["optim.weight_decay"], 1))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path)
    assert module.train_run is runs
    search(tmp_path)
    assert trained[0][:2] == trained[1][:2]
    assert [name for name, *_ in trained[1:]] == [f"trial_{k:04d}" for k in range(4)]


def test_several_processes_share_the_trials(tmp_path: Path, trained: list) -> None:
    """Each process claims its own trials, and leaves those of running processes alone."""
    first, second = make(tmp_path, trials=3), make(tmp_path, trials=3)
    with first.next_trial() as one, second.next_trial() as two:
        assert (one.number, two.number) == (0, 1)
        assert first.values(one) != second.values(two)
        search(tmp_path, trials=3)
        assert [name for name, *_ in trained] == ["trial_0002"]
    search(tmp_path, trials=3)  # both processes have ended without a result
    assert [name for name, *_ in trained[1:]] == ["trial_0000", "trial_0001"]


def test_failures_are_listed_and_do_not_count(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = module.train_run
    numbers = iter(range(100))

    def fails_once(folder: Path, values: Any, *, end_after: Any) -> float:
        if next(numbers) == 1:
            raise UserError("the loss is nan")
        return runs(folder, values, end_after=end_after)

    monkeypatch.setattr(module, "train_run", fails_once)
    with pytest.raises(UserError) as caught:
        search(tmp_path)
    assert str(caught.value) == "1 of the search's trials failed: trial_0001: the loss is nan"
    assert len(trained) == 4

    def fails(folder: Path, values: Any, *, end_after: Any) -> float:
        raise UserError("no data")

    monkeypatch.setattr(module, "train_run", fails)
    with pytest.raises(UserError, match=r"^3 of the search's trials failed"):
        search(tmp_path / "other")


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ({**CONFIG, "optim": {"lr": 1e-2}}, {}, "optim.lr was 0.001, now 0.01"),
        (CONFIG, {"space": {"optim": {"lr": {"low": 1, "high": 2}}}},
         "search.space.optim.lr.high was None, now 2"),
    ],
)  # fmt: skip
def test_another_search_in_the_folder_is_refused(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    make(tmp_path)
    make(tmp_path, {**CONFIG, "device": "cpu"}, trials=9)  # changes no result
    with pytest.raises(UserError, match="holds a search of another config") as caught:
        make(tmp_path, config, **settings)
    assert message in str(caught.value)
    assert str(caught.value).endswith("choose another run=<name>")


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no study" * 1000)
    with pytest.raises(UserError, match=r"study\.db: is no study that can be read") as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_value_that_its_key_does_not_take_is_refused_before_the_first_trial(
    tmp_path: Path, trained: list
) -> None:
    def settings_of(values: dict[str, Any]) -> Any:
        if values["optim.weight_decay"] > 1e-3:
            raise UserError("optim.weight_decay: too much")
        return values

    with pytest.raises(UserError, match="too much"):
        run_search(make(tmp_path), settings_of)
    assert not trained


def test_a_space() -> None:
    space = {
        "model": {"num_blocks": {"low": 2, "high": 6},
                  "generator": {"decoder": {"choices": ["linear", "mlp"]}}},
        "optim": {"lr": {"low": 1e-4, "high": 1, "log": True}},
    }  # fmt: skip
    assert dimensions(space) == {
        "model.num_blocks": Range(2, 6, log=False),
        "model.generator.decoder": ["linear", "mlp"],
        "optim.lr": Range(1e-4, 1, log=True),
    }


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        ({"low": 1}, "search.space.optim.lr.high: is missing"),
        ({"low": 1, "high": 1}, "search.space.optim.lr.low=1: must be below"),
        ({"low": 0, "high": 1, "log": True}, "search.space.optim.lr.low=0: must be a finite number above 0"),
        ({"low": 0, "high": 1, "step": 1}, "search.space.optim.lr.step: no such key; there are low, high, log"),
        ({"choices": []}, "search.space.optim.lr.choices=[]: must be a list of at least one"),
        ({"choices": [1], "log": True}, "search.space.optim.lr.log: no such key; there are choices"),
        (3, "search.space.optim.lr=3: must be a group of low, high and log"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_by_its_key(leaf: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSettings(space={"optim": {"lr": leaf}})
    assert str(caught.value).startswith(message)
