"""The table of ablations."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from omegaconf import OmegaConf

from filmvqa.cli.ablations import read_ablations
from filmvqa.cli.command import CONFIGS
from filmvqa.cli.overrides import compose_config, quote_arguments, refuse_unnamed_choices
from filmvqa.settings.nested import flatten
from filmvqa.system.errors import UserError


def composed(*overrides: str) -> dict[str, Any]:
    config = compose_config(CONFIGS, "train", ["run=x", *quote_arguments(overrides)])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return flatten(plain)


def changes(*overrides: str) -> dict[str, Any]:
    """The keys that overrides change, with their new values."""
    before = composed()
    return {k: v for k, v in composed(*overrides).items() if before.get(k) != v}


def test_the_table_is_that_of_the_published_runs() -> None:
    """``test_configs.py`` composes each ablation."""
    text = json.dumps(read_ablations(), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6876475da8e4817e"
    row = read_ablations()["conv1x1_no_coordinates"]
    assert changes("ablation=conv1x1_no_coordinates") == {
        "ablation": "conv1x1_no_coordinates",
        **row,
    }


def test_an_earlier_spelling_and_lists_mean_the_same() -> None:
    assert composed("ablation=gamma_exp") == composed("experiment/ablation=gamma_exp")
    both = changes("ablation=[gamma_tanh,blocks_2]")
    assert both == {
        "ablation": "blocks_2", "model.generator.gamma": "tanh",
        "model.generator.gamma_baseline": 0.0, "model.num_blocks": 2,
    }  # fmt: skip


def test_what_is_given_beside_an_ablation_counts() -> None:
    for overrides in (
        ["model.num_blocks=9", "ablation=blocks_3"],
        ["ablation=blocks_3", "model.num_blocks=9"],
    ):
        assert composed(*overrides)["model.num_blocks"] == 9
    assert composed("experiment=lab_blocks", "ablation=blocks_3")["model.num_blocks"] == 3


def test_a_sweep_over_ablations_and_none_at_all() -> None:
    assert quote_arguments(["-m", "ablation=none,blocks_1", "++ablation=none", "ablation=null"]) == [
        "-m", "experiment/ablation=none,blocks_1", "experiment/ablation=none", "ablation=null",
    ]  # fmt: skip
    with pytest.raises(UserError, match="must be the name of a config; choose from after_conv2,"):
        refuse_unnamed_choices(quote_arguments(["ablation=1"]), CONFIGS)
