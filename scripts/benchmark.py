"""How fast each part is on this machine, against its ceilings and against the plain way."""

from __future__ import annotations

from _command import command, plain, settings


@command("benchmark")
def main(config) -> None:
    from filmvqa.benchmark.run import format_benchmark, run_benchmark
    from filmvqa.training.trainer import TrainerSettings

    options = plain(config)
    options.pop("debug")
    content = run_benchmark(**options | {"trainer": settings(config, "trainer", TrainerSettings)})
    print(format_benchmark(content))
    print(f"written to {config.output}")


if __name__ == "__main__":
    main()
