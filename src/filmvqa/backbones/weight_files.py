"""Weights of networks: read from files, fitted by name, drawn at random, hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import sha256_of_file

#: Keys of the weights in the checkpoints of training programs.
_NESTS = ("state_dict_ema", "state_dict", "model_ema", "model")
#: Prefix of names in distributed training.
_DISTRIBUTED = "module."
#: Counters of batch norms, which evaluation does not read and old files lack.
_COUNTER = "num_batches_tracked"


def read_weights(path: str | Path, url: str = "") -> tuple[str, dict[str, Tensor]]:
    """Read the SHA-256 and the state dict of a PyTorch or safetensors file.

    The state dict may be an entry of a checkpoint of a training program.

    Parameters
    ----------
    url
        Address of published weights whose file name ends in the first digits of their SHA-256, as
        torch.hub requires. A file of this name is checked against them.

    Raises
    ------
    UserError
        If the file does not exist, has no weights, or does not have the SHA-256 in its name.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such weights file")
    digest, published = sha256_of_file(path), url.rpartition("/")[2]
    beginning = re.search(r"-([0-9a-f]{8,})\.\w+$", published)
    if path.name == published and beginning and not digest.startswith(beginning[1]):
        raise UserError(
            f"{path}: is not what its name says (its SHA-256 begins with {digest[:8]}), but "
            f"truncated or another file; delete it and run again with network access, or replace "
            f"it with a download of {url}"
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises half a dozen types for a file it cannot read
        if isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the system, which names the file
        raise UserError(f"{path}: cannot be read as weights ({one_line(error)})") from None
    if isinstance(state, dict):
        state = next((state[k] for k in _NESTS if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: contains no named weights; give a network's state dict")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    return digest, {k.removeprefix(_DISTRIBUTED): v for k, v in tensors.items()}


def fit_weights(
    network: nn.Module, state: Mapping[str, Tensor], known: Collection[str], source: str, name: str
) -> None:
    """Load a state dict into a network, or into a part of one.

    Parameters
    ----------
    known
        The names of the whole network's weights. Those that ``network`` does not have, such as the
        classifier's, may be absent from the state dict or have any shape.
    source, name
        The file and the network, for messages.

    Raises
    ------
    UserError
        If weights are missing, unknown or of another shape; the message names them.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith(_COUNTER)}
    lacking = [k for k in wanted if k not in state]
    unknown = [k for k in state if k not in known and not k.endswith(_COUNTER)]
    shapes = {k: (tuple(state[k].shape), tuple(v.shape)) for k, v in wanted.items() if k in state}
    reshaped = [f"{k} is {actual}, not {expected}" for k, (actual, expected) in shapes.items()
                if actual != expected]  # fmt: skip
    differences = [("lacks ", lacking), ("has the unknown ", unknown), ("", reshaped)]
    if problems := [text + _few(names) for text, names in differences if names]:
        raise UserError(f"{source}: not weights of {name}: {'; '.join(problems)}; give others")
    network.load_state_dict({k: state[k] for k in wanted}, strict=False)


def _few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def hash_weights(network: nn.Module) -> str:
    """SHA-256 of a network's weights and their names, for weights without a file."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def drawn_alike() -> Generator[None]:
    """Seed torch in this context, so that random weights are the same in every run; restore the
    generator's state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
