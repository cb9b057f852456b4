"""What all scripts share: a Hydra entry point whose user errors are one line and exit status 1."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
import msgspec
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if not sys.stderr.isatty():
    # Read by tqdm when it is imported, below: a log file needs no bar ten times a second.
    os.environ.setdefault("TQDM_MININTERVAL", "10")

from filmvqa.disk import NO_ROOM, disk_full_error
from filmvqa.errors import UserError, printable

if TYPE_CHECKING:
    from filmvqa.training.run import DataFiles

#: Errors of what the user gave or where they run it; any other is this project's own mistake.
MENDABLE = (UserError, OSError, HydraException, OmegaConfBaseException)
REMEDIES = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOTDIR: "a folder is needed where a file is; move it away",
    errno.EISDIR: "a file is needed where a folder is; move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
CONFIGS = str(Path(__file__).resolve().parent.parent / "configs")


def folder_name(overrides: str) -> str:
    """A sweep's job's overrides as one folder's name, the end of a long one as its hash."""
    name = overrides.replace("/", ".")
    if len(name.encode()) <= 200:  # of the 255 bytes that file systems allow
        return name
    return f"{name[:150]},{hashlib.sha256(name.encode()).hexdigest()[:12]}"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a config a script of the primary config ``config_name``.

    A sweep's jobs go on after one that fails; those that failed are listed at its end.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        failures: list[str] = []

        @wraps(function)
        def job(config: DictConfig) -> Any:
            hydra_config = HydraConfig.get()
            if hydra_config.mode != RunMode.MULTIRUN:
                with one_line_errors():  # here: Hydra would put lines of its own before it
                    return function(config)
            try:
                return function(config)
            except MENDABLE as error:
                if not _here(hydra_config):
                    raise
                place = Path(hydra_config.runtime.output_dir).name
                failures.append(f"{place}: {explain(error)}")
                print(f"error: {failures[-1]}; the other jobs go on", file=sys.stderr, flush=True)
                if config.debug:
                    traceback.print_exc()

        entry = hydra.main(version_base="1.3", config_path=CONFIGS, config_name=config_name)(job)

        @wraps(function)
        def run() -> None:
            # Hydra then raises its errors instead of printing them over several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            # What ends a batch job is to end it as Ctrl-C does: in order.
            signal.signal(signal.SIGTERM, _interrupt)
            with one_line_errors():
                entry()
                if failures:
                    raise UserError(
                        f"{len(failures)} of the sweep's jobs failed, and the same command runs "
                        f"these again: {' | '.join(failures)}"
                    )

        return run

    return decorate


def _here(hydra_config: HydraConf) -> bool:
    """Whether jobs run in this very process, where their failures can be gathered."""
    return str(hydra_config.launcher["_target_"]).endswith("BasicLauncher")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line on standard error for what its user can mend, or has
    stopped; with ``debug=true`` after the traceback."""
    try:
        yield
    except (*MENDABLE, KeyboardInterrupt) as error:
        if "debug=true" in sys.argv:
            traceback.print_exc()
        print(f"error: {explain(error)}", file=sys.stderr, flush=True)
        # 130 is what shells give for Ctrl-C.
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def explain(error: BaseException) -> str:
    """What went wrong, where, and what to do, as one line."""
    if isinstance(error, KeyboardInterrupt):
        reason = str(error) or "stopped"
        return printable(f"{reason}; run the same command again to go on")
    if isinstance(error, OSError):
        if error.errno in NO_ROOM:
            return printable(str(disk_full_error(error.filename or Path.cwd(), None, error)))
        remedy = REMEDIES.get(error.errno or 0, "see whether the disk and the network are well")
        place = f"{error.filename}: " if error.filename else ""
        return printable(f"{place}{error.strerror or error}; {remedy}")
    return printable(str(error))


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
