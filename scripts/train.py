"""Train a model; with -m and sweep=<name>, one for each setting of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from filmvqa.cli.command import command, data_layout, to_plain, typed_settings
from filmvqa.cli.process import keep_freed_memory

if TYPE_CHECKING:
    from filmvqa.training.prepare import RunSettings


@command("train")
def main(config) -> float:
    keep_freed_memory()
    from filmvqa.layout import RunLayout
    from filmvqa.reports.curves import draw_curves
    from filmvqa.training.run import train_run

    layout = RunLayout(Path(HydraConfig.get().runtime.output_dir))
    best = train_run(layout.folder, run_settings(config), resume=config.resume)
    draw_curves(layout.metrics, layout.curves)
    return best


def run_settings(config) -> RunSettings:
    """The settings of a run, from its config."""
    from filmvqa.training.prepare import RunSettings
    from filmvqa.training.settings import TrainerSettings

    plain = to_plain(config)
    return RunSettings(
        data=data_layout(config),
        model=plain["model"],
        optim=plain["optim"],
        trainer=typed_settings(config, "trainer", TrainerSettings),
        config={k: v for k, v in plain.items() if k not in ("run", "resume", "debug")},
        train_split=config.data.train_split,
        val_split=config.data.val_split,
        fraction=config.data.fraction,
        init_from=config.train.init_from,
        trainable=plain["train"]["trainable"],
        seed=config.seed,
        device=config.device,
        store=config.store,
        logger=plain["logger"],
    )


if __name__ == "__main__":
    main()
