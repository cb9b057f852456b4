"""How long a training step takes on more processes than were measured: a model of its parts.

A step computes, exchanges what batch norms share, and sums gradients while the backward pass still
computes others. Each of these is measured by itself, the last two with two processes; no step that
does both is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

#: How many bytes of gradients DDP sums at a time at least: of the first bucket, and of the others.
BUCKET_BYTES = (2**20, 25 * 2**20)
#: The part of steps that are faster than what stands for all: other programs only slow steps down.
QUARTILE = 0.25
#: Of processes at random, to see how long they wait for each other.
DRAWS = 4000


def typical(seconds: Iterable[float]) -> float:
    """What stands for steps of a machine that other programs use too: their lower quartile."""
    return float(np.quantile(list(seconds), QUARTILE))


class NetworkMeasurement(msgspec.Struct):
    """What was measured of a network's steps, in seconds.

    Attributes
    ----------
    batch
        Number of questions of a batch of all processes together.
    gradients
        Bytes of each gradient, and the share of the backward pass after which it is there, in this
        order.
    forward, backward
        The shares of a step that pass before the backward pass, and in it.
    norms
        Number of channels of each batch norm.
    alone, shared
        Steps of a process of one thread, by batch size: as it trains alone, and with batch norms
        as several processes compute them.
    threads
        Steps of a process that has two threads, of a whole batch.
    beside
        Of two processes that run at the same time and have nothing to do with each other: steps of
        half a batch each, with batch norms as ``shared``, in pieces that end where the processes of
        one training exchange something.
    exchanging
        Steps of two processes that share batch norms' statistics and no gradients.
    summing
        Steps of two processes that sum gradients and share no statistics.
    together
        Steps of two processes that train together.
    """

    batch: int
    gradients: list[tuple[int, float]]
    forward: float
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
    def gradient_bytes(self) -> int:
        """Bytes of all gradients."""
        return sum(size for size, _ in self.gradients)

    @property
    def exchanged_bytes(self) -> int:
        """Bytes that a process sends to each other one in a step for batch norms: mean, variance
        and size in float64, and the two sums of the backward pass in float32."""
        return sum(8 * (2 * channels + 1) + 4 * 2 * channels for channels in self.norms)

    @property
    def step_beside(self) -> float:
        """The typical step of ``beside``, of both processes."""
        return typical(sum(step) for steps in self.beside for step in steps)

    @property
    def contention(self) -> float:
        """How many times as long a step takes beside an unrelated process."""
        return self.step_beside / typical(self.shared[self.batch // 2])

    def wait(self, processes: int, pieces: bool = True) -> float:
        """How many times as long a step takes if so many processes wait for the slowest after each
        piece, or after the step alone: of steps of ``beside`` that are drawn at random."""
        steps = np.concatenate([np.array(steps) for steps in self.beside])  # (steps, pieces)
        if not pieces:
            steps = steps.sum(1, keepdims=True)
        drawn = np.random.default_rng(0).integers(len(steps), size=(DRAWS, processes))
        slowest = [steps[rows].max(0).sum() for rows in drawn]
        return typical(slowest) / typical(steps.sum(1))


class LinkMeasurement(msgspec.Struct):
    """What was measured between two processes of a machine.

    Attributes
    ----------
    all_reduce
        Bytes, seconds, and processor seconds of a process, of sums over both.
    copy
        Bytes per second that one thread copies in memory.
    """

    all_reduce: list[tuple[int, float, float]]
    copy: float


@dataclass(frozen=True)
class Link:
    """What connects processes.

    Attributes
    ----------
    latency
        Seconds of a message of a ring, however short.
    bandwidth
        Bytes per second from a process to the next.
    exchange
        Seconds of an exchange of a few numbers between two.
    busy
        The share of a sum's time in which the process' own core works for it.
    copy
        Bytes per second at which gradients are copied into buckets and back.
    overhead
        Seconds that summing adds to a step besides, however many processes there are.
    """

    latency: float
    bandwidth: float
    exchange: float
    busy: float
    copy: float
    overhead: float

    def all_reduce(self, size: float, processes: int) -> float:
        """Seconds of a sum of ``size`` bytes in a ring, where each process sends a part of them to
        the next twice (processes - 1) times (Patarasuk and Yuan, 2009)."""
        hops = 2 * (processes - 1)
        return hops * (self.latency + size / processes / self.bandwidth)

    def over_network(self, bandwidth: float, latency: float) -> Link:
        """This link between machines, whose network adds to each message and may be slower."""
        return replace(
            self, bandwidth=min(self.bandwidth, bandwidth), latency=self.latency + latency,
            exchange=self.exchange + latency,
        )  # fmt: skip


def fitted_link(measured: LinkMeasurement, network: NetworkMeasurement) -> Link:
    """The link between two processes whose sums were measured, as the steps of a network use it.

    What its exchanges and sums take beyond that, such as waking up for them, is what steps with
    either of them take longer than those beside an unrelated process.
    """
    sizes, seconds, busy = (np.array(values) for values in zip(*measured.all_reduce, strict=True))
    fixed, per_byte = fitted(dict(zip(sizes.tolist(), seconds.tolist(), strict=True)))
    large = sizes >= np.median(sizes)
    share = min(float((busy[large] / seconds[large]).mean()), 1.0)
    bandwidth = 1 / per_byte if per_byte else math.inf
    link = Link(fixed / 2, bandwidth, 0.0, share, measured.copy, 0.0)
    exchanges = typical(network.exchanging) - network.step_beside * network.wait(2)
    compute = network.step_beside * network.wait(2, pieces=False)
    overhead = typical(network.summing) - compute - exposed_sums(network, link, 2, compute)
    return replace(
        link, exchange=max(exchanges, 0.0) / (2 * len(network.norms)), overhead=max(overhead, 0.0)
    )


def fitted(seconds: dict[int, float]) -> tuple[float, float]:
    """The line a + b x, neither below 0, of seconds by x with the least squares of relative
    errors."""
    sizes, times = np.array(list(seconds)), np.array(list(seconds.values()))
    table = np.stack([1 / times, sizes / times], 1)
    (a, b), *_ = np.linalg.lstsq(table, np.ones(len(times)), rcond=None)
    if a < 0:
        a, b = 0.0, float((sizes / times).sum() / ((sizes / times) ** 2).sum())
    elif b < 0:
        a, b = float((1 / times).sum() / ((1 / times) ** 2).sum()), 0.0
    return float(a), float(b)


def buckets(gradients: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The buckets in which DDP sums gradients, as ``NetworkMeasurement.gradients`` has these: a
    bucket is full with the gradient that reaches its size, and gradients are never divided."""
    full: list[tuple[int, float]] = []
    size, ready = 0, 0.0
    for gradient, at in gradients:
        size, ready = size + gradient, max(ready, at)
        if size >= BUCKET_BYTES[min(len(full), 1)]:
            full.append((size, ready))
            size = 0
    return [*full, (size, ready)] if size else full


@dataclass(frozen=True)
class Step:
    """The seconds of a step and of its parts: computing (beside other processes, and until the
    slowest is ready), exchanges of batch norms, and sums of gradients as far as they do not hide
    behind the backward pass."""

    compute: float
    exchanges: float
    sums: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.compute + self.exchanges + self.sums


def simulate_step(network: NetworkMeasurement, link: Link, processes: int, local: float) -> Step:
    """A step of ``processes`` processes of one thread, two on a machine, each with ``local``
    questions."""
    if processes == 1:
        # The size itself is left out, so that the row can be compared with what was measured.
        others = {b: s for b, s in network.alone.items() if b != local}
        return Step(on_line(others, local), 0.0, 0.0)
    compute = on_line(network.shared, local) * network.contention * network.wait(processes)
    exchanges = 2 * len(network.norms) * (processes - 1) * link.exchange
    sums = exposed_sums(network, link, processes, compute) + link.overhead
    return Step(compute, exchanges, sums)


def on_line(seconds: dict[int, list[float]], batch: float) -> float:
    """Seconds of a step of ``batch`` questions, on the line through those of other sizes."""
    fixed, per_question = fitted({size: typical(steps) for size, steps in seconds.items()})
    return fixed + per_question * batch


def exposed_sums(network: NetworkMeasurement, link: Link, processes: int, compute: float) -> float:
    """Seconds by which summing gradients lengthens a step that computes for ``compute`` seconds.

    Bucket by bucket: one is copied when its gradients are there, and summed when the one before it
    is. What the own core does for a sum delays the backward pass; after it, the buckets are copied
    back in turn.
    """
    backward = compute * network.backward
    delay = free = 0.0
    finished = []
    for size, at in buckets(network.gradients):
        delay += size / link.copy
        start = max(at * backward + delay, free)
        seconds = link.all_reduce(size, processes)
        free = start + seconds
        # Of the sum only what passes while the backward pass still computes can delay it.
        left = max(backward + delay - start, 0.0)
        delay += link.busy * min(seconds, left)
        finished.append((size, free))
    now = backward + delay
    for size, end in finished:
        now = max(now, end) + size / link.copy
    return now - backward
