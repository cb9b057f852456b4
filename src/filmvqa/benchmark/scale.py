"""The time of a training step on more processes than were measured: docs/scale.md's tables.

A step computes, exchanges statistics of batch norms, and sums gradients in the backward pass. Each
part was measured separately, the last two with two processes; no step with both is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from scipy.optimize import nnls

from filmvqa.system.files import read_bytes
from filmvqa.system.tables import markdown_table
from filmvqa.worlds.engine.schema import decode_json

#: The fewest bytes of gradients that DDP sums at a time: in the first bucket, and in the others.
BUCKET_BYTES = (2**20, 25 * 2**20)
#: Processes, and the network between their machines of two processes each (assumed): bytes per
#: second of a link, and seconds that it adds to a message.
PROCESSES = (
    (1, "", math.inf, 0.0), (2, "", math.inf, 0.0),
    (8, ", 10 Gb/s", 1.25e9, 50e-6), (8, ", 100 Gb/s", 12.5e9, 10e-6),
    (64, ", 10 Gb/s", 1.25e9, 50e-6), (64, ", 100 Gb/s", 12.5e9, 10e-6),
)  # fmt: skip
#: Measured on one H200 (docs/performance.md) with the paper's network: questions in a batch,
#: questions per second, and bytes copied per second.
GPU_BATCH, GPU_RATE, GPU_COPY = 1024, 17_496, 1.839e12
#: GPUs, their connection, seconds of a message, bytes per second of a link, and seconds of an
#: exchange (assumed; NVLink's data sheet says 450 GB/s in each direction).
GPUS = (
    (8, "NVLink, one machine", 10e-6, 450e9, 20e-6),
    (64, "100 Gb/s, 8 machines", 20e-6, 12.5e9, 30e-6),
    (64, "10 Gb/s, 8 machines", 60e-6, 1.25e9, 70e-6),
)


def typical(seconds: Iterable[float]) -> float:
    """The lower quartile; other programs can only slow a step down."""
    return float(np.quantile(list(seconds), 0.25))


class Network(msgspec.Struct):
    """Measurements of a network's steps, in seconds; docs/scale.md describes them.

    ``gradients`` are in the order in which they are ready: their bytes, and the share of the
    backward pass after which they are. ``backward`` is this pass's share of a step, and ``norms``
    are the channels of batch norms. Steps of one process are by batch size: ``alone``, with the
    batch norms of several processes (``shared``), or with two ``threads``. ``beside`` are steps of
    two unrelated processes, in the pieces between would-be exchanges. Two processes that train
    together share only statistics (``exchanging``), only gradients (``summing``) or both.
    """

    batch: int
    gradients: list[tuple[int, float]]
    backward: float
    norms: list[int]
    alone: dict[int, list[float]]
    shared: dict[int, list[float]]
    threads: list[float]
    beside: list[list[list[float]]]
    exchanging: list[float]
    summing: list[float]
    together: list[float]

    @property
    def step_beside(self) -> float:
        """The typical step of ``beside``, over both processes."""
        return typical(sum(step) for steps in self.beside for step in steps)

    def wait(self, processes: int, pieces: bool = True) -> float:
        """The slowdown if processes wait for the slowest after each piece (or only after the
        step), from 4,000 draws of steps of ``beside``."""
        steps = np.concatenate([np.array(steps) for steps in self.beside])  # (steps, pieces)
        if not pieces:
            steps = steps.sum(1, keepdims=True)
        drawn = np.random.default_rng(0).integers(len(steps), size=(4000, processes))
        return typical(steps[rows].max(0).sum() for rows in drawn) / typical(steps.sum(1))


class Sums(msgspec.Struct):
    """Sums over two processes (bytes, seconds, processor seconds), and bytes copied per second."""

    all_reduce: list[tuple[int, float, float]]
    copy: float


class Measurement(msgspec.Struct):
    """The measurements of a machine."""

    link: Sums
    networks: dict[str, Network]


@dataclass(frozen=True)
class Link:
    """A connection between processes: seconds of a message in a ring (``latency``), bytes per
    second to the next process (``bandwidth``), seconds of an exchange of a few numbers between two
    processes, the share of a sum in which the process's core is ``busy``, bytes per second of
    copying gradients into buckets and back, and seconds that summing adds to each step."""

    latency: float
    bandwidth: float
    exchange: float
    busy: float
    copy: float
    overhead: float

    def all_reduce(self, size: float, processes: int) -> float:
        """Seconds of a sum of ``size`` bytes in a ring (Patarasuk and Yuan, 2009)."""
        return 2 * (processes - 1) * (self.latency + size / processes / self.bandwidth)


class Step(NamedTuple):
    """Seconds of a step's parts: computing (until the slowest process is ready), exchanges of
    batch norms, and the sums of gradients that the backward pass does not hide."""

    compute: float
    exchanges: float
    sums: float


def fit_line(seconds: dict[int, float]) -> tuple[float, float]:
    """Fit a line a + b x with a, b ≥ 0 by least squares of relative errors."""
    sizes, times = np.array(list(seconds)), np.array(list(seconds.values()))
    (a, b), _ = nnls(np.stack([1 / times, sizes / times], 1), np.ones(len(times)))
    return float(a), float(b)


def fit_link(sums: Sums, network: Network) -> Link:
    """Fit the link between two processes. Steps with only exchanges or only sums are longer than
    steps beside another process; the link has the rest that measured sums do not explain."""
    sizes, seconds, busy = (np.array(values) for values in zip(*sums.all_reduce, strict=True))
    latency, per_byte = fit_line(dict(zip(sizes.tolist(), seconds.tolist(), strict=True)))
    large = sizes >= np.median(sizes)
    share = min(float((busy[large] / seconds[large]).mean()), 1.0)
    link = Link(latency / 2, 1 / per_byte if per_byte else math.inf, 0.0, share, sums.copy, 0.0)
    exchanges = typical(network.exchanging) - network.step_beside * network.wait(2)
    compute = network.step_beside * network.wait(2, pieces=False)
    overhead = typical(network.summing) - compute - exposed_sums(network, link, 2, compute)
    return replace(
        link, exchange=max(exchanges, 0.0) / (2 * len(network.norms)), overhead=max(overhead, 0.0)
    )


def buckets(gradients: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """DDP's buckets of ``Network.gradients``, in the same form; it never divides a gradient."""
    full: list[tuple[int, float]] = []
    size, ready = 0, 0.0
    for gradient, at in gradients:
        size, ready = size + gradient, max(ready, at)
        if size >= BUCKET_BYTES[min(len(full), 1)]:
            full.append((size, ready))
            size = 0
    return [*full, (size, ready)] if size else full


def exposed_sums(network: Network, link: Link, processes: int, compute: float) -> float:
    """Seconds by which summing gradients lengthens a step that computes for ``compute`` seconds.

    A bucket is copied when its gradients are ready, and summed after the bucket before it. The
    core's work for a sum delays the backward pass. Then the buckets are copied back in turn.
    """
    backward = compute * network.backward
    delay = free = 0.0
    finished = []
    for size, at in buckets(network.gradients):
        delay += size / link.copy
        start = max(at * backward + delay, free)
        seconds = link.all_reduce(size, processes)
        free = start + seconds
        # Only the part of a sum that overlaps the backward pass can delay it.
        delay += link.busy * min(seconds, max(backward + delay - start, 0.0))
        finished.append((size, free))
    now = backward + delay
    for size, end in finished:
        now = max(now, end) + size / link.copy
    return now - backward


def simulate_step(network: Network, link: Link, processes: int, local: float) -> Step:
    """Simulate a step of processes with one thread and ``local`` questions each."""
    # For one process, leave out the measured step, which is compared with this one.
    alone = {size: steps for size, steps in network.alone.items() if size != local}
    measured = alone if processes == 1 else network.shared
    fixed, per_question = fit_line({size: typical(steps) for size, steps in measured.items()})
    compute = fixed + per_question * local
    if processes == 1:
        return Step(compute, 0.0, 0.0)
    contention = network.step_beside / typical(network.shared[network.batch // 2])
    return connect_step(network, link, processes, compute * contention * network.wait(processes))


def connect_step(network: Network, link: Link, processes: int, compute: float) -> Step:
    """Add the communication between processes to ``compute`` seconds of computing."""
    exchanges = 2 * len(network.norms) * (processes - 1) * link.exchange
    return Step(compute, exchanges, exposed_sums(network, link, processes, compute) + link.overhead)


def scale_tables(path: str | Path) -> list[str]:
    """Tabulate in Markdown measured and simulated steps, divided and grown batches, and GPUs;
    raise ``UserError`` if the file of measurements is missing or damaged."""
    remedy = "take docs/scale.json from the repository"
    measured = decode_json(read_bytes(path, remedy), Measurement, path, remedy)
    compared, scaled = [], []
    for name, network in measured.networks.items():
        link, batch = fit_link(measured.link, network), network.batch
        for count, seconds in ((1, network.alone[batch]), (2, network.together)):
            step = simulate_step(network, link, count, batch / count)
            rate, simulated = batch / typical(seconds), batch / sum(step)
            row = [name, f"{count} process{'es' * (count > 1)} of 1 thread", _number(rate)]
            row += [_number(simulated), f"{100 * (simulated / rate - 1):+.0f}%"]
            compared.append([*row, *(f"{1e3 * part:,.0f}" for part in step)])
        two_threads = _number(batch / typical(network.threads))
        compared.insert(-1, [name, "1 process of 2 threads", two_threads, "", "", "", "", ""])
        for total in (batch, None):
            row = [name, f"{batch} each" if total is None else f"{batch} in all"]
            for count, _, bandwidth, latency in PROCESSES:
                used = replace(
                    link, bandwidth=min(link.bandwidth, bandwidth),
                    latency=link.latency + latency, exchange=link.exchange + latency,
                )  # fmt: skip
                local = batch if total is None else batch / count
                row.append(_number(count * local / sum(simulate_step(network, used, count, local))))
            scaled.append(row)
    gpus = [["1", "one machine", _number(GPU_RATE), "100%", "", ""]]
    for count, name, latency, bandwidth, exchange in GPUS:
        link = Link(latency, bandwidth, exchange, 0.0, GPU_COPY, 0.0)
        step = connect_step(measured.networks["film"], link, count, GPU_BATCH / GPU_RATE)
        share = GPU_BATCH / GPU_RATE / sum(step)
        row = [str(count), name, _number(count * share * GPU_RATE), f"{100 * share:.0f}%"]
        gpus.append([*row, f"{1e3 * step.exchanges:.0f} ms", f"{1e3 * step.sums:.0f} ms"])
    parts = ["compute, ms", "exchanges, ms", "sums, ms"]
    tables = (
        (["", "", "measured, questions a second", "simulated", "difference", *parts], compared),
        (["", "questions of a batch", *(f"{row[0]}{row[1]}" for row in PROCESSES)], scaled),
        (["GPUs", "", "questions a second", "of so many times one", "exchanges", "sums"], gpus),
    )
    return [markdown_table(header, rows, labels=2) for header, rows in tables]


def _number(value: float) -> str:
    """A number with three digits, or rounded to an integer."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
