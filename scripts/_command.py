"""What all scripts share: a Hydra entry point whose user errors are one line and exit status 1."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
import msgspec
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if not sys.stderr.isatty():
    # Read by tqdm when it is imported, below: a log file needs no bar ten times a second.
    os.environ.setdefault("TQDM_MININTERVAL", "10")

from filmvqa.errors import UserError

if TYPE_CHECKING:
    from filmvqa.training.run import DataFiles

CONFIGS = str(Path(__file__).resolve().parent.parent / "configs")


def folder_name(overrides: str) -> str:
    """A sweep's job's overrides as one folder's name, the end of a long one as its hash."""
    name = overrides.replace("/", ".")
    if len(name.encode()) <= 200:  # of the 255 bytes that file systems allow
        return name
    return f"{name[:150]},{hashlib.sha256(name.encode()).hexdigest()[:12]}"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a config a script of the primary config ``config_name``."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @wraps(function)
        def job(config: DictConfig) -> Any:
            with _one_line_errors():
                return function(config)

        entry = hydra.main(version_base="1.3", config_path=CONFIGS, config_name=config_name)(job)

        @wraps(function)
        def run() -> None:
            # Hydra then raises its errors instead of printing them over several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            with _one_line_errors():
                entry()

        return run

    return decorate


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if "debug=true" in sys.argv:
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to go on")


def plain(config: Any) -> Any:
    """A config node as plain lists and dictionaries, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def data_files(config: DictConfig) -> DataFiles:
    """Where the config's data set lies."""
    from filmvqa.training.run import DataFiles

    data = config.data
    return DataFiles(
        Path(data.h5), Path(data.features), data.backbone.name, data.train_split, data.val_split
    )


T = TypeVar("T")


def settings(config: DictConfig, key: str, kind: type[T]) -> T:
    """The config node at ``key`` as a dataclass of the package, every type checked."""
    try:
        return msgspec.convert(plain(OmegaConf.select(config, key)), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{key}: {error} of {key}; see configs/ for what belongs there") from None
