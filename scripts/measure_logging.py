"""Measure how much processor time loggers add to a training run."""

from __future__ import annotations

from filmvqa.benchmark.settings import LoggingCostSettings
from filmvqa.cli.command import command
from filmvqa.cli.process import keep_freed_memory


@command("measure_logging", LoggingCostSettings)
def main(settings: LoggingCostSettings) -> None:
    keep_freed_memory()
    from filmvqa.benchmark.logging_cost import logging_cost

    print(logging_cost(settings).table())


if __name__ == "__main__":
    main()
