"""Compute training times at larger scale from a measurement on one machine."""

from __future__ import annotations

from filmvqa.benchmark.settings import SimulateScaleSettings
from filmvqa.cli.command import command


@command("simulate_scale", SimulateScaleSettings)
def main(settings: SimulateScaleSettings) -> None:
    from filmvqa.benchmark.scale import scale_tables
    from filmvqa.system.files import write_file

    tables = "\n".join(scale_tables(settings.measurement))
    if settings.output is None:
        print(tables)
    else:
        write_file(settings.output, tables)
        print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
