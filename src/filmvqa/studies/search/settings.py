"""Settings of a hyperparameter search: the nodes of ``configs/search.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from filmvqa.settings.typed import AboveZero, Natural, Positive, Seed, Settings, checked
from filmvqa.settings.wording import shown
from filmvqa.system.errors import UserError
from filmvqa.training.settings import RunSettings

_RANGE, _CHOICES = ("low", "high", "log"), "choices"
_Choices = Annotated[list[bool | int | float | str | None], Meta(min_length=1)]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, integers if both are; ``log``: on a logarithmic scale."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class SearchSettings(Settings):
    """A search: the node ``search`` of ``configs/search.yaml``.

    Attributes
    ----------
    space
        The keys that are searched, nested as in the training config; see ``dimensions``.
    trials
        Number of trials of all processes together; failed ones do not count.
    prune
        Whether to end a trial whose best validation accuracy is below the median of earlier trials
        at the same step (Optuna's ``MedianPruner``).
    prune_after_trials, prune_after_steps
        No trial is pruned before this many trials have ended, nor in its first steps.
    seed
        The seed of the proposed values. Training uses the training config's own seed.
    """

    node: ClassVar[str] = "search"

    space: dict[str, Any]
    trials: Positive = 20
    prune: bool = True
    prune_after_trials: Positive = 5
    prune_after_steps: Natural = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        dimensions(self.space)


@dataclass(frozen=True, kw_only=True)
class SearchRunSettings(RunSettings):
    """A search, and the run that its trials vary."""

    search: SearchSettings


def dimensions(space: Mapping[str, Any], prefix: str = "") -> dict[str, Range | list[Any]]:
    """The searched keys of the training config, each with its range or choices.

    ``{optim: {weight_decay: {low: 1e-7, high: 1e-2, log: true}}}`` searches a range, of integers
    if both ends are. ``{model: {generator: {decoder: {choices: [linear, mlp]}}}}`` searches a list.

    Raises
    ------
    UserError
        If a key has no such group, or a group has wrong values.
    """
    searched: dict[str, Range | list[Any]] = {}
    for name, node in space.items():
        key = f"search.space.{prefix}{name}"
        if not isinstance(node, Mapping) or not node:
            raise UserError(
                f"{key}={shown(node)}: must be a group of low, high and log, of choices, or of keys"
            )
        if not {*_RANGE, _CHOICES} & node.keys():
            searched |= dimensions(node, f"{prefix}{name}.")
            continue
        fields = (_CHOICES,) if _CHOICES in node else _RANGE
        for field in node:
            if field not in fields:
                raise UserError(f"{key}.{field}: no such key; there are {', '.join(fields)}")
        if _CHOICES in node:
            searched[f"{prefix}{name}"] = checked(node[_CHOICES], _Choices, f"{key}.{_CHOICES}")
        else:
            searched[f"{prefix}{name}"] = _range(node, key)
    if not searched:
        raise UserError("search.space={}: must have a key that is searched")
    return searched


def _range(node: Mapping[str, Any], key: str) -> Range:
    for name in ("low", "high"):
        if name not in node:
            raise UserError(f"{key}.{name}: is missing; it must be a finite number")
    log = checked(node.get("log", False), bool, f"{key}.log")
    low = checked(node["low"], AboveZero if log else float, f"{key}.low")
    high = checked(node["high"], float, f"{key}.high")
    if low >= high:
        raise UserError(f"{key}.low={shown(node['low'])}: must be below {key}.high={shown(high)}")
    return Range(node["low"], node["high"], log)
