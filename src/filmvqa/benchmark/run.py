"""The whole benchmark: ceilings, parts and cost by size, as JSON and as tables."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
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
from filmvqa.benchmark.parts import Benchmark
from filmvqa.system.devices import choose_device, hardware
from filmvqa.system.errors import UserError
from filmvqa.system.files import write_file
from filmvqa.system.tables import text_table
from filmvqa.training.settings import OptimSettings, TrainerSettings


def run_benchmark(
    output: str | Path,
    *,
    models: dict[str, dict[str, Any]],
    optim: OptimSettings,
    trainer: TrainerSettings,
    parts: Sequence[str] | None = None,
    times: Sequence[int] = (1, 2, 4, 8),
    runs: int = 3,
    reference_runs: int = 2,
    questions: int = 20_000,
    images: int = 256,
    copies: int = 4,
    matrix_sizes: Sequence[int] | None = None,
    device: str = "auto",
    tune_process: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure the parts of the pipeline and write the results to ``output``.

    Parameters
    ----------
    models
        Model configs by name; each is measured as the part ``train_step.<name>``.
    optim, trainer
        Settings of training.
    parts
        Names of the parts to measure; None is all.
    times
        Multiples of a base size at which the cost is measured; none if empty.
    runs, reference_runs
        Number of runs of each part after warming up, and of each reference; 0 skips the references.
    questions
        Number of questions that are preprocessed.
    images, copies
        Number of images that are rendered; training uses ``copies`` times as many.
    matrix_sizes
        Sizes of the square matrices whose fastest product is the limit of arithmetic; None: by
        device.
    device
        As ``choose_device`` takes it.
    tune_process
        Is called between the references and the parts; for example ``keep_freed_memory``.

    Returns
    -------
    dict
        The content of ``output``: ``hardware``, ``ceilings``, ``sizes``, and each part by its name.

    Raises
    ------
    UserError
        For an unknown part.
    """
    torch_device = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="filmvqa-benchmark-") as folder:
        inputs = Inputs(Path(folder), images, copies)
        benchmark = Benchmark(
            inputs, torch_device, models, optim, trainer, runs, reference_runs, questions
        )
        measurements = _selected(_parts(benchmark), parts)
        ceilings = _ceilings(benchmark, matrix_sizes)
        # The references first: a straightforward program does not tune its process.
        references = _references(benchmark) if reference_runs else {}
        references = {name: references[name] for name in measurements if name in references}
        reference_results = _measured(references, "reference")
        tune_process()
        results = _measured(measurements, "part")
        for name, rates in reference_results.items():
            results[name].reference_runs = rates
        sizes = _by_size(benchmark, measurements, times)
    content = {
        "hardware": {
            **hardware(torch_device),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        },
        "ceilings": ceilings,
        **{name: result.record(ceilings) for name, result in results.items()},
        "sizes": sizes,
    }
    write_file(output, json.dumps(content, indent=1) + "\n")
    return content


def _selected(
    measurements: dict[str, Callable[[], BenchmarkResult]], parts: Sequence[str] | None
) -> dict[str, Callable[[], BenchmarkResult]]:
    """The measurements of the named parts; None is all."""
    if unknown := set(parts or ()) - measurements.keys():
        raise UserError(f"parts={sorted(unknown)}; choose from {', '.join(measurements)}")
    return {name: work for name, work in measurements.items() if parts is None or name in parts}


def _ceilings(benchmark: Benchmark, matrix_sizes: Sequence[int] | None) -> dict[str, float]:
    """Floating-point operations per second, and bytes per second, that the hardware reaches."""
    device, runs = benchmark.device, benchmark.runs
    return {
        "matmul_float32": matmul_ceiling("float32", device, runs, matrix_sizes),
        "matmul_bfloat16": matmul_ceiling("bfloat16", device, runs, matrix_sizes),
        "memory": memory_ceiling(device, runs),
        "disk": disk_ceiling(*benchmark.disk_rows(), runs),
    }


def _parts(benchmark: Benchmark) -> dict[str, Callable[[], BenchmarkResult]]:
    """The measurement of each part, by the part's name."""
    is_gpu = benchmark.device.type == "cuda"
    stores = ("device", "memory", "stream") if is_gpu else ("memory", "stream")
    return {
        "question_preprocessing": benchmark.question_preprocessing,
        "feature_extraction": benchmark.feature_extraction,
        **{f"feature_store.{store}": partial(benchmark.feature_store, store) for store in stores},
        **{f"train_step.{name}": partial(benchmark.train_step, name) for name in benchmark.models},
        "train_step.film.stream": partial(benchmark.train_step, "film", store="stream"),
        "train_step.film.grouped": partial(benchmark.train_step, "film", questions_per_image=8),
        "evaluation": benchmark.evaluation,
    }


def _references(benchmark: Benchmark) -> dict[str, Callable[[], list[float]]]:
    """The measurement of the reference of each part that has one."""
    return {
        "feature_extraction": benchmark.reference_extraction,
        "feature_store.stream": benchmark.reference_reading,
        **{
            f"train_step.{name}": partial(benchmark.reference_step, name)
            for name in benchmark.models
        },
    }


T = TypeVar("T")


def _measured(measurements: dict[str, Callable[[], T]], unit: str) -> dict[str, T]:
    results = {}
    for name, measure in (bar := tqdm(measurements.items(), unit=unit)):
        bar.set_description(name)
        results[name] = measure()
    return results


def _by_size(
    benchmark: Benchmark, parts: Collection[str], times: Sequence[int]
) -> dict[str, list[dict[str, float]]]:
    """The cost of parts at ``times`` the base size.

    The base sizes are such that the largest has all questions, all images and two batches.
    """
    largest = max(times, default=1)
    sweeps: dict[str, tuple[str, int, Callable[[int], BenchmarkResult]]] = {
        "question_preprocessing": (
            "questions",
            benchmark.questions // largest,
            lambda n: benchmark.question_preprocessing(n, runs=2),
        ),
        "feature_extraction": (
            "images",
            max(1, benchmark.inputs.images // largest),
            lambda n: benchmark.feature_extraction(n, runs=2),
        ),
        "train_step.film": (
            "batch",
            max(1, 2 * benchmark.trainer.batch_size // largest),
            lambda n: benchmark.train_step("film", batch_size=n),
        ),
    }
    records: dict[str, list[dict[str, float]]] = {}
    for name, (unit, base_size, measure) in sweeps.items():
        if name in parts:
            for multiple in tqdm(times, desc=f"{name} by size", unit="size"):
                size = multiple * base_size
                rate = measure(size).rate
                record = {unit: size, "rate": rate, "seconds": size / rate}
                records.setdefault(name, []).append(record)
    return records


def format_benchmark(content: dict[str, Any]) -> str:
    """The content of the JSON file as tables of text."""
    machine = content["hardware"]
    title = (
        f"{machine['device']}, {machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}"
    )
    ceilings = [["ceiling", "", ""]]
    for name, value in content["ceilings"].items():
        unit = "GFLOP/s" if name.startswith("matmul") else "GB/s"
        ceilings.append([name, f"{value / 1e9:,.1f}", unit])
    header = ["", "per second", "min", "max", "reference", "ratio", "GFLOP each", "of ceiling"]
    parts = [
        [name, *_cells(part)]
        for name, part in content.items()
        if name not in ("hardware", "ceilings", "sizes")
    ]
    tables = [title, text_table(ceilings), text_table([header, *parts])]
    for name, records in content["sizes"].items():
        unit = next(iter(records[0]))
        rows = [[f"{r[unit]:,}", f"{r['seconds']:.2f}", f"{r['rate']:,.1f}"] for r in records]
        table = text_table([[unit, "seconds", "per second"], *rows], labels=0)
        tables.append(f"{name} by size:\n{table}")
    return "\n\n".join(tables)


def _cells(part: dict[str, Any]) -> list[str]:
    """The cells of a part's row."""
    reference, ratio, share = part["reference_rate"], part["ratio"], part["share_of_ceiling"]
    return [
        f"{part['rate']:,.1f}",
        *(f"{bound:,.1f}" for bound in part["spread"]),
        "-" if reference is None else f"{reference:,.1f}",
        "-" if ratio is None else f"{ratio:.1f}×",
        f"{part['flops'] / 1e9:,.1f}" if part["flops"] else "-",
        "-" if share is None else f"{100 * share:.0f}%",
    ]
