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
    BenchmarkResult,
    disk_ceiling,
    matmul_ceiling,
    memory_ceiling,
)
from filmvqa.benchmark.parts import Bench
from filmvqa.devices import choose_device, hardware
from filmvqa.errors import UserError
from filmvqa.files import write_file
from filmvqa.tables import text_table
from filmvqa.training.settings import TrainerSettings


def run_benchmark(
    output: str | Path,
    *,
    models: dict[str, dict[str, Any]],
    optim: dict[str, Any],
    trainer: TrainerSettings,
    parts: Sequence[str] | None = None,
    times: Sequence[int] = (1, 2, 4, 8),
    runs: int = 3,
    reference_runs: int = 2,
    questions: int = 20_000,
    images: int = 256,
    copies: int = 4,
    device: str = "auto",
    tune_process: Callable[[], None] = lambda: None,
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
    runs, reference_runs
        Of each part, after warming up; of the references (0: none).
    tune_process
        Called between the references and the parts, such as ``keep_freed_memory``.
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
        bench = Bench(inputs, where, models, optim, trainer, runs, reference_runs, questions)
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
        # The references first: a straightforward program does not tune its process.
        references = _references(bench) if reference_runs else {}
        reference_results = _measured(
            {name: references[name] for name in todo if name in references}, "reference"
        )
        tune_process()
        results = _measured(todo, "part")
        for name, rates in reference_results.items():
            results[name].reference_runs = rates
        sizes = _sizes(bench, todo.keys(), times)
    content = {
        "hardware": {
            **hardware(where),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        },
        "ceilings": ceilings,
        **{name: result.record(ceilings) for name, result in results.items()},
        "sizes": sizes,
    }
    write_file(output, json.dumps(content, indent=1) + "\n")
    return content


def _parts(bench: Bench) -> dict[str, Callable[[], BenchmarkResult]]:
    stores = ("device", "memory", "stream") if bench.device.type == "cuda" else ("memory", "stream")
    return {
        "question_preprocessing": bench.question_preprocessing,
        "feature_extraction": bench.feature_extraction,
        **{f"feature_store.{kind}": partial(bench.feature_store, kind) for kind in stores},
        **{f"train_step.{name}": partial(bench.train_step, name) for name in bench.models},
        "train_step.film.stream": partial(bench.train_step, "film", store="stream"),
        "train_step.film.grouped": partial(bench.train_step, "film", questions_per_image=8),
        "evaluation": bench.evaluation,
    }


def _references(bench: Bench) -> dict[str, Callable[[], list[float]]]:
    """The references of those parts that have one."""
    return {
        "feature_extraction": bench.reference_extraction,
        "feature_store.stream": bench.reference_reading,
        **{f"train_step.{name}": partial(bench.reference_step, name) for name in bench.models},
    }


T = TypeVar("T")


def _measured(todo: dict[str, Callable[[], T]], unit: str) -> dict[str, T]:
    results = {}
    for name, work in (bar := tqdm(todo.items(), unit=unit)):
        bar.set_description(name)
        results[name] = work()
    return results


def _sizes(bench: Bench, parts: Any, times: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Rates at multiples of an eighth of the questions, of the images, and of the batch."""
    largest = max(times, default=1)
    sweeps: dict[str, tuple[str, int, Callable[[int], BenchmarkResult]]] = {
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
    by_size: dict[str, list[dict[str, float]]] = {}
    for name, (unit, base, measure) in sweeps.items():
        if name in parts:
            for k in tqdm(times, desc=f"{name} by size", unit="size"):
                rate = measure(k * base).rate
                record = {unit: k * base, "rate": rate, "seconds": k * base / rate}
                by_size.setdefault(name, []).append(record)
    return by_size


def format_benchmark(content: dict[str, Any]) -> str:
    """The content of the JSON as tables."""
    machine = content["hardware"]
    title = (
        f"{machine['device']}, {machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}"
    )
    ceilings = [["ceiling", "", ""]]
    for name, value in content["ceilings"].items():
        unit = "GFLOP/s" if name.startswith("matmul") else "GB/s"
        ceilings.append([name, f"{value / 1e9:,.1f}", unit])
    head = ["", "a second", "min", "max", "reference", "ratio", "GFLOP each", "of ceiling"]
    parts = [
        [name, *_cells(part)]
        for name, part in content.items()
        if name not in ("hardware", "ceilings", "sizes")
    ]
    tables = [title, text_table(ceilings), text_table([head, *parts])]
    for name, records in content["sizes"].items():
        unit = next(iter(records[0]))
        rows = [[f"{r[unit]:,}", f"{r['seconds']:.2f}", f"{r['rate']:,.1f}"] for r in records]
        table = text_table([[unit, "seconds", "a second"], *rows], labels=0)
        tables.append(f"{name} by size:\n{table}")
    return "\n\n".join(tables)


def _cells(part: dict[str, Any]) -> list[str]:
    reference, ratio, share = part["reference_rate"], part["ratio"], part["share_of_ceiling"]
    return [
        f"{part['rate']:,.1f}",
        *(f"{bound:,.1f}" for bound in part["spread"]),
        "-" if reference is None else f"{reference:,.1f}",
        "-" if ratio is None else f"{ratio:.1f}×",
        f"{part['flops'] / 1e9:,.1f}" if part["flops"] else "-",
        "-" if share is None else f"{100 * share:.0f}%",
    ]
