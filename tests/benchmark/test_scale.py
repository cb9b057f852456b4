from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.benchmark import scale_measure
from filmvqa.benchmark.scale import (
    BUCKET_BYTES,
    Link,
    LinkMeasurement,
    NetworkMeasurement,
    buckets,
    exposed_sums,
    fitted,
    fitted_link,
    simulate_step,
)
from filmvqa.benchmark.scale_measure import measured_in_processes
from filmvqa.benchmark.scale_run import ScaleMeasurement, faster, measure_scale, read_scale
from filmvqa.benchmark.scale_tables import RUNS, agreement, scale_tables
from filmvqa.cli.command import typed_settings
from filmvqa.cli.settings import SimulateScaleConfig
from filmvqa.models import build_model
from filmvqa.system import processes
from filmvqa.system.errors import UserError
from tests.conftest import REPOSITORY, run_script

MEASURED = REPOSITORY / "docs/scale.json"
LINK = Link(latency=1e-4, bandwidth=1e9, exchange=1e-3, busy=0.5, copy=1e10, overhead=0.01)
GRADIENTS = st.lists(
    st.tuples(st.integers(1, 10**8), st.floats(0, 1)), min_size=1, max_size=12
).map(lambda values: sorted(values, key=lambda value: value[1]))


def network(**changes) -> NetworkMeasurement:
    steps = {size: [0.1 + 0.01 * size] * 3 for size in (1, 2, 4, 8, 16)}
    plain = NetworkMeasurement(
        batch=8, gradients=[(10**6, 0.5), (10**8, 1.0)], forward=0.3, backward=0.6, norms=[4, 6],
        alone=steps, shared=steps, threads=[0.1], beside=[[[0.1, 0.04]], [[0.1, 0.04]]],
        exchanging=[0.144], summing=[0.3], together=[0.3],
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


@given(GRADIENTS)
def test_buckets_are_those_of_ddp(gradients: list[tuple[int, float]]) -> None:
    tensors = [torch.empty(size, dtype=torch.uint8, device="meta") for size, _ in gradients]
    expected, _ = dist._compute_bucket_assignment_by_size(tensors, list(BUCKET_BYTES))
    sizes = [sum(gradients[i][0] for i in indices) for indices in expected]
    ready = [max(gradients[i][1] for i in indices) for indices in expected]
    assert buckets(gradients) == list(zip(sizes, ready, strict=True))


@given(st.floats(0, 5), st.floats(1e-9, 1e-2))
def test_a_line_is_found_again(a: float, b: float) -> None:
    sizes = (1, 7, 300, 20_000)
    assert fitted({x: a + b * x for x in sizes}) == pytest.approx((a, b), rel=1e-6, abs=1e-7)


def test_a_line_is_nowhere_below_zero() -> None:
    """As the best of all such lines, searched on a grid."""
    for points in ({1: 1.0, 2: 3.0, 4: 9.0}, {1: 9.0, 2: 5.0, 4: 4.0}):
        grid = np.meshgrid(np.linspace(0, 12, 601), np.linspace(0, 3, 601))
        errors = sum(((grid[0] + grid[1] * x) / y - 1) ** 2 for x, y in points.items())
        best = np.unravel_index(errors.argmin(), errors.shape)
        a, b = fitted(points)
        assert min(a, b) >= 0
        assert (a, b) == pytest.approx((grid[0][best], grid[1][best]), abs=0.02)


def test_a_measured_link_is_found_again() -> None:
    sums = [
        (size, LINK.all_reduce(size, 2), 0.5 * LINK.all_reduce(size, 2))
        for size in (2**12, 2**20, 2**24, 2**28)
    ]
    # Its steps beside another take 0.14 s, and its batch norms exchange four times.
    model = network()
    model.summing = [0.14 + exposed_sums(model, LINK, 2, 0.14) + LINK.overhead]
    found = fitted_link(LinkMeasurement(sums, LINK.copy), model)
    assert vars(found) == pytest.approx(vars(LINK))


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_a_sum_takes_as_long_as_its_ring(processes: int) -> None:
    """Counted hop by hop: each process passes a part on, which is summed on its way round once and
    spread on a second."""
    size = 24e6
    parts = np.eye(processes, dtype=int)  # of which process' part each holds how many summands
    seconds = 0.0
    for _ in range(processes - 1):
        parts = parts + np.roll(np.eye(processes, dtype=int), 1, axis=0)
        seconds += LINK.latency + size / processes / LINK.bandwidth
    assert LINK.all_reduce(size, processes) == pytest.approx(2 * seconds)


@given(GRADIENTS, st.floats(0.01, 10), st.sampled_from([2, 8, 64]), st.floats(0, 1))
def test_what_sums_add_lies_between_copying_and_all_of_them(
    gradients: list[tuple[int, float]], compute: float, processes: int, busy: float
) -> None:
    link = Link(1e-4, 1e9, 1e-3, busy, 1e10, 0.0)
    model = network(gradients=gradients, backward=1.0)
    total = sum(size for size, _ in gradients)
    all_sums = sum(link.all_reduce(size, processes) for size, _ in buckets(gradients))
    added = exposed_sums(model, link, processes, compute)
    assert added >= 2 * total / link.copy * (1 - 1e-9) - 1e-12
    assert added <= (2 * total / link.copy + all_sums) * (1 + 1e-9) + 1e-12


def test_sums_hide_where_the_backward_pass_is_long_enough() -> None:
    early = network(gradients=[(10**8, 0.0)], backward=1.0)
    late = network(gradients=[(10**8, 1.0)], backward=1.0)
    copies, seconds = 2 * 10**8 / LINK.copy, LINK.all_reduce(10**8, 2)
    assert exposed_sums(late, LINK, 2, 10.0) == pytest.approx(copies + seconds)
    # The own core works for half of the time of a sum.
    assert exposed_sums(early, LINK, 2, 10.0) == pytest.approx(copies + seconds / 2)


def test_a_step_of_one_process_leaves_out_its_own_measurement() -> None:
    alone = network().alone | {8: [99.0]}
    assert simulate_step(network(alone=alone), LINK, 1, 8).seconds == pytest.approx(0.18)


def test_the_parts_of_a_step_of_two_processes() -> None:
    step = simulate_step(network(gradients=[(10**8, 1.0)]), LINK, 2, 4)
    assert step.compute == pytest.approx(0.14)  # beside another as alone, and no step is longer
    assert step.exchanges == pytest.approx(4e-3)  # forward and backward of two batch norms
    assert step.sums == pytest.approx(0.02 + LINK.all_reduce(10**8, 2) + LINK.overhead)
    slower = network(gradients=[(10**8, 1.0)], beside=[[[0.28], [0.28]], [[0.28], [0.28]]])
    assert simulate_step(slower, LINK, 2, 4).compute == pytest.approx(0.28)


def test_the_slowest_of_several_takes_longer() -> None:
    steps = np.random.default_rng(0).uniform(1, 2, (2, 5000, 1)).tolist()
    waits = [network(beside=steps).wait(count) for count in (1, 2, 8, 64)]
    assert all(a < b for a, b in pairwise(waits))
    drawn = np.random.default_rng(1).uniform(1, 2, (4000, 8)).max(1)
    assert waits[0] == pytest.approx(1, abs=0.02)
    assert waits[2] == pytest.approx(float(np.quantile(drawn, 0.25)) / 1.25, rel=0.02)


def test_processes_wait_after_each_piece() -> None:
    """Two that take turns at being slow are both slow together."""
    turns = [[[1.0, 3.0]] * 50, [[3.0, 1.0]] * 50]
    assert network(beside=turns).wait(64) == pytest.approx(6 / 4)
    assert network(beside=turns).wait(64, pieces=False) == pytest.approx(1)
    assert network(beside=[[[1.0, 3.0]] * 50] * 2).wait(64) == pytest.approx(1)


def test_the_committed_measurement_agrees_with_the_model() -> None:
    rows = agreement(read_scale(MEASURED))
    assert {(name, count) for name, count, *_ in rows} == {
        (name, count) for name in ("demo", "film") for count in (1, 2)
    }
    for name, count, measured, simulated in rows:
        assert abs(simulated / measured - 1) < 0.15, (name, count, measured, simulated)


def test_the_document_has_the_tables_of_the_measurement() -> None:
    document = (REPOSITORY / "docs/scale.md").read_text()
    tables = re.findall(r"(?m)(?:^\|.*\n)+", scale_tables(read_scale(MEASURED)))
    assert len(tables) == 8
    for table in tables:
        assert table in document, table


def test_the_runs_of_a_reproduction_are_those_of_the_sweeps() -> None:
    counts = {}
    for name in RUNS:
        content = yaml.safe_load((REPOSITORY / f"configs/sweep/{name}.yaml").read_text())
        (values,) = content["hydra"]["sweeper"]["params"].values()
        counts[name] = len(values.split(","))
    assert {**counts, "weight_decay": 5 * counts["weight_decay"]} == RUNS


def test_of_two_measurements_the_faster_is_kept() -> None:
    one = read_scale(MEASURED)
    slow = msgspec.json.decode(msgspec.json.encode(one), type=ScaleMeasurement)
    film = slow.networks["film"]
    film.alone = {size: [2 * s for s in steps] for size, steps in film.alone.items()}
    slow.link.copy /= 2
    slow.data.preprocessed /= 2
    fast = msgspec.json.decode(msgspec.json.encode(one), type=ScaleMeasurement)
    fast.networks["film"].together = [s / 2 for s in film.together]
    del fast.networks["demo"]
    both = faster(slow, fast)
    assert both.networks["film"].alone == one.networks["film"].alone
    assert both.networks["film"].together == fast.networks["film"].together
    assert both.networks["demo"] == one.networks["demo"]
    assert (both.link, both.data) == (one.link, one.data)


def test_a_missing_or_damaged_measurement_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json: .*measure=true"):
        read_scale(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(MEASURED.read_text()[:-20])
    with pytest.raises(UserError, match=r"x\.json: .*measure=true"):
        read_scale(tmp_path / "x.json")
    content = json.loads(MEASURED.read_text())
    del content["link"]["copy"]
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"x\.json: .*copy"):
        read_scale(tmp_path / "x.json")


def in_this_process(count: int, work: Callable, *arguments: Any, **_: Any) -> list[Any]:
    """As ``measured_in_processes``, whose processes take long to start."""
    return [work(lambda: None, *arguments) for _ in range(count)]


@pytest.mark.slow
def test_a_network_is_measured_and_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_measure, "measured_in_processes", in_this_process)
    monkeypatch.setattr(scale_measure, "SUMMED_BYTES", (2**10, 2**12, 2**14))
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = compose("simulate_scale", overrides=[
            "models.demo.channels=8", "models.demo.encoder.hidden_dim=8",
        ])  # fmt: skip
    settings = typed_settings(config, SimulateScaleConfig)
    content = json.loads(MEASURED.read_text())
    del content["networks"]["demo"]
    content["link"]["all_reduce"] = content["link"]["all_reduce"][:3]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    measure_scale(
        path, networks=["demo"], models=settings.models, optim=settings.optim,
        trainer=settings.trainer, seconds=0.01, images=32, tune_process=lambda: None,
    )  # fmt: skip
    measured = read_scale(path)
    assert measured.networks["film"] == read_scale(MEASURED).networks["film"]
    demo = measured.networks["demo"]
    assert set(demo.alone) == {64, 128, 256, 512}
    assert set(demo.shared) == {32, 64, 128, 256}
    assert len(demo.beside) == 2
    assert {len(step) for steps in demo.beside for step in steps} == {2 * len(demo.norms) + 1}
    model = build_model(
        settings.models["demo"]["name"], feature_shape=(96, 12, 12), vocab_size=5, num_answers=28,
        **{k: v for k, v in settings.models["demo"].items() if k != "name"},
    )  # fmt: skip
    weights = {name: w for name, w in model.named_parameters() if "embedding" not in name}
    assert 4 * sum(w.numel() for w in weights.values()) < demo.gradient_bytes
    assert len(demo.gradients) == len(list(model.parameters()))
    ready = [at for _, at in demo.gradients]
    assert ready == sorted(ready)
    assert (ready[0] >= 0, ready[-1]) == (True, 1)
    assert 0 < demo.forward < 1 - demo.backward < 1
    assert "| demo |" in scale_tables(measured)


def own_sum(ready: Callable[[], object]) -> tuple[float, int, int]:
    ready()
    total = processes.sum_over_processes(torch.tensor([1.0 + processes.rank()]))
    return float(total), processes.count(), torch.get_num_threads()


@pytest.mark.slow
def test_processes_measure_together() -> None:
    assert measured_in_processes(2, own_sum, threads=1, together=True) == [(3.0, 2, 1)] * 2


def fails(ready: Callable[[], object]) -> None:
    raise ValueError("on purpose")


@pytest.mark.slow
def test_a_process_that_fails_is_not_waited_for() -> None:
    with pytest.raises(ChildProcessError, match="has failed"):
        measured_in_processes(1, fails)


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    run = run_script("simulate_scale.py", "measure=true", "networks=[mac]", cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr == "error: networks=['mac']; choose from demo, film\n"
