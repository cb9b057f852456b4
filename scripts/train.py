"""Train a model, or, with -m and sweep=<name>, one model per setting of a sweep."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from filmvqa.cli.command import command
from filmvqa.cli.process import keep_freed_memory
from filmvqa.training.settings import RunSettings


@command("train", RunSettings, by_several=True)
def main(settings: RunSettings) -> float:
    keep_freed_memory()
    from filmvqa.system.layout import RunLayout
    from filmvqa.training.curves import update_curves
    from filmvqa.training.run import train_run

    layout = RunLayout(Path(HydraConfig.get().runtime.output_dir))
    best_accuracy = train_run(layout.folder, settings)
    update_curves(layout)
    return best_accuracy


if __name__ == "__main__":
    main()
