"""The registry of models, and the check of their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from filmvqa.models.batch_norm import let_batch_norms_count, weigh_images
from filmvqa.models.options import checked_options
from filmvqa.settings.wording import shown
from filmvqa.system.errors import OptionError, UserError

MODELS: dict[str, type[nn.Module]] = {}

M = TypeVar("M", bound=type[nn.Module])


def register_model(name: str) -> Callable[[M], M]:
    """Register a model class as ``model.name=<name>``. Its batch norms ``weigh_images``."""

    def register(cls: M) -> M:
        MODELS[name] = cls
        cls.forward = weigh_images(cls.forward)
        return cls

    return register


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """Build the model that is registered as ``name``.

    Parameters
    ----------
    name
        A key of ``MODELS``.
    **kwargs
        Options of the model's constructor, which are checked against its signature.

    Raises
    ------
    UserError
        If the name is not in ``MODELS``, the model has no such option, or a value is invalid.
    """
    _check_name(name, "model")
    try:
        model = MODELS[name](**checked_options(MODELS[name], kwargs, positional=True))
    except OptionError as error:
        raise UserError(f"model.{error}") from None
    let_batch_norms_count(model)
    return model


def check_model(model: Mapping[str, Any], key: str = "model") -> None:
    """Check the ``name`` and the options of a model before its data are available.

    Combinations of options are checked when the model is built.

    Raises
    ------
    UserError
        As ``build_model``. The message begins with ``key``, the model's configuration key.
    """
    _check_name(model.get("name"), key)
    try:
        checked_options(MODELS[model["name"]], {k: v for k, v in model.items() if k != "name"})
    except OptionError as error:
        raise UserError(f"{key}.{error}") from None


def targets_of(model: str | type[nn.Module] | nn.Module) -> str:
    """The targets that a model or a registered name is trained on: its ``TARGETS``, or answers."""
    model = MODELS[model] if isinstance(model, str) else model
    targets: str = getattr(model, "TARGETS", "answers")
    return targets


def _check_name(name: Any, key: str) -> None:
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(
            f"{key}.name={shown(name)}: must be one of {', '.join(MODELS)}; register a model of "
            "your own by imports=[<its module>]"
        )
