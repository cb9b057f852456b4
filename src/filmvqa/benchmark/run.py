"""The whole benchmark: ceilings, parts and cost by size, as JSON and as tables."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from filmvqa.benchmark.inputs import Inputs
from filmvqa.benchmark.measure import measure_ceilings
from filmvqa.benchmark.parts import RESNET_SHAPE, Parts
from filmvqa.benchmark.settings import BenchmarkSettings
from filmvqa.system.devices import choose_device, hardware
from filmvqa.system.errors import UserError
from filmvqa.system.files import write_file
from filmvqa.system.tables import text_table


def run_benchmark(
    settings: BenchmarkSettings, tune_process: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Measure the parts of the pipeline and write the results to ``settings.output``.

    ``tune_process``, such as ``keep_freed_memory``, is called after the references and before the
    parts.

    Returns
    -------
    dict
        The content of the file: ``hardware``, ``ceilings``, ``sizes``, and each part by its name.

    Raises
    ------
    UserError
        For an unknown part.
    """
    device = choose_device(settings.device)
    with tempfile.TemporaryDirectory(prefix="filmvqa-benchmark-") as folder:
        inputs = Inputs(Path(folder), settings.images, settings.copies)
        parts = Parts(inputs, settings, device)
        if unknown := set(settings.parts or ()) - parts.works.keys():
            raise UserError(f"parts={sorted(unknown)}; choose from {', '.join(parts.works)}")
        names = [n for n in parts.works if settings.parts is None or n in settings.parts]
        features = inputs.features(RESNET_SHAPE, "float16")
        ceilings = measure_ceilings(device, features, settings.runs, settings.matrix_sizes)
        # References first: a straightforward program does not tune its process.
        references = [n for n in names if n in parts.references] if settings.reference_runs else []
        reference_rates = {
            name: parts.references[name]().rates(settings.reference_runs, device, warm_up=0)
            for name in tqdm(references, desc="references", unit="reference")
        }
        tune_process()
        records = {}
        for name in (bar := tqdm(names, unit="part")):
            bar.set_description(name)
            work = parts.works[name]()
            rates = work.rates(settings.runs, device)
            records[name] = work.record(rates, reference_rates.get(name), ceilings)
        sizes = _measure_sizes(parts, names)
    machine = hardware(device)
    machine |= {"torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")}
    content = {"hardware": machine, "ceilings": ceilings, **records, "sizes": sizes}
    write_file(settings.output, json.dumps(content, indent=1) + "\n")
    return content


def _measure_sizes(parts: Parts, names: list[str]) -> dict[str, list[dict[str, float]]]:
    """Measure parts at multiples of a size; the largest is that of ``Parts.by_size``."""
    times = parts.settings.times
    records: dict[str, list[dict[str, float]]] = {}
    for name, (unit, largest, prepare) in parts.by_size.items():
        if name in names:
            for multiple in tqdm(times, desc=f"{name} by size", unit="size"):
                size = multiple * max(1, largest // max(times))
                rate = median(prepare(size).rates(2, parts.device))
                record = {unit: size, "rate": rate, "seconds": size / rate}
                records.setdefault(name, []).append(record)
    return records


def format_benchmark(content: dict[str, Any]) -> str:
    """Format the content of the JSON file as text tables."""
    machine, ceilings, sizes = (content[key] for key in ("hardware", "ceilings", "sizes"))
    title = (
        f"{machine['device']}, {machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}"
    )
    limits = [["ceiling", "", ""]]
    for name, value in ceilings.items():
        unit = "GFLOP/s" if name.startswith("matmul") else "GB/s"
        limits.append([name, f"{value / 1e9:,.1f}", unit])
    rows = [["", "per second", "min", "max", "reference", "ratio", "GFLOP each", "of ceiling"]]
    for name, part in content.items():
        if name not in ("hardware", "ceilings", "sizes"):
            share = part["share_of_ceiling"]
            rows.append([
                name,
                *(f"{rate:,.1f}" for rate in (part["rate"], *part["spread"])),
                f"{part['reference_rate']:,.1f}" if part["ratio"] else "-",
                f"{part['ratio']:.1f}×" if part["ratio"] else "-",
                f"{part['flops'] / 1e9:,.1f}" if part["flops"] else "-",
                "-" if share is None else f"{100 * share:.0f}%",
            ])  # fmt: skip
    tables = [title, text_table(limits), text_table(rows)]
    for name, records in sizes.items():
        unit = next(iter(records[0]))
        rows = [[f"{r[unit]:,}", f"{r['seconds']:.2f}", f"{r['rate']:,.1f}"] for r in records]
        table = text_table([[unit, "seconds", "per second"], *rows], labels=0)
        tables.append(f"{name} by size:\n{table}")
    return "\n\n".join(tables)
