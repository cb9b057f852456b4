"""The folders of a sweep's jobs, which are named after what the sweep varies, and what is said of
each job."""

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
from hydra.errors import HydraException

from filmvqa.system.tables import format_number

#: Hydra's key for what is no part of the names: given on the command line, all else is.
EXCLUDE_KEYS = "hydra.job.config.override_dirname.exclude_keys"
#: What was no part of the names that earlier versions gave, unless the sweep varied it; and of
#: those of sweeps that vary nothing.
LEFT_OUT = frozenset({
    "experiment", "sweep", "device", "store", "logger", "resume", "imports", "debug",
})  # fmt: skip
#: Tells a job how many there are, also in another process.
_NUM_JOBS = "FILMVQA_NUM_JOBS"


def name_folder(overrides: str) -> str:
    """The name of the folder of a sweep's job, made of overrides, one a line.

    ``optim.lr=1e-3`` and ``seed=0`` become ``optim.lr@1e-3+seed@0``: characters that paths, shells
    and Hydra's grammar read as they are. Where a value has others, or the name is too long, a hash
    tells apart what would be one name.
    """
    if not overrides:
        return "defaults"
    names, is_exact = [], True
    for override in overrides.split("\n"):
        key, _, value = override.partition("=")
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", value)
        is_exact &= name == value and re.fullmatch(r"[A-Za-z0-9_./]+", key) is not None
        names.append(f"{re.sub(r'[^A-Za-z0-9_.]', '.', key)}@{name}")
    name = "+".join(names)
    # Of the 255 bytes that file systems allow.
    if is_exact and len(name) <= 200:
        return name
    digest = hashlib.sha256(overrides.encode(errors="surrogatepass")).hexdigest()
    return f"{name[:187]}+{digest[:12]}"


def choose_folder(varied: str, overrides: Sequence[str], sweep: str) -> str:
    """The name of a job's folder below that of the sweep: of what is varied, one a line; or of all
    overrides, as earlier versions named it, if there is such a folder."""
    keys = {key: line for line in overrides if (key := _key_of(line)) not in LEFT_OUT}
    keys |= {_key_of(line): line for line in varied.split("\n") if line}
    former = name_folder("\n".join(sorted(keys.values())))
    return former if (Path(sweep) / former).is_dir() else name_folder(varied)


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def overrides_of_jobs(hydra: Any) -> list[str]:
    """Overrides of Hydra's own for the jobs of a sweep that starts, by its node ``hydra``: their
    folders' names have what it varies, and each knows how many there are."""
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
        The command line's.
    params
        The sweeper's own parameters.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {o.key_or_group for o in parsed if o.is_sweep_override()} | set(map(str, params))


def count_jobs(overrides: Sequence[str], params: Mapping[str, Any]) -> int | None:
    """How many jobs Hydra's own sweeper makes of a command; None if that cannot be told ahead."""
    parser = OverridesParser.create()
    both = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    try:
        swept = {o.key_or_group: o for o in parser.parse_overrides(both) if o.is_sweep_override()}
        return prod(len(list(override.sweep_string_iterator())) for override in swept.values())
    except HydraException:  # glob(...), of which files are listed, and interval(...)
        return None


def expand_jobs(overrides: Sequence[str], params: Mapping[str, Any]) -> dict[str, list[str]]:
    """The overrides of each job that Hydra's own sweeper makes of a command, by the name of its
    folder where ``LEFT_OUT`` is no part of the names unless it is swept; ``params`` are the
    sweeper's own."""
    parser = OverridesParser.create()
    both = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    values = {
        o.key_or_group: [
            f"{o.get_key_element()}={value}"
            for value in (
                o.sweep_string_iterator()
                if o.is_sweep_override()
                else [o.get_value_element_as_str()]
            )
        ]
        for o in parser.parse_overrides(both)
    }
    left_out = LEFT_OUT - find_swept_keys(overrides, params)
    jobs = [list(job) for job in product(*values.values())]
    names = [sorted(line for line in job if _key_of(line) not in left_out) for job in jobs]
    return {name_folder("\n".join(n)): job for n, job in zip(names, jobs, strict=True)}


def describe_job() -> str:
    """What the job that begins is, such as ``job 2 of 3: optim.weight_decay=1e-4``."""
    job = HydraConfig.get().job
    of = f" of {os.environ[_NUM_JOBS]}" if _NUM_JOBS in os.environ else ""
    what = job.override_dirname.replace("\n", ", ") or "the defaults"
    what = re.sub(r"(?<==)(0\.000\d+|[\d.]+e-\d+)(?=,|$)", _rewrite_number, what)
    return f"job {job.num + 1}{of}: {what}"


def _rewrite_number(text: re.Match[str]) -> str:
    return format_number(float(text[0]))
