"""Measure the speed of each part of the pipeline, relative to a reference and to the hardware."""

from __future__ import annotations

from filmvqa.cli.command import command, to_plain, typed_settings
from filmvqa.cli.process import keep_freed_memory


@command("benchmark")
def main(config) -> None:
    from filmvqa.benchmark.run import format_benchmark, run_benchmark
    from filmvqa.locks import file_lock
    from filmvqa.training.settings import TrainerSettings

    options = to_plain(config)
    options.pop("debug")
    options["trainer"] = typed_settings(config, "trainer", TrainerSettings)
    with file_lock(config.output):
        content = run_benchmark(**options, tune_process=keep_freed_memory)
    print(format_benchmark(content))
    print(f"written to {config.output}")


if __name__ == "__main__":
    main()
