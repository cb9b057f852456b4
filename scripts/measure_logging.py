"""Measure by how much loggers lengthen a training run, in processor time."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.cli.process import keep_freed_memory
from filmvqa.cli.training import run_settings


@command("measure_logging")
def main(config) -> None:
    from filmvqa.cli.settings import MeasureLoggingConfig

    settings = run_settings(config, MeasureLoggingConfig)
    keep_freed_memory()
    from filmvqa.benchmark.logging_cost import logging_cost

    print(logging_cost(settings, config.pairs).table())


if __name__ == "__main__":
    main()
