"""The whole benchmark: ceilings, parts, cost against size; as a table and as JSON."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from filmvqa.benchmark.inputs import Inputs
from filmvqa.benchmark.measure import (
    Part,
    disk_ceiling,
    matmul_ceiling,
    memory_ceiling,
)
from filmvqa.benchmark.parts import Bench
from filmvqa.devices import choose_device, hardware
from filmvqa.errors import UserError
from filmvqa.files import write_file
from filmvqa.memory import keep_freed_memory
from filmvqa.training.trainer import TrainerSettings


def run_benchmark(
    output: str | Path,
    *,
    models: dict[str, dict[str, Any]],
    optim: dict[str, Any],
    trainer: TrainerSettings,
    parts: Sequence[str] | None = None,
    times: Sequence[int] = (1, 2, 4, 8),
    runs: int = 3,
    plain_runs: int = 2,
    questions: int = 20_000,
    images: int = 256,
    copies: int = 4,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure and write ``output``.

    Parameters
    ----------
    models
        Model configs by name; each is a part ``train_step.<name>``.
    parts
        Names of the parts to measure; None: all.
    times
        Multiples of the sizes at which cost is measured; empty: none.
    runs, plain_runs
        Of each part, after warming up; of the plain variants (0: none).
    questions, images, copies
        Sizes of the inputs: questions that are preprocessed, images that are drawn, and how many
        times as many are trained on.

    Returns
    -------
    dict
        What was written: ``hardware``, ``ceilings``, ``sizes``, and each part by its name.

    Raises
    ------
    UserError
        For a part that there is not.
    """
    where = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="filmvqa-benchmark-") as folder:
        inputs = Inputs(Path(folder), images, copies)
        bench = Bench(inputs, where, models, optim, trainer, runs, plain_runs, questions)
        todo = _parts(bench)
        if unknown := set(parts or ()) - todo.keys():
            raise UserError(f"parts={sorted(unknown)}; choose from {', '.join(todo)}")
        todo = {name: work for name, work in todo.items() if parts is None or name in parts}
        ceilings = {
            "matmul_float32": matmul_ceiling("float32", where, runs),
            "matmul_bfloat16": matmul_ceiling("bfloat16", where, runs),
            "memory": memory_ceiling(where, runs),
            "disk": disk_ceiling(*bench.disk_rows(), runs),
        }
        # The plain variants first: a process that keeps freed memory is not plain any more.
        variants = _plain(bench) if plain_runs else {}
        plain = _measured({name: variants[name] for name in todo if name in variants}, "plain")
        keep_freed_memory()
        found = _measured(todo, "part")
        for name, each in plain.items():
            found[name].plain_runs = each
        sizes = _sizes(bench, todo.keys(), times)
    content = {
        "hardware": {
            **hardware(where),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        },
        "ceilings": ceilings,
        **{name: part.record(ceilings) for name, part in found.items()},
        "sizes": sizes,
    }
    write_file(output, json.dumps(content, indent=1) + "\n")
    return content


def _parts(bench: Bench) -> dict[str, Callable[[], Part]]:
    stores = ("device", "memory", "stream") if bench.device.type == "cuda" else ("memory", "stream")
    return {
        "question_preprocessing": bench.question_preprocessing,
        "feature_extraction": bench.feature_extraction,
        **{f"feature_store.{kind}": partial(bench.feature_store, kind) for kind in stores},
        **{f"train_step.{name}": partial(bench.train_step, name) for name in bench.models},
        "train_step.film.stream": partial(bench.train_step, "film", store="stream"),
        "train_step.film.grouped": partial(bench.train_step, "film", per_image=8),
        "evaluation": bench.evaluation,
    }


def _plain(bench: Bench) -> dict[str, Callable[[], list[float]]]:
    """The plain variants of those parts that have one."""
    return {
        "feature_extraction": bench.plain_extraction,
        "feature_store.stream": bench.plain_reading,
        **{f"train_step.{name}": partial(bench.plain_step, name) for name in bench.models},
    }


T = TypeVar("T")


def _measured(todo: dict[str, Callable[[], T]], unit: str) -> dict[str, T]:
    found = {}
    for name, work in (bar := tqdm(todo.items(), unit=unit)):
        bar.set_description(name)
        found[name] = work()
    return found


def _sizes(bench: Bench, parts: Any, times: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Rates at multiples of an eighth of the questions, of the images, and of the batch."""
    largest = max(times, default=1)
    sweeps: dict[str, tuple[str, int, Callable[[int], Part]]] = {
        "question_preprocessing": (
            "questions",
            bench.questions // largest,
            lambda n: bench.question_preprocessing(n, runs=2),
        ),
        "feature_extraction": (
            "images",
            max(1, bench.inputs.images // largest),
            lambda n: bench.feature_extraction(n, runs=2),
        ),
        "train_step.film": (
            "batch",
            max(1, 2 * bench.trainer.batch_size // largest),
            lambda n: bench.train_step("film", batch_size=n),
        ),
    }
    found: dict[str, list[dict[str, float]]] = {}
    for name, (what, base, measure) in sweeps.items():
        if name in parts:
            for k in tqdm(times, desc=f"{name} by size", unit="size"):
                rate = measure(k * base).rate
                record = {what: k * base, "rate": rate, "seconds": k * base / rate}
                found.setdefault(name, []).append(record)
    return found


def format_benchmark(content: dict[str, Any]) -> str:
    """The content of the JSON as tables."""
    machine = content["hardware"]
    lines = [
        f"{machine['device']}, {machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}",
        "",
    ]
    for name, value in content["ceilings"].items():
        unit = "GFLOP/s" if name.startswith("matmul") else "GB/s"
        lines.append(f"ceiling {name:<18}{value / 1e9:>12,.1f} {unit}")
    head = ("", "a second", "min", "max", "plain", "ratio", "GFLOP each", "of ceiling")
    lines += ["", "{:<26}{:>12}{:>11}{:>11}{:>11}{:>8}{:>12}{:>12}".format(*head)]
    for name, part in content.items():
        if name in ("hardware", "ceilings", "sizes"):
            continue
        plain = "-" if part["plain_rate"] is None else f"{part['plain_rate']:,.1f}"
        ratio = "-" if part["ratio"] is None else f"{part['ratio']:.1f}×"
        share = (
            "-" if part["share_of_ceiling"] is None else f"{100 * part['share_of_ceiling']:.0f}%"
        )
        work = f"{part['flops'] / 1e9:,.1f}" if part["flops"] else "-"
        low, high = part["spread"]
        lines.append(
            f"{name:<26}{part['rate']:>12,.1f}{low:>11,.1f}{high:>11,.1f}{plain:>11}{ratio:>8}"
            f"{work:>12}{share:>12}"
        )
    for name, rows in content["sizes"].items():
        lines += ["", f"{name} by size:"]
        for row in rows:
            what = next(iter(row))
            size, seconds, rate = row[what], row["seconds"], row["rate"]
            lines.append(f"  {size:>9,} {what:<10}{seconds:>9.2f} s{rate:>12,.1f} a second")
    return "\n".join(lines)
