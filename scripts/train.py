"""Train a model; with -m and sweep=<name>, one for each setting of a sweep."""

from __future__ import annotations

from pathlib import Path

from _command import command, plain
from hydra.core.hydra_config import HydraConfig


@command("train")
def main(config) -> float:
    from filmvqa.training.run import DataFiles, train_run
    from filmvqa.training.trainer import TrainerSettings

    folder = Path(HydraConfig.get().runtime.output_dir)
    settings = plain(config)
    run_free = {k: v for k, v in settings.items() if k not in ("run", "resume", "debug")}
    return train_run(
        folder,
        data=DataFiles(
            Path(config.data.h5),
            Path(config.data.features),
            config.data.backbone.name,
            config.data.train_split,
            config.data.val_split,
        ),
        model=settings["model"],
        optim=settings["optim"],
        trainer=TrainerSettings(**settings["trainer"]),
        logger=settings["logger"],
        config=run_free,
        seed=config.seed,
        device=config.device,
        store=config.store,
        resume=config.resume,
    )


if __name__ == "__main__":
    main()
