"""Train a model, or, with -m and sweep=<name>, one model per setting of a sweep."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from filmvqa.cli.command import command
from filmvqa.cli.process import keep_freed_memory
from filmvqa.cli.training import run_settings


@command("train", by_several=True)
def main(config) -> float:
    settings = run_settings(config)
    keep_freed_memory()
    from filmvqa.system import processes
    from filmvqa.system.files import is_up_to_date
    from filmvqa.system.layout import RunLayout
    from filmvqa.training.curves import draw_curves
    from filmvqa.training.run import train_run

    layout = RunLayout(Path(HydraConfig.get().runtime.output_dir))
    best_accuracy = train_run(layout.folder, settings, resume=config.resume)
    if processes.is_first() and not is_up_to_date(layout.curves, layout.metrics):
        draw_curves(layout.metrics, layout.curves)
    return best_accuracy


if __name__ == "__main__":
    main()
