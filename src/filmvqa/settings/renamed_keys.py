"""Configuration keys that were renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Maps each earlier key to the current one.
RENAMED_KEYS: dict[str, str] = {
    "train.start": "train.init_from",
    "train.parts": "train.trainable",
    "trainer.average": "trainer.ema_decay",
    "trainer.penalty": "trainer.film_penalty",
    "trainer.save_minutes": "trainer.checkpoint_minutes",
    "trainer.save_steps": "trainer.checkpoint_steps",
    "optim.warmup": "optim.warmup_steps",
    "logger.name": "logger.wandb",
    "plain_runs": "reference_runs",
    "model.filmed": "model.film_blocks",
    "model.block.place": "model.block.film_position",
    "model.block.projection": "model.block.input_proj_kernel",
}


def rename_keys(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Rename the earlier keys of a nested configuration to the current ones; keep the order.

    ``prefix`` is the path of ``nested`` in the whole configuration, with a final dot.
    """
    renamed: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        name = RENAMED_KEYS.get(path, path).rpartition(".")[2]
        renamed[name] = rename_keys(value, f"{path}.") if isinstance(value, Mapping) else value
    return renamed
