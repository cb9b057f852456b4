"""Measures what the model of a training step (``scale``) needs to know of this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from filmvqa.benchmark.measure import memory_ceiling
from filmvqa.benchmark.parts import RESNET_SHAPE, Benchmark
from filmvqa.benchmark.scale import LinkMeasurement, NetworkMeasurement, typical
from filmvqa.models.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    SharedStatistics,
    share_statistics,
)
from filmvqa.system import processes


@dataclass(frozen=True)
class Workload:
    """How a network is trained: batch size, questions per image, and shape (C, H, W) of features
    (of ``data=clevr``, or of ``data=mini``, the demo's)."""

    batch: int
    questions_per_image: int
    shape: tuple[int, int, int]


#: By the name of the model in the configuration.
WORKLOADS = {"demo": Workload(256, 8, (96, 12, 12)), "film": Workload(64, 1, RESNET_SHAPE)}
#: Bytes that are summed between two processes.
SUMMED_BYTES = (2**12, 2**16, 2**20, 2**22, 2**24, 2**26, 2**28)
#: Steps of two processes at least, which other programs disturb more.
LEAST_STEPS = 8


@dataclass
class _Place:
    """What a measuring process has of the others: ``ready`` waits until all are."""

    connection: Connection
    ready: Callable[[], object]


def measured_in_processes(
    count: int, work: Callable[..., Any], *arguments: Any, threads: int = 1,
    together: bool = False, tune_process: Callable[[], None] | None = None,
) -> list[Any]:  # fmt: skip
    """The results of ``work(ready, *arguments)`` in fresh processes, which call ``ready`` when they
    begin to measure; ``together`` joins them as torchrun does.

    Raises
    ------
    ChildProcessError
        If one of them fails; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    barrier, port = context.Barrier(count), _free_port()
    started = []
    for rank in range(count):
        own, other = context.Pipe(duplex=False)
        place = (rank, count, port) if together else None
        process = context.Process(
            target=_work, args=(other, barrier, place, threads, tune_process, work, arguments)
        )
        process.start()
        other.close()
        started.append((process, own))
    try:
        return [own.recv() for _, own in started]
    except EOFError:
        raise ChildProcessError("a process that measures has failed, see above") from None
    finally:
        for process, _ in started:
            process.join(5)
            process.kill()


def _work(
    connection: Connection, barrier: Any, place: tuple[int, int, int] | None, threads: int,
    tune_process: Callable[[], None] | None, work: Callable[..., Any], arguments: tuple[Any, ...],
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    if tune_process is not None:
        tune_process()
    if place is not None:
        names = ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        os.environ.update(zip(names, map(str, (*place, *place[:2])), strict=True))
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        processes.join()
    try:
        result = work(lambda: barrier.wait(600), *arguments)
    except BaseException:
        barrier.abort()
        raise
    connection.send(result)
    processes.end_together()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class _TimedStatistics(SharedStatistics):
    """Notes when batch norms exchange something."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[float] = []

    def combine(self, *parts: Any) -> tuple[Tensor, ...]:
        self.moments.append(time.perf_counter())
        return super().combine(*parts)

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        self.moments.append(time.perf_counter())
        return super().sums(*parts)


def time_steps(
    ready: Callable[[], object], benchmark: Benchmark, name: str, batch: int, steps: int | None,
    seconds: float, shared: bool = False, summed: bool = True,
) -> list[list[float]]:  # fmt: skip
    """Seconds of each of ``steps`` training steps (None: of about ``seconds`` seconds, at least
    three), after three that are not counted.

    With ``shared`` batch norms share their statistics, also a process that is alone, and a step is
    in pieces that end where they exchange something. Several processes sum gradients if ``summed``.
    """
    trainer, batches = _training(benchmark, name, batch)
    statistics = _TimedStatistics()
    for module in trainer.state.model.modules():
        if isinstance(module, BatchNorm1d | BatchNorm2d):
            module.shared = statistics if shared else None
    if not summed:
        trainer.network = trainer.state.model
    for _ in range(2):
        trainer.step(next(batches))
    started = time.perf_counter()
    trainer.step(next(batches))
    if steps is None:
        steps = max(3, round(seconds / (time.perf_counter() - started)))
    ready()
    times = []
    for _ in range(steps):
        statistics.moments = []
        started = time.perf_counter()
        trainer.step(next(batches))
        moments = [started, *statistics.moments, time.perf_counter()]
        times.append([round(b - a, 6) for a, b in pairwise(moments)])
    return times


def profile_step(
    ready: Callable[[], object], benchmark: Benchmark, name: str, batch: int, steps: int
) -> dict[str, Any]:
    """When in a step the forward pass ends and each gradient is there: ``gradients``, ``forward``,
    ``backward`` and ``norms`` of a ``NetworkMeasurement``, medians over steps."""
    trainer, batches = _training(benchmark, name, batch)
    model = trainer.state.model
    share_statistics(model)
    at: dict[Any, list[float]] = {"begin": [], "forward": [], "end": []}
    model.register_forward_hook(lambda *_: at["forward"].append(time.perf_counter()))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.register_post_accumulate_grad_hook(
            lambda weight: at.setdefault(weight, []).append(time.perf_counter())
        )
    for _ in range(steps + 1):
        at["begin"].append(time.perf_counter())
        trainer.step(next(batches))
        at["end"].append(time.perf_counter())
    moments = torch.tensor([at[w][1:] for w in trained], dtype=torch.float64)  # (weights, steps)
    begin, forward, end = (
        torch.tensor(at[key][1:], dtype=torch.float64) for key in ("begin", "forward", "end")
    )
    last = moments.amax(0)
    share = ((moments - forward) / (last - forward)).median(1).values
    ready_at = sorted(zip(share.tolist(), (w.nbytes for w in trained), strict=True))
    return {
        "gradients": [(size, round(moment, 4)) for moment, size in ready_at],
        "forward": float(((forward - begin) / (end - begin)).median()),
        "backward": float(((last - forward) / (end - begin)).median()),
        "norms": [m.num_features for m in model.modules() if isinstance(m, _BatchNorm)],
    }


def _training(benchmark: Benchmark, name: str, batch: int) -> tuple[Any, Any]:
    workload = WORKLOADS[name]
    settings = replace(
        benchmark.trainer, batch_size=batch, questions_per_image=workload.questions_per_image
    )
    return benchmark.training(name, settings, shape=workload.shape)


def measure_network(
    benchmark: Benchmark, name: str, seconds: float, tune_process: Callable[[], None]
) -> NetworkMeasurement:
    """All measurements of a network, of about ``seconds`` seconds each, each in fresh processes."""
    batch = WORKLOADS[name].batch
    half, least = batch // 2, 3
    workers: dict[str, Any] = {"tune_process": tune_process}

    def pieces(
        size: int, steps: int | None, count: int = 1, shared: bool = False, summed: bool = True,
        **kind: Any,
    ) -> list[list[list[float]]]:  # fmt: skip
        arguments = (benchmark, name, size, steps, seconds, shared, summed)
        return measured_in_processes(count, time_steps, *arguments, **workers, **kind)

    def whole(*arguments: Any, **kind: Any) -> list[float]:
        return [sum(step) for step in pieces(*arguments, **kind)[0]]

    alone = {size: whole(size, None) for size in (batch // 4, half, batch, 2 * batch)}
    shared = {
        size: whole(size, None, shared=True) for size in (batch // 8, batch // 4, half, batch)
    }
    # Processes that run at the same time take the same number of steps.
    steps = max(LEAST_STEPS, round(seconds / typical(shared[half])))
    (profile,) = measured_in_processes(1, profile_step, benchmark, name, half, least, **workers)
    return NetworkMeasurement(
        batch=batch, alone=alone, shared=shared, **profile,
        threads=whole(batch, None, threads=2),
        beside=pieces(half, steps, 2, shared=True),
        exchanging=whole(batch, steps, 2, shared=True, summed=False, together=True),
        summing=whole(batch, steps, 2, together=True),
        together=whole(batch, steps, 2, shared=True, together=True),
    )  # fmt: skip


def measure_link(runs: int = 12) -> LinkMeasurement:
    """Sums between two processes of this machine, and copies in its memory."""
    sums = measured_in_processes(2, _time_sums, runs, together=True)[0]
    (copy,) = measured_in_processes(1, _time_copy, runs)
    return LinkMeasurement(all_reduce=sums, copy=copy)


def _time_copy(ready: Callable[[], object], runs: int) -> float:
    return memory_ceiling(torch.device("cpu"), runs)


def _time_sums(ready: Callable[[], object], runs: int) -> list[Any]:
    sums = []
    for size in SUMMED_BYTES:
        values = torch.ones(size // 4)
        times, busy = [], []
        for run in range(runs + 1):
            ready()
            started, worked = time.perf_counter(), time.process_time()
            processes.sum_over_processes(values)
            if run:
                times.append(time.perf_counter() - started)
                busy.append(time.process_time() - worked)
        sums.append((size, typical(times), typical(busy)))
    return sums
