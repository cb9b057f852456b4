"""timm's networks: ``timm/<model>`` or ``timm/<model>.<weights>``, with timm's names."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.backbones.library_networks import OneMap, choose_stage, library_backbone
from filmvqa.backbones.settings import RANDOM
from filmvqa.backbones.weight_files import drawn_alike, fit_weights, hash_weights, read_weights
from filmvqa.system.errors import UserError, one_line

_PREFIX = "timm/"


@register_backbone("timm/<model>")
def build_timm(name: str, options: BackboneOptions) -> Backbone:
    """A network of timm up to one of its maps, with timm's normalisation.

    The map of a transformer has its patch tokens; its position embedding is resampled to the image
    size.

    Raises
    ------
    UserError
        If timm is not installed, the network or its weights are unknown, or the weights cannot be
        downloaded or do not fit.
    """
    timm = import_timm(name)
    model_name = name.removeprefix(_PREFIX)
    if not timm.is_model(model_name):
        similar = difflib.get_close_matches(model_name, timm.list_models(), 3)
        remedy = f"did you mean {' or '.join(_PREFIX + n for n in similar)}?" if similar else (
            "timm.list_models() lists them"
        )  # fmt: skip
        raise UserError(f"data.backbone.name={name}: timm has no such network; {remedy}")
    try:
        published = timm.get_pretrained_cfg(model_name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{model_name.partition('.')[0]}.*")
        raise UserError(
            f"data.backbone.name={name}: {one_line(error)} timm has {', '.join(tags) or 'none'}"
        ) from None
    if published.input_size[0] != 3:
        raise UserError(f"data.backbone.name={name}: takes no RGB images; use another network")
    arguments = {}
    if published.fixed_input_size and options.image_size is not None:
        arguments["img_size"] = options.image_size

    def create(pretrained: bool) -> Any:
        return timm.create_model(model_name, pretrained=pretrained, **arguments)

    weights, digest, state = str(options.weights), None, None
    if options.weights is None:
        try:
            network, weights = create(True), f"{published.architecture}.{published.tag}"
        except MemoryError:
            raise
        except Exception as error:  # timm's own, and a dozen types from its downloads
            raise UserError(
                f"timm could not load the weights of {name} ({one_line(error)}); run again with "
                "network access, or give weights=<file>, or weights=random for a dry run"
            ) from None
    elif options.weights == RANDOM:
        with drawn_alike():
            network = create(False)
    else:
        digest, state = read_weights(options.weights)
        network = create(False)
        # timm adapts downloaded weights so: older names, position embeddings of another size.
        adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        state = state if adapt is None else adapt(state, network)
    whole = set(network.state_dict())
    digest = digest or hash_weights(network)
    stage = choose_stage(name, options.stage, [m["reduction"] for m in network.feature_info])
    maps = cut(network, stage)
    if state is not None:
        fit_weights(maps.network.model, state, whole, weights, name)
    return library_backbone(
        name,
        maps,
        options,
        usual_size=published.input_size[1:],
        normalisation=(published.mean, published.std),
        stage=stage,
        weights=Path(weights).name,
        weights_sha256=digest,
    )


def import_timm(name: str, extra: str = "timm") -> Any:
    """Import timm for the network ``name``; ``UserError`` with the extra of this package that
    installs what the network needs if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"data.backbone.name={name}: needs the package timm ({one_line(error)}); run "
            f"pip install 'filmvqa[{extra}]'"
        ) from None
    return timm


def cut(network: nn.Module, stage: int) -> Any:
    """Cut a network of timm after its map ``stage``, counted from 1; it then returns that map."""
    from timm.models._features import FeatureGetterNet

    return OneMap(FeatureGetterNet(network, out_indices=(stage - 1,), norm=False))
