"""The models by name, and the check of their options."""

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
    """Make a model known as ``model.name=<name>``, whose batch norms ``weigh_images``."""

    def register(cls: M) -> M:
        MODELS[name] = cls
        cls.forward = weigh_images(cls.forward)
        return cls

    return register


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """Build the model that ``MODELS`` has under ``name``.

    Parameters
    ----------
    name
        A key of ``MODELS``.
    **kwargs
        Options of the model's constructor. They are checked against its signature.

    Raises
    ------
    UserError
        For a name that is not in ``MODELS``, an option that the model does not have, or a value
        that the option does not take.
    """
    _check_name(name, "model")
    try:
        model = MODELS[name](**checked_options(MODELS[name], kwargs, positional=True))
    except OptionError as error:
        raise UserError(f"model.{error}") from None
    let_batch_norms_count(model)
    return model


def check_model(model: Mapping[str, Any], key: str = "model") -> None:
    """Check the ``name`` of a model and its options before there are data to build it for.

    Options whose values are sensible only together are checked when the model is built.

    Raises
    ------
    UserError
        As ``build_model``; the message begins with ``key``, the model's in the configuration.
    """
    _check_name(model.get("name"), key)
    try:
        checked_options(MODELS[model["name"]], {k: v for k, v in model.items() if k != "name"})
    except OptionError as error:
        raise UserError(f"{key}.{error}") from None


def targets_of(model: str | type[nn.Module] | nn.Module) -> str:
    """The kind of targets that a model, or that which ``MODELS`` has under a name, is trained on:
    its ``TARGETS``, or the answers."""
    model = MODELS[model] if isinstance(model, str) else model
    kind: str = getattr(model, "TARGETS", "answers")
    return kind


def _check_name(name: Any, key: str) -> None:
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(
            f"{key}.name={shown(name)}: must be one of {', '.join(MODELS)}; a model of your own is "
            "known after imports=[<its module>]"
        )
