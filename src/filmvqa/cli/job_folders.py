"""The folders of a sweep's jobs, which are named after what the sweep varies, and the line that
describes each job."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from filmvqa.system.tables import format_number

#: Hydra's key for overrides that are left out of the names. If the user sets it, all others are
#: part of the names.
EXCLUDE_KEYS = "hydra.job.config.override_dirname.exclude_keys"
#: What earlier versions left out of the names, unless the sweep varied it; this version does so in
#: sweeps that vary nothing.
LEFT_OUT = frozenset({
    "experiment", "sweep", "device", "store", "logger", "resume", "imports", "debug",
})  # fmt: skip
#: The environment variable with the number of a sweep's jobs, for jobs in other processes.
_NUM_JOBS = "FILMVQA_NUM_JOBS"


def name_folder(overrides: str) -> str:
    """The name of a job's folder, from the job's overrides, one a line.

    ``optim.lr=1e-3`` and ``seed=0`` become ``optim.lr@1e-3+seed@0``, which has no characters that
    are special in paths, shells or Hydra's grammar. If others had to be replaced, or the name is
    too long, a hash makes it unique.
    """
    if not overrides:
        return "defaults"
    names, is_exact = [], True
    for override in overrides.split("\n"):
        key, _, value = override.removeprefix("++").partition("=")
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", value)
        is_exact &= name == value and re.fullmatch(r"[A-Za-z0-9_./]+", key) is not None
        names.append(f"{re.sub(r'[^A-Za-z0-9_.]', '.', key)}@{name}")
    name = "+".join(names)
    if is_exact and len(name) <= 200:  # file systems allow 255 bytes
        return name
    digest = hashlib.sha256(overrides.encode(errors="surrogatepass")).hexdigest()
    return f"{name[:187]}+{digest[:12]}"


def choose_folder(varied: str, overrides: Sequence[str], sweep: str) -> str:
    """The name of a job's folder in the sweep's folder. It contains the varied overrides, one a
    line in ``varied``; or all overrides, if a folder with that name of earlier versions exists."""
    keys = {key: line for line in overrides if (key := _key_of(line)) not in LEFT_OUT}
    keys |= {_key_of(line): line for line in varied.split("\n") if line}
    former = name_folder("\n".join(sorted(keys.values())))
    return former if (Path(sweep) / former).is_dir() else name_folder(varied)


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def overrides_of_jobs(hydra: Any) -> list[str]:
    """Overrides of Hydra's keys for a new sweep's jobs, from its node ``hydra``: the folders' names
    contain what the sweep varies, and each job knows their number."""
    task, params = list(hydra.overrides.task), hydra.sweeper.get("params") or {}
    swept = find_swept_keys(task, params)
    if not swept or any(_key_of(override) == EXCLUDE_KEYS for override in hydra.overrides.hydra):
        left_out = set(hydra.job.config.override_dirname.exclude_keys or LEFT_OUT) - swept
    else:
        left_out = {o.key_or_group for o in OverridesParser.create().parse_overrides(task)} - swept
    quoted = ",".join(f"'{key}'" for key in sorted(left_out))
    overrides = [f"{EXCLUDE_KEYS}=[{quoted}]"]
    if str(hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
        count = count_jobs(task, params)
        overrides += [] if count is None else [f"+hydra.job.env_set.{_NUM_JOBS}={count}"]
    return overrides


def find_swept_keys(overrides: Sequence[str], params: Mapping[str, Any]) -> set[str]:
    """The keys and groups that a sweep varies.

    Parameters
    ----------
    overrides
        Those of the command line.
    params
        Those of the sweeper.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {o.key_or_group for o in parsed if o.is_sweep_override()} | set(map(str, params))


def count_jobs(overrides: Sequence[str], params: Mapping[str, Any]) -> int | None:
    """The number of jobs of Hydra's basic sweeper; None if it cannot be computed beforehand."""
    parser = OverridesParser.create()
    both = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    try:
        swept = {o.key_or_group: o for o in parser.parse_overrides(both) if o.is_sweep_override()}
        return prod(len(list(override.sweep_string_iterator())) for override in swept.values())
    except HydraException:  # glob(...), which depends on files, and interval(...)
        return None


def expand_jobs(overrides: Sequence[str], params: Mapping[str, Any]) -> dict[str, list[str]]:
    """The overrides of each job of Hydra's basic sweeper, by the name of the job's folder, from
    which ``LEFT_OUT`` is left out unless swept. ``params`` are those of the sweeper."""

    def list_values(override: Override) -> list[str]:
        if override.is_sweep_override():
            return list(override.sweep_string_iterator())
        return [override.get_value_element_as_str()]

    both = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    values = {
        override.key_or_group: [
            f"{override.get_key_element()}={value}" for value in list_values(override)
        ]
        for override in OverridesParser.create().parse_overrides(both)
    }
    left_out = LEFT_OUT - find_swept_keys(overrides, params)
    jobs = [list(job) for job in product(*values.values())]
    names = [sorted(line for line in job if _key_of(line) not in left_out) for job in jobs]
    return {name_folder("\n".join(n)): job for n, job in zip(names, jobs, strict=True)}


def describe_job() -> str:
    """A line on the job that starts, such as ``job 2 of 3: optim.weight_decay=1e-4``."""
    job = HydraConfig.get().job
    total = f" of {os.environ[_NUM_JOBS]}" if _NUM_JOBS in os.environ else ""
    overrides = re.sub(
        r"(?<==)(0\.000\d+|[\d.]+e-\d+)(?=,|$)",
        lambda number: format_number(float(number[0])),
        job.override_dirname.replace("\n", ", "),
    )
    return f"job {job.num + 1}{total}: {overrides or 'the defaults'}"
