"""Ablations: named sets of keys and values, in one table.

``ablation=<name>`` chooses one. For Hydra each is a config of the group ``experiment/ablation``, so
lists of ablations and sweeps over them work, and a user's folder may add more.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from filmvqa.cli.packed import packed_folder

GROUP = "experiment/ablation"


@cache
def read_ablations() -> dict[str, dict[str, Any]]:
    """The keys that each ablation sets, with their values, by the ablation's name."""
    text = (packed_folder("configs") / "_ablations.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table


def store_ablations() -> None:
    """Store a config for each ablation in Hydra, which also sets the key ``ablation``."""
    for name, keys in read_ablations().items():
        node: dict[str, Any] = {"ablation": name}
        for key, value in keys.items():
            *parents, last = key.split(".")
            inner = node
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = value
        ConfigStore.instance().store(name, node, group=GROUP, package="_global_")
