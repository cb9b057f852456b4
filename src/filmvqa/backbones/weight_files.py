"""Weights of other people's networks: read from files, drawn at random, fitted by name."""

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

#: Under which trainers keep the weights in a file of theirs.
_NESTS = ("state_dict_ema", "state_dict", "model_ema", "model")
#: What distributed training puts before each name.
_DISTRIBUTED = "module."
#: Counters of batch norms, which no evaluation reads and old files lack.
_COUNTER = "num_batches_tracked"


def read_weights(path: str | Path, url: str = "") -> tuple[str, dict[str, Tensor]]:
    """The SHA-256 and the state dict of a file of PyTorch or safetensors, also where a trainer
    keeps it beside other things.

    Parameters
    ----------
    url
        Where a file of weights is published under a name that ends in the beginning of its
        content's SHA-256, as torch.hub wants it; a file of this name is compared with it.

    Raises
    ------
    UserError
        If there is no such file, or it has no weights, or is not what its name says.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such weights file")
    digest, published = sha256_of_file(path), url.rpartition("/")[2]
    beginning = re.search(r"-([0-9a-f]{8,})\.\w+$", published)
    if path.name == published and beginning and not digest.startswith(beginning[1]):
        raise UserError(
            f"{path}: is not what its name says (its SHA-256 begins with {digest[:8]}), but cut "
            f"short or another file; delete it and run again with network access, or put "
            f"{url}, fetched elsewhere, in its place"
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
            raise  # the system's, which names the file
        raise UserError(f"{path}: cannot be read as weights ({one_line(error)})") from None
    if isinstance(state, dict):
        state = next((state[k] for k in _NESTS if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: holds no weights by name; give a network's state dict")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    return digest, {k.removeprefix(_DISTRIBUTED): v for k, v in tensors.items()}


def fit_weights(
    network: nn.Module, state: Mapping[str, Tensor], known: Collection[str], source: str, name: str
) -> None:
    """Load a state dict into a network, or into what is left of one.

    Parameters
    ----------
    known
        The names of the whole network's weights, of which ``network`` may have only those of the
        layers that run: the classifier's may be there or not, and of any shape.
    source, name
        The file and the network, for messages.

    Raises
    ------
    UserError
        Which names what is lacking, unknown or of another shape.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith(_COUNTER)}
    lacking = [k for k in wanted if k not in state]
    unknown = [k for k in state if k not in known and not k.endswith(_COUNTER)]
    shapes = {k: (tuple(state[k].shape), tuple(v.shape)) for k, v in wanted.items() if k in state}
    other = [f"{k} is {there}, not {needed}" for k, (there, needed) in shapes.items()
             if there != needed]  # fmt: skip
    differences = [("lacks ", lacking), ("has the unknown ", unknown), ("", other)]
    if said := [what + _few(names) for what, names in differences if names]:
        raise UserError(f"{source}: not weights of {name}: {'; '.join(said)}; give others")
    network.load_state_dict({k: state[k] for k in wanted}, strict=False)


def _few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def hash_weights(network: nn.Module) -> str:
    """SHA-256 of a network's weights by name, where no file has them."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def drawn_alike() -> Generator[None]:
    """What is drawn inside is the same each time, so that a network with random weights can be
    built again; the generator goes on outside as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
