"""Hydra entry points, which report a user error on one line and exit with status 1."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
import omegaconf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import filmvqa.worlds.clevr.generator_settings  # registers the settings of CLEVR's sets
import filmvqa.worlds.sound.settings  # noqa: F401 registers those of sets of sounds
from filmvqa.cli.ablations import store_ablations
from filmvqa.cli.help import format_help
from filmvqa.cli.imports import import_modules
from filmvqa.cli.job_folders import choose_folder, describe_job
from filmvqa.cli.joblib_sweeps import do_unless_stopped, raise_if_stopped
from filmvqa.cli.messages import (
    one_line_errors,
    refuse_renamed_keys,
    refuse_renamed_overrides,
)
from filmvqa.cli.overrides import (
    expand_home,
    explain_override,
    move_flags_first,
    quote_arguments,
    refuse_unnamed_choices,
)
from filmvqa.cli.packed import packed_folder
from filmvqa.cli.process import set_environment
from filmvqa.cli.sweep_failures import raise_listed_failures, record_failure, say_how_to_compare
from filmvqa.cli.torchrun import format_start, join_processes, take_local_rank
from filmvqa.settings.inputs import check_inputs
from filmvqa.settings.nested import flatten
from filmvqa.settings.typed import ProgramSettings, settings_from
from filmvqa.system.errors import UserError
from filmvqa.system.files import names_in
from filmvqa.system.signals import interrupt_on_signals

set_environment()  # before torch and other libraries read it

CONFIGS = packed_folder("configs")
#: What configs may name as ``_target_``: our callback, and Hydra's sweepers and launchers.
_TARGETS = ("filmvqa.cli.*", "hydra.*", "hydra_plugins.*")


def choose_hydra_arguments() -> dict[str, Any]:
    """The arguments of ``hydra.main`` that depend on Hydra's version.

    Hydra 1.3 warns if ``version_base`` is missing, Hydra 1.4 if it is given. Hydra 1.4 also warns
    if the allowed targets are not listed.
    """
    major, minor = (int(part) for part in hydra.__version__.split(".")[:2])
    if (major, minor) < (1, 4):
        return {"version_base": "1.3"}
    return {"execution_whitelist": list(_TARGETS)}


def _register_resolver(name: str, function: Callable[..., Any]) -> None:
    """Register an OmegaConf resolver.

    OmegaConf 2.4 renamed ``register_new_resolver`` to ``register_resolver``, which is a different
    function in earlier versions.
    """
    is_renamed = tuple(int(part) for part in omegaconf.__version__.split(".")[:2]) >= (2, 4)
    register: Any = getattr(
        OmegaConf, "register_resolver" if is_renamed else "register_new_resolver"
    )
    register(name, function, replace=True)


_register_resolver("folder_name", choose_folder)
_register_resolver("started", format_start)
store_ablations()

#: The settings of each imported program, by the name of its config.
SETTINGS_OF_PROGRAMS: dict[str, type[ProgramSettings]] = {}

S = TypeVar("S", bound=ProgramSettings)


def command(
    config_name: str, settings_type: type[S], *, by_several: bool = False
) -> Callable[[Callable[[S], Any]], Callable[[], None]]:
    """A decorator that turns a function of settings into a program.

    ``config_name`` is the primary config, which is read as ``settings_type``. With ``by_several``
    torchrun may start several processes of the program, which share its work. A sweep continues
    after a job fails, and lists the failed jobs at its end.
    """
    SETTINGS_OF_PROGRAMS[config_name] = settings_type

    def decorate(function: Callable[[S], Any]) -> Callable[[], None]:
        def run(config: DictConfig) -> Any:
            hydra_config = HydraConfig.get()
            if hydra_config.mode == RunMode.MULTIRUN:
                print(describe_job(), flush=True)
            # Config files may add any key, so renamed keys are also searched for here.
            plain_config: Any = OmegaConf.to_container(config, resolve=False)
            refuse_renamed_keys(flatten(plain_config))
            expand_home(config)
            import_modules(plain_config.get("imports", []))
            settings = typed_settings(config, settings_type)
            # A folder with content may hold a finished run, which needs no inputs any more.
            folder = Path(hydra_config.runtime.output_dir)
            if folder == Path.cwd() or not names_in(folder):
                check_inputs(settings)
            settings.check_models()
            return function(settings)

        @wraps(function)
        def job(config: DictConfig) -> Any:
            hydra_config = HydraConfig.get()
            if hydra_config.job.chdir:  # paths are relative to where the program was started
                os.chdir(hydra_config.runtime.cwd)
            if hydra_config.mode == RunMode.MULTIRUN:
                with record_failure(config.debug):
                    return do_unless_stopped(lambda: run(config))
            with one_line_errors():  # outside the job Hydra would print more lines
                return run(config)

        entry = hydra.main(
            config_path=str(CONFIGS), config_name=config_name, **choose_hydra_arguments()
        )(job)

        def start() -> None:
            """Run the jobs that the command line describes, or print help."""
            refuse_renamed_overrides(sys.argv[1:])
            flags, overrides = move_flags_first(quote_arguments(sys.argv[1:]))
            refuse_unnamed_choices(overrides, CONFIGS)
            sys.argv[1:] = [*flags, *overrides]
            try:
                if {"-h", "--help"} & set(flags):
                    summary = sys.modules[function.__module__].__doc__ or ""
                    print(format_help(summary, CONFIGS, config_name, settings_type, overrides))
                else:
                    entry()
            except HydraException as error:
                raise_listed_failures()
                raise explain_override(error, CONFIGS, config_name, overrides) from error
            except Exception as error:
                raise_listed_failures(error)
                raise
            raise_if_stopped()
            raise_listed_failures()
            if config_name == "train":
                say_how_to_compare()
            sys.stdout.flush()  # fails here, not later, if nobody reads it any more

        @wraps(function)
        def program() -> None:
            # Have Hydra raise its errors instead of printing them on several lines.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            take_local_rank()
            interrupt_on_signals()
            joined = join_processes(f"{config_name}.py", by_several=by_several)
            # Errors of the work are reported while the processes can agree which of them reports.
            with one_line_errors(), joined, one_line_errors():
                start()

        program.settings_type = settings_type  # type: ignore[attr-defined]  # for tests
        return program

    return decorate


def typed_settings(config: DictConfig, settings_type: type[S]) -> S:
    """A program's whole config as its settings.

    Raises
    ------
    UserError
        For an unknown or missing key, or a value of a wrong type or out of range.
    """
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]}: must be given; add {missing[0]}=<value>")
    plain_config: Any = OmegaConf.to_container(config, resolve=True)
    return settings_from(plain_config, settings_type)
