"""Ablations: names for some keys with their values, which stand in one table.

``ablation=<name>`` chooses them. For Hydra each is a config of the group ``experiment/ablation``:
lists of them and sweeps over them work, and a folder of the user's own may have more.
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
    """The keys that each ablation sets, with their values, by its name; there is one file."""
    text = (packed_folder("configs") / "_ablations.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table


def store_ablations() -> None:
    """Give Hydra a config for each ablation; its name becomes the key ``ablation``."""
    for name, keys in read_ablations().items():
        node: dict[str, Any] = {"ablation": name}
        for key, value in keys.items():
            *parents, last = key.split(".")
            inner = node
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = value
        ConfigStore.instance().store(name, node, group=GROUP, package="_global_")
