"""Measure the speed of each part of the pipeline, relative to a reference and to the hardware."""

from __future__ import annotations

from filmvqa.benchmark.settings import BenchmarkSettings
from filmvqa.cli.command import command
from filmvqa.cli.process import keep_freed_memory


@command("benchmark", BenchmarkSettings)
def main(settings: BenchmarkSettings) -> None:
    from filmvqa.benchmark.run import format_benchmark, run_benchmark
    from filmvqa.system.locks import file_lock

    with file_lock(settings.output):
        content = run_benchmark(settings, keep_freed_memory)
    print(format_benchmark(content))
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
