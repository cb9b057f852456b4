"""How fast each part is on this machine, against its ceilings and against the plain way."""

from __future__ import annotations

from _command import command, plain, settings


@command("benchmark")
def main(config) -> None:
    from filmvqa.benchmark.run import format_benchmark, run_benchmark
    from filmvqa.locks import file_lock
    from filmvqa.training.trainer import TrainerSettings

    options = plain(config)
    options.pop("debug")
    options["trainer"] = settings(config, "trainer", TrainerSettings)
    with file_lock(config.output):
        content = run_benchmark(**options)
    print(format_benchmark(content))
    print(f"written to {config.output}")


if __name__ == "__main__":
    main()
