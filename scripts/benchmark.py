"""Measure the speed of each part of the pipeline, relative to a reference and to the hardware."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.cli.process import keep_freed_memory


@command("benchmark")
def main(config) -> None:
    from filmvqa.cli.settings import BenchmarkConfig

    settings = typed_settings(config, BenchmarkConfig)

    from filmvqa.benchmark.run import format_benchmark, run_benchmark
    from filmvqa.models import check_model
    from filmvqa.system.locks import file_lock

    for name, model in settings.models.items():
        check_model(model, f"models.{name}")
    with file_lock(settings.output):
        content = run_benchmark(settings, keep_freed_memory)
    print(format_benchmark(content))
    print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
