"""Train a model; with -m and sweep=<name>, one for each setting of a sweep."""

from __future__ import annotations

from pathlib import Path

from _command import command, plain, settings
from hydra.core.hydra_config import HydraConfig


@command("train")
def main(config) -> float:
    from filmvqa.training.run import DataFiles, train_run
    from filmvqa.training.trainer import TrainerSettings

    folder = Path(HydraConfig.get().runtime.output_dir)
    whole = plain(config)
    recorded = {k: v for k, v in whole.items() if k not in ("run", "resume", "debug")}
    return train_run(
        folder,
        data=DataFiles(
            Path(config.data.h5),
            Path(config.data.features),
            config.data.backbone.name,
            config.data.train_split,
            config.data.val_split,
        ),
        model=whole["model"],
        optim=whole["optim"],
        trainer=settings(config, "trainer", TrainerSettings),
        logger=whole["logger"],
        config=recorded,
        seed=config.seed,
        device=config.device,
        store=config.store,
        fraction=config.data.fraction,
        start=config.train.start,
        parts=whole["train"]["parts"],
        resume=config.resume,
    )


if __name__ == "__main__":
    main()
