"""Train a model, or, with -m and sweep=<name>, one model per setting of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from filmvqa.cli.command import command, to_plain, typed_settings
from filmvqa.cli.process import keep_freed_memory

if TYPE_CHECKING:
    from filmvqa.training.prepare import RunSettings


@command("train", by_several=True)
def main(config) -> float:
    settings = run_settings(config)
    keep_freed_memory()
    from filmvqa import processes
    from filmvqa.files import is_up_to_date
    from filmvqa.layout import RunLayout
    from filmvqa.reports.curves import draw_curves
    from filmvqa.training.run import train_run

    layout = RunLayout(Path(HydraConfig.get().runtime.output_dir))
    best_accuracy = train_run(layout.folder, settings, resume=config.resume)
    if processes.is_first() and not is_up_to_date(layout.curves, layout.metrics):
        draw_curves(layout.metrics, layout.curves)
    return best_accuracy


def run_settings(config) -> RunSettings:
    """The settings of the run that a config describes."""
    from filmvqa.cli.settings import TrainConfig

    settings = typed_settings(config, TrainConfig)

    from filmvqa.data.questions import chosen_families
    from filmvqa.training.prepare import RunSettings

    plain_config = to_plain(config)
    # The families themselves, not a file's name: a run goes on with the same ones alone.
    families = chosen_families(plain_config["data"]["families"])
    plain_config["data"]["families"] = families
    return RunSettings(
        data=settings.data.layout,
        model=settings.model,
        optim=settings.optim,
        trainer=settings.trainer,
        config={k: v for k, v in plain_config.items() if k not in ("run", "resume", "debug")},
        train_split=settings.data.train_split,
        val_split=settings.data.val_split,
        fraction=settings.data.fraction,
        families=families,
        curriculum=settings.data.curriculum,
        missing_images=settings.data.missing_images,
        init_from=settings.train.init_from,
        new_words_std=settings.train.new_words_std,
        trainable=settings.train.trainable,
        frozen_batch_norm=settings.train.frozen_batch_norm,
        seed=settings.seed,
        device=settings.device,
        store=settings.store,
        logger=settings.logger,
    )


if __name__ == "__main__":
    main()
