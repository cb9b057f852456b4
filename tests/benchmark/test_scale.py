from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.benchmark.scale import (
    BUCKET_BYTES,
    Link,
    Network,
    Sums,
    buckets,
    exposed_sums,
    fit_line,
    fit_link,
    scale_tables,
    simulate_step,
)
from filmvqa.system.errors import UserError
from tests.conftest import REPOSITORY

MEASURED = REPOSITORY / "docs/scale.json"
LINK = Link(latency=1e-4, bandwidth=1e9, exchange=1e-3, busy=0.5, copy=1e10, overhead=0.01)
GRADIENTS = st.lists(
    st.tuples(st.integers(1, 10**8), st.floats(0, 1)), min_size=1, max_size=12
).map(lambda values: sorted(values, key=lambda value: value[1]))


def network(**changes) -> Network:
    steps = {size: [0.1 + 0.01 * size] * 3 for size in (1, 2, 4, 8, 16)}
    plain = Network(
        batch=8, gradients=[(10**6, 0.5), (10**8, 1.0)], backward=0.6, norms=[4, 6],
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


def test_a_measured_line_and_a_measured_link_are_recovered() -> None:
    assert fit_line({x: 2 + 3e-3 * x for x in (1, 7, 300)}) == pytest.approx((2, 3e-3))
    sums = [
        (size, LINK.all_reduce(size, 2), 0.5 * LINK.all_reduce(size, 2))
        for size in (2**12, 2**20, 2**24, 2**28)
    ]
    # Steps beside another process take 0.14 s, and the batch norms exchange four times.
    model = network()
    model.summing = [0.14 + exposed_sums(model, LINK, 2, 0.14) + LINK.overhead]
    assert vars(fit_link(Sums(sums, LINK.copy), model)) == pytest.approx(vars(LINK))


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


def test_the_parts_of_a_step() -> None:
    alone = network().alone | {8: [99.0]}  # left out: the step that is compared
    assert sum(simulate_step(network(alone=alone), LINK, 1, 8)) == pytest.approx(0.18)
    step = simulate_step(network(gradients=[(10**8, 1.0)]), LINK, 2, 4)
    assert step.compute == pytest.approx(0.14)  # as alone: no step is longer
    assert step.exchanges == pytest.approx(4e-3)  # forward and backward of two batch norms
    assert step.sums == pytest.approx(0.02 + LINK.all_reduce(10**8, 2) + LINK.overhead)
    # Two processes that are slow in turn are both slow together.
    turns = network(beside=[[[1.0, 3.0]] * 50, [[3.0, 1.0]] * 50])
    assert turns.wait(64) == pytest.approx(6 / 4)
    assert turns.wait(64, pieces=False) == pytest.approx(1)
    drawn = np.random.default_rng(1).uniform(1, 2, (4000, 8))
    slowest = float(np.quantile(drawn.max(1), 0.25)) / 1.25
    steps = np.random.default_rng(0).uniform(1, 2, (2, 5000, 1)).tolist()
    assert network(beside=steps).wait(8) == pytest.approx(slowest, rel=0.02)


def test_the_document_has_the_tables_and_they_agree_with_what_was_measured() -> None:
    tables = scale_tables(MEASURED)
    document = (REPOSITORY / "docs/scale.md").read_text()
    assert [table for table in tables if table not in document] == []
    differences = [int(d) for d in re.findall(r"\| ([+-]\d+)% \|", tables[0])]
    assert len(differences) == 4  # two networks, of one and two processes
    assert max(map(abs, differences)) < 15


def test_a_missing_or_damaged_measurement_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in (None, MEASURED.read_text()[:-20]):
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=r"x\.json: .*take docs/scale\.json"):
            scale_tables(path)
