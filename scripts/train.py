"""Train a model; with -m and sweep=<name>, one for each setting of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _command import command, data_files, plain, settings
from hydra.core.hydra_config import HydraConfig


@command("train")
def main(config) -> float:
    from filmvqa.reports.curves import draw_curves
    from filmvqa.training.run import train_run

    folder = Path(HydraConfig.get().runtime.output_dir)
    best = train_run(folder, **arguments(config))
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    return best


def arguments(config) -> dict[str, Any]:
    """What ``train_run`` takes, from a config."""
    from filmvqa.training.trainer import TrainerSettings

    whole = plain(config)
    return {
        "data": data_files(config),
        "model": whole["model"],
        "optim": whole["optim"],
        "trainer": settings(config, "trainer", TrainerSettings),
        "logger": whole["logger"],
        "config": {k: v for k, v in whole.items() if k not in ("run", "resume", "debug")},
        "seed": config.seed,
        "device": config.device,
        "store": config.store,
        "fraction": config.data.fraction,
        "start": config.train.start,
        "parts": whole["train"]["parts"],
        "resume": config.resume,
    }


if __name__ == "__main__":
    main()
