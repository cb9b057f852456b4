"""Training and data at sizes that no machine here has, computed from what was measured on one."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.cli.process import keep_freed_memory


@command("simulate_scale")
def main(config) -> None:
    from filmvqa.cli.settings import SimulateScaleConfig

    settings = typed_settings(config, SimulateScaleConfig)

    from filmvqa.benchmark.scale_run import measure_scale, read_scale
    from filmvqa.benchmark.scale_tables import scale_tables
    from filmvqa.models import check_model
    from filmvqa.system.files import write_file
    from filmvqa.system.locks import file_lock

    for name, model in settings.models.items():
        check_model(model, f"models.{name}")
    if settings.measure:
        with file_lock(settings.measurement):
            measure_scale(
                settings.measurement, networks=settings.networks, models=settings.models,
                optim=settings.optim, trainer=settings.trainer, seconds=settings.seconds,
                images=settings.images, tune_process=keep_freed_memory,
            )  # fmt: skip
    tables = scale_tables(read_scale(settings.measurement))
    if settings.output is None:
        print(tables)
    else:
        write_file(settings.output, tables)
        print(f"written to {settings.output}")


if __name__ == "__main__":
    main()
