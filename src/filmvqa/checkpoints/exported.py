"""Exported networks: a safetensors file of float16 weights, with everything else in its metadata.

The file suffices to evaluate and to ask questions. The package ships some exported networks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from filmvqa.system.errors import UserError, one_line

FORMAT = "filmvqa-network-1"
#: The only key of the metadata; its value is JSON.
_KEY = "filmvqa"
#: The entries of a checkpoint that are kept.
ENTRIES = ("model", "config", "vocabulary", "data", "backbone", "inputs", "progress")
#: The keys of the entry ``progress`` that are kept.
PROGRESS = ("step", "finished", "best_accuracy", "seconds")


def encode_network(content: dict[str, Any], path: str | Path) -> bytes:
    """Encode a checkpoint's network, with the weights that evaluation uses.

    Raises
    ------
    UserError
        If a weight is too large for float16.
    """
    weights = {}
    for name, value in (content["ema_weights"] or content["weights"]).items():
        stored = value.detach().cpu().contiguous()
        if stored.is_floating_point():
            stored = stored.half()
            if not stored.isfinite().all():
                raise UserError(f"{path}: its weight {name} is too large for float16")
        weights[name] = stored
    entries = {name: content[name] for name in ENTRIES}
    entries["feature_range"] = content.get("feature_range")
    images = content["train_images"]
    entries["train_images"] = None if images is None else images.tolist()
    entries["progress"] = {k: v for k, v in entries["progress"].items() if k in PROGRESS}
    metadata = {_KEY: json.dumps({"format": FORMAT, **entries})}
    return safetensors.torch.save(weights, metadata)


def decode_network(stored: bytes, path: str | Path) -> dict[str, Any]:
    """Decode the file of a network to the content of a checkpoint that cannot be resumed.

    Raises
    ------
    UserError
        If the file is not an exported network, or is broken.
    """
    try:
        weights = safetensors.torch.load(stored)
        header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
        entries = json.loads(header["__metadata__"][_KEY])
        file_format = entries.pop("format")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a network that scripts/export.py wrote ({one_line(error, 120)}); give "
            "an exported network or a checkpoint"
        ) from None
    if file_format != FORMAT:
        raise UserError(f"{path}: is {file_format!r}, not {FORMAT!r}; export it again")
    single = {k: v.float() if v.dtype == torch.float16 else v for k, v in weights.items()}
    if entries.get("train_images") is not None:
        entries["train_images"] = torch.tensor(entries["train_images"])
    return {**entries, "weights": single, "ema_weights": None}
