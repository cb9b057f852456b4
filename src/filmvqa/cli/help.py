"""A program's ``--help``: its groups of configs, and its keys.

A key is explained in the section Attributes of its dataclass, or by the comment after it in
``configs/``.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from filmvqa.cli import ablations
from filmvqa.cli.overrides import compose_config, list_choices
from filmvqa.settings.annotations import group_type, key_hints
from filmvqa.settings.nested import flatten
from filmvqa.settings.typed import Settings
from filmvqa.settings.wording import wanted

_KEY = re.compile(r"( *)([\w.]+):[^#]*(?:#\s*(.*))?")
_MORE = re.compile(r" {12,}#\s*(.*)")
_FOOT = """\
-m runs a sweep: one job for each of the values that a key has, separated by commas.
hydra/launcher=joblib, submitit_local, submitit_cpu or submitit_gpu runs several jobs at a time.
--cfg job only prints the whole configuration. --hydra-help lists the other flags."""


def format_help(
    summary: str,
    config_folder: Path,
    config_name: str,
    settings_type: type[Settings],
    arguments: Sequence[str],
) -> str:
    """A program's help, for the configuration that ``arguments`` such as ``model=mac`` give.

    Raises
    ------
    HydraException, OmegaConfBaseException
        For arguments that Hydra refuses.
    """
    config: Any = OmegaConf.to_container(
        compose_config(config_folder, config_name, arguments, return_hydra_config=True)
    )
    choices = {
        group: choice
        for group, choice in reversed(config.pop("hydra")["runtime"]["choices"].items())
        if not group.startswith("hydra/")
    }
    lines = [summary.strip(), "", f"usage: filmvqa {config_name} [key=value ...]", ""]
    for group, choice in choices.items():
        names = ", ".join(list_choices(group.partition("@")[0], config_folder))
        name = "ablation" if group == ablations.GROUP else group
        lines += [f"  {name}={_format(choice)}", _fill(f"sets several keys; one of {names}")]
    comments = collect_comments(config_folder, config_name, choices)
    keys = [key for key in list_keys(settings_type, config) if key[0] != "ablation"]
    for name, value, takes, meaning in sorted(keys, key=lambda key: key[0] in ("imports", "debug")):
        shown = "<value>" if value == "???" else _format(value)
        limits = f" [{takes}]" if takes else ""
        lines += [f"  {name}={shown}", _fill(f"{meaning or comments.get(name, '')}{limits}")]
    return "\n".join([*lines, "", _FOOT])


def list_keys(
    settings_type: type[Settings], config: Mapping[str, Any]
) -> Iterator[tuple[str, Any, str, str]]:
    """Each key with its value in a config, the values that it takes, and its dataclass's text."""
    meanings = read_attributes(settings_type)
    for name, hint in key_hints(settings_type).items():
        key, value, group = settings_type.key_of(name), config.get(name), group_type(hint)
        if group is not None and isinstance(value, Mapping):
            yield from list_keys(group, value)
        elif key == "model" and isinstance(value, Mapping):  # its options have no dataclass
            yield from ((leaf, v, "", "") for leaf, v in flatten(value, "model.").items())
        else:
            yield key, value, wanted(hint), meanings.get(name, "")


def read_attributes(settings_type: type[Settings]) -> dict[str, str]:
    """The texts on a dataclass's fields in its docstring and those of its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(settings_type.__mro__):
        _, _, section = textwrap.dedent(f"    {base.__doc__}").partition("Attributes\n----------\n")
        names: list[str] = []
        for line in section.partition("\n\n")[0].splitlines():
            if line.startswith(" "):
                meanings |= {name: f"{meanings[name]} {line.strip()}".strip() for name in names}
            else:
                names = line.split(", ")
                meanings |= dict.fromkeys(names, "")
    words = {"``": "", "None": "null", "True": "true", "False": "false"}
    return {
        name: re.sub("|".join(words), lambda match: words[match[0]], text)
        for name, text in meanings.items()
    }


def collect_comments(
    config_folder: Path, config_name: str, choices: Mapping[str, Any]
) -> dict[str, str]:
    """The comments after the keys of a program, for a choice of configs."""
    comments = _comments_of_program(config_folder, config_name)
    for group, choice in choices.items():
        folder, _, node = group.partition("@")
        by_config = {p.stem: read_comments(p) for p in (config_folder / folder).glob("*.yaml")}
        # The chosen config has priority, then those with most comments.
        for name in sorted(
            by_config, key=lambda name: (name == choice, len(by_config[name]), name)
        ):
            comments |= {f"{node or folder}.{key}": text for key, text in by_config[name].items()}
    return comments


def _comments_of_program(config_folder: Path, config_name: str) -> dict[str, str]:
    """The comments of a primary config, and of the configs in its defaults list."""
    path = config_folder / f"{config_name}.yaml"
    comments: dict[str, str] = {}
    for part in yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", []):
        if isinstance(part, str) and part != "_self_":
            comments |= _comments_of_program(config_folder, part)
    return comments | read_comments(path)


def read_comments(path: Path) -> dict[str, str]:
    """The comments after the keys of a config, with their further lines, by key."""
    comments: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if key and (more := _MORE.fullmatch(line)):
            comments[key] += f" {more[1]}"
            continue
        key = ""
        if match := _KEY.fullmatch(line):
            indent, name, comment = match.groups()
            parents = [parent for parent in parents if parent[0] < len(indent)]
            parents.append((len(indent), name))
            if comment:
                key = ".".join(parent for _, parent in parents)
                comments[key] = comment
    return comments


def _format(value: Any) -> str:
    """A value as on the command line."""
    if isinstance(value, str):
        return value
    return (
        yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize)
        .removesuffix("...\n")
        .strip()
    )


def _fill(text: str) -> str:
    return textwrap.fill(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
