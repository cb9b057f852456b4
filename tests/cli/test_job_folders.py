"""The folders of a sweep's jobs, and the line that describes each job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from filmvqa.cli import sweep_failures
from filmvqa.cli.command import CONFIGS
from filmvqa.cli.job_folders import (
    EXCLUDE_KEYS,
    LEFT_OUT,
    count_jobs,
    describe_job,
    expand_jobs,
    find_swept_keys,
    name_folder,
)
from filmvqa.cli.overrides import compose_config
from filmvqa.cli.sweep_failures import RememberSweep
from tests.cli.test_overrides import value_of


def folders(sweep: list[str], *jobs: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of a sweep's jobs; ``sweep`` holds the command line's overrides."""
    monkeypatch.setattr(sweep_failures, "_SWEEP", sweep_failures._Sweep())
    of_hydra = [override for override in sweep if override.startswith("hydra.")]
    sweep = [override for override in sweep if override not in of_hydra]
    fixed = [override for override in sweep if "," not in override]
    master = compose_config(CONFIGS, "train", [*of_hydra, *fixed], return_hydra_config=True)
    master.hydra.overrides.task = sweep
    RememberSweep().on_multirun_start(master)
    paths = []
    for job in jobs:
        overrides = [*master.hydra.overrides.hydra, *fixed, *job]
        config = compose_config(CONFIGS, "train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        paths.append(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir)
    return paths


def test_what_a_sweep_varies_is_in_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folders(
        ["experiment=lab,film_clevr", "store=stream", "seed=1"],
        ["experiment=lab"], ["experiment=film_clevr"], monkeypatch=monkeypatch,
    ) == [
        Path("outputs/sweeps/train/experiment@lab"),
        Path("outputs/sweeps/train/experiment@film_clevr"),
    ]  # fmt: skip
    assert folders(
        ["experiment=demo", "store=auto,stream", "device=cpu"],
        ["store=auto"], ["store=stream"], monkeypatch=monkeypatch,
    ) == [
        Path("outputs/sweeps/demo/store@auto"),
        Path("outputs/sweeps/demo/store@stream"),
    ]  # fmt: skip


def test_nothing_else_is_in_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep whose data were moved therefore finds its jobs."""
    jobs = [["optim.weight_decay=0"], ["optim.weight_decay=1e-5"]]
    command = ["experiment=demo", "optim.weight_decay=0,1e-5"]
    before = folders(command, *jobs, monkeypatch=monkeypatch)
    assert [path.name for path in before] == ["optim.weight_decay@0", "optim.weight_decay@1e-5"]
    for change in ("store=stream", "data.root=/elsewhere", "optim.lr=1", "debug=true"):
        assert folders([*command, change], *jobs, monkeypatch=monkeypatch) == before


def test_a_sweep_that_names_what_is_left_out_has_all_else_in_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The laboratory's sweeps, which share folders, do so."""
    (folder,) = folders(
        ["model=mac", "seed=0,1", "device=cpu", f"{EXCLUDE_KEYS}=[device,seed]"], ["seed=0"],
        monkeypatch=monkeypatch,
    )  # fmt: skip
    assert folder.name == "model@mac+seed@0"


def test_a_folder_with_the_name_of_an_earlier_version_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["experiment=demo", "seed=0,1", "optim.lr=1", "store=stream"]
    former = Path("outputs/sweeps/demo/optim.lr@1+seed@1")
    former.mkdir(parents=True)
    zero, one = folders(command, ["seed=0"], ["seed=1"], monkeypatch=monkeypatch)
    assert (zero.name, one) == ("seed@0", former)


@pytest.mark.parametrize("sweep", ["baselines", "data_efficiency"])
def test_the_experiments_of_a_sweeps_config_are_in_the_names(
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


def test_which_keys_a_sweep_varies() -> None:
    overrides = ["experiment=a,b", "seed=range(3)", "optim.lr=1e-3", "model.stem.strides=[1,2]",
                 "data.root='a,b'", "store=choice(a,b)"]  # fmt: skip
    assert find_swept_keys(overrides, {"sweep": "a"}) == {"experiment", "seed", "store", "sweep"}


keys = st.sampled_from(["optim.lr", "experiment/ablation", "seed", "data.root"])
values = st.text(st.characters(exclude_characters="\n"), max_size=60)
jobs = st.dictionaries(keys, values, max_size=4).map(
    lambda job: "\n".join(f"{key}={value}" for key, value in sorted(job.items()))
)


@given(jobs, jobs)
@example("optim.lr=1e-3\nseed=-1", "")
@example("data.root=a/b", "data.root=a.b")
@example("data.root=a+seed@1", "data.root=a\nseed=1")
def test_a_sweeps_folders_have_different_names_that_hydra_reads(one: str, other: str) -> None:
    name = name_folder(one)
    assert (name == name_folder(other)) is (one == other)
    assert value_of(f"checkpoint=x/{name}/best.pt") == f"x/{name}/best.pt"
    assert len(name) <= 200


def test_a_sweeps_folder_is_readable() -> None:
    assert name_folder("optim.lr=1e-3\nseed=-1") == "optim.lr@1e-3+seed@-1"
    assert name_folder("experiment/ablation=no_film_4") == "experiment.ablation@no_film_4"


@pytest.mark.parametrize(
    ("overrides", "params", "count"),
    [
        ([], {}, 1),
        (["seed=0,1", "optim.lr=1"], {}, 2),
        (["seed=range(3)"], {"optim.lr": "1,2", "seed": "0,1"}, 6),
        (["experiment=glob(*)"], {}, None),
    ],
)
def test_the_number_of_jobs(overrides: list, params: dict, count: int | None) -> None:
    assert count_jobs(overrides, params) == count


def test_a_job_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    folders(
        ["optim.weight_decay=0,1e-4,0.5", "seed=0,1"], ["optim.weight_decay=0.0001", "seed=1"],
        monkeypatch=monkeypatch,
    )  # fmt: skip
    hydra = HydraConfig.get()
    monkeypatch.setenv(*dict(hydra.job.env_set).popitem())
    OmegaConf.set_readonly(hydra, False)
    hydra.job.num = 1
    assert describe_job() == "job 2 of 6: optim.weight_decay=1e-4, seed=1"


def test_jobs_are_expanded_into_the_folders_that_they_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """The laboratory uses these names to find finished jobs."""
    line = ["experiment=lab", "sweep=decoder", "model.generator.hidden_dims=[128,128]",
            "optim.weight_decay=0,1e-4", "seed=0,1"]  # fmt: skip
    jobs = expand_jobs(line, {})
    named = f"{EXCLUDE_KEYS}=[{','.join(sorted(LEFT_OUT))}]"
    found = folders([named, *line], *jobs.values(), monkeypatch=monkeypatch)
    assert [path.name for path in found] == list(jobs)
    assert len(jobs) == 4
    assert next(iter(jobs.values()))[-2:] == ["optim.weight_decay=0", "seed=0"]


def test_a_sweepers_params_are_expanded_too() -> None:
    params = {"experiment": "lab_patience,lab_patience_mac", "seed": "0,1,2"}
    jobs = expand_jobs(["sweep=data_efficiency", "seed=3"], params)
    assert list(jobs) == ["experiment@lab_patience+seed@3", "experiment@lab_patience_mac+seed@3"]
