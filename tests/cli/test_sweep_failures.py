"""The folders of a sweep's jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from filmvqa.cli import sweep_failures
from filmvqa.cli.command import CONFIGS
from filmvqa.cli.sweep_failures import RememberSweep


def composed(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=overrides, return_hydra_config=True)


def folders(sweep: list[str], *jobs: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the jobs of a sweep; ``sweep`` is what the command line gives."""
    monkeypatch.setattr(sweep_failures, "_SWEEP", sweep_failures._Sweep())
    fixed = [override for override in sweep if "," not in override]
    master = composed(fixed)
    master.hydra.overrides.task = sweep
    RememberSweep().on_multirun_start(master)
    found = []
    for job in jobs:
        config = composed([*master.hydra.overrides.hydra, *fixed, *job])
        HydraConfig.instance().set_config(config)
        hydra = config.hydra
        found.append(Path(hydra.sweep.dir) / hydra.sweep.subdir)
    return found


def test_what_a_sweep_varies_is_in_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also experiments, stores and devices, whose names are not in them otherwise."""
    assert folders(
        ["experiment=lab,film_clevr", "store=stream", "seed=1"],
        ["experiment=lab"], ["experiment=film_clevr"], monkeypatch=monkeypatch,
    ) == [
        Path("outputs/sweeps/train/experiment@lab+seed@1"),
        Path("outputs/sweeps/train/experiment@film_clevr+seed@1"),
    ]  # fmt: skip
    assert folders(
        ["experiment=demo", "store=auto,stream", "device=cpu"],
        ["store=auto"], ["store=stream"], monkeypatch=monkeypatch,
    ) == [
        Path("outputs/sweeps/demo/store@auto"),
        Path("outputs/sweeps/demo/store@stream"),
    ]  # fmt: skip


def test_what_it_does_not_vary_and_changes_nothing_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [["optim.weight_decay=0"], ["optim.weight_decay=1e-5"]]
    command = ["experiment=demo", "optim.weight_decay=0,1e-5"]
    before = folders(command, *jobs, monkeypatch=monkeypatch)
    assert [path.name for path in before] == ["optim.weight_decay@0", "optim.weight_decay@1e-5"]
    for change in ("store=stream", "device=cpu", "logger=wandb", "resume=true", "debug=true"):
        assert folders([*command, change], *jobs, monkeypatch=monkeypatch) == before


@pytest.mark.parametrize("sweep", ["baselines", "data_efficiency"])
def test_the_experiments_of_a_sweeps_own_config_are(
    sweep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = folders(
        [f"sweep={sweep}"], ["experiment=mac_clevr"], monkeypatch=monkeypatch
    )  # fmt: skip
    assert folder == Path(f"outputs/sweeps/{sweep}/experiment@mac_clevr")


def test_a_sweep_of_one_job_has_a_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folders(["experiment=demo"], [], monkeypatch=monkeypatch) == [
        Path("outputs/sweeps/demo/defaults")
    ]
