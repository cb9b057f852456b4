"""Hydra's overrides on the command line: unquoted paths, and errors on one line."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from filmvqa.cli import ablations
from filmvqa.settings.nested import flatten
from filmvqa.settings.wording import nearest_key
from filmvqa.system.errors import UserError, one_line

#: Keys whose value is a path, an address, a part of a path, or a user's question or name: arbitrary
#: text, in every script.
TEXT_KEYS = frozenset({
    "answer", "answers", "checkpoint", "data.download.url", "data.features", "data.h5",
    "data.images", "data.root", "dir", "features", "h5", "hydra.run.dir", "hydra.sweep.dir",
    "hydra.sweep.subdir", "name", "output", "picture", "pictures", "question", "run", "scenes",
    "source", "templates", "train.init_from", "type", "vocab", "weights",
})  # fmt: skip
#: Keys whose value is a path, or numbers.
TEXT_OR_NUMBER_KEYS = frozenset({"data.families", "questions"})
#: Nodes to which the user may add keys: splits, parts of a model, a search's space.
OPEN_NODES = (
    "data.generator.images.", "optim.part_weight_decay.", "search.space.", "hydra.", "hydra/",
)  # fmt: skip
#: A node whose keys are all the user's: they need no +.
OWN_NODE = "model.block.conditioning_options."

#: Launchers of Hydra's plugins, and the commands that install them.
_LAUNCHERS = {
    "joblib": "pip install hydra-joblib-launcher",
    **dict.fromkeys(("submitit_local", "submitit_slurm"), "pip install 'filmvqa[cluster]'"),
}
_ARGUMENT = re.compile(r"(?P<prefix>\+{0,2})(?P<key>[\w./@-]+)=(?P<value>.*)", re.DOTALL)

#: Hydra's flags, and its flags with a value and that value's choices (None: any text).
_FLAGS = (
    "--help -h", "--hydra-help", "--version", "--resolve", "--run -r", "--multirun -m",
    "--shell-completion -sc",
)  # fmt: skip
_OPTIONS = {
    "--cfg -c": ("job", "hydra", "all"),
    "--info -i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    **dict.fromkeys(
        ("--package -p", "--config-path -cp", "--config-name -cn", "--config-dir -cd",
         "--experimental-rerun"),
    ),
}  # fmt: skip


def move_flags_first(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's flags (with their values) from the overrides, since Hydra reads flags only
    before all overrides.

    Raises
    ------
    UserError
        For an unknown flag, or a flag without its value.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.error = _refuse_flags  # type: ignore[method-assign]  # it would print the whole usage
    parser.add_argument("overrides", nargs="*")
    for names in _FLAGS:
        parser.add_argument(*names.split(), action="store_true")
    for names, choices in _OPTIONS.items():
        default = {"nargs": "?", "const": "all"} if names == "--info -i" else {}
        parser.add_argument(*names.split(), choices=choices, **default)  # type: ignore[arg-type]
    overrides = parser.parse_intermixed_args(list(arguments)).overrides
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags, overrides


def _refuse_flags(message: str) -> NoReturn:
    raise UserError(f"{message}; options are given as key=value, and --hydra-help lists the flags")


def list_choices(group: str, config_folder: Path) -> list[str]:
    """The sorted names of a group's configs; none if there is no such group."""
    names = {path.stem for path in (config_folder / group).glob("*.yaml")}
    return sorted(names | ({*ablations.read_ablations()} if group == ablations.GROUP else set()))


def refuse_unnamed_choices(arguments: Sequence[str], config_folder: Path) -> None:
    """Raise ``UserError`` for a group whose value cannot be a config's name, such as null or a
    number, for which Hydra would end in a traceback."""
    for argument in arguments:
        override = _parse(argument)
        options = list_choices(override.key_or_group, config_folder) if override else []
        if override is None or not options:
            continue
        value = override.value()
        values = value.list if isinstance(value, ChoiceSweep) else [value]
        # The value is None if ~ deletes the whole group.
        wrong = (int, float) if override.is_delete() else (int, float, type(None))
        if any(isinstance(value, wrong) for value in values):
            raise UserError(
                f"{argument}: must be the name of a config; choose from {', '.join(options)}"
            )


def quote_arguments(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments in Hydra's grammar.

    The value of a key in ``TEXT_KEYS`` is quoted where the grammar would not read it as plain text:
    ``=``, letters beyond ASCII, ``~``, numbers and, except in a sweep, commas. A ``+``, which would
    add an unknown key, is removed except below ``OPEN_NODES``; below ``OWN_NODE`` it is added.
    ``ablation`` becomes its group of configs.
    """
    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    return [_quote_value(argument, is_sweep) for argument in arguments]


def _quote_value(argument: str, is_sweep: bool) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if match is None:
        return argument
    prefix, key, value = match["prefix"], match["key"], match["value"]
    if not key.startswith(OPEN_NODES) and "@" not in key:
        prefix = "++" if key.startswith(OWN_NODE) else ""
    if key == "ablation" and value not in ("", "null"):
        key = ablations.GROUP
    if key in TEXT_KEYS | TEXT_OR_NUMBER_KEYS:
        value = _quote_text(value, is_sweep, key in TEXT_OR_NUMBER_KEYS)
    return f"{prefix}{key}={value}"


def _quote_text(value: str, is_sweep: bool, may_be_number: bool) -> str:
    override = _parse(f"key={value}")
    if override is None:
        if is_sweep and "," in value:
            parts = value.split(",")
            return ",".join(_quote_text(part, is_sweep, may_be_number) for part in parts)
        return quote(value)
    if override.is_sweep_override():
        return value if is_sweep else quote(value)
    # Lists and mappings are no text: the script refuses them.
    is_number = isinstance(override.value(), int | float)
    return quote(value) if is_number and not may_be_number else value


def _parse(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def quote(text: str) -> str:
    """A text as a quoted value of Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def expand_home(config: DictConfig) -> None:
    """Replace ``~`` at the beginning of a config's paths by the user's home folder."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key, value in flatten(plain).items():
        if (
            key in TEXT_KEYS | TEXT_OR_NUMBER_KEYS
            and isinstance(value, str)
            and value.startswith("~")
        ):
            try:
                path = str(Path(value).expanduser())
            except RuntimeError:  # no such user: the name itself begins with ~
                continue
            OmegaConf.update(config, key, path)


def explain_override(
    error: HydraException, config_folder: Path, config_name: str, arguments: Sequence[str]
) -> UserError:
    """Hydra's error in a script's arguments, as one line with the key and the remedy."""
    if isinstance(error, OverrideParseException):
        return UserError(_explain_syntax(error.override))
    missing = str(getattr(error, "missing_cfg_file", None)).removeprefix("hydra/launcher/")
    if missing in _LAUNCHERS:
        return UserError(f"hydra/launcher={missing}: is not installed; run {_LAUNCHERS[missing]}")
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = sorted(error.options)
        near = _nearest(name, options)
        return UserError(f"{group}={name}: no such config{near}; choose from {', '.join(options)}")
    text = str(error)
    if match := re.search(r"Ambiguous value for argument '(.*?)=(.*)'", text):
        return UserError(
            f"{match[1]}={match[2]}: several values make a sweep, which needs -m; one value with "
            f"commas is quoted: {_quote_for_shell(match[1], match[2])}"
        )
    unknown = (
        r"Could not (?:override|delete|delete from config\.) '([^'=]*)|"
        r"config group '(.*)' does\s+not\s+exist"
    )
    if match := re.search(unknown, text):
        name = match[1] or match[2]
        for argument in arguments:
            if argument.startswith("~") and name.startswith(f"{argument[1:].partition('=')[0]}."):
                return UserError(f"{name}: is deleted by {argument}; give only one of the two")
        keys = sorted(_known_keys(config_folder, config_name, arguments, name))
        if name in keys:  # a mapping with new keys
            return UserError(
                f"{name}: cannot be given new keys in braces; give each with a + before it: "
                f"+{name}.<key>=<value>"
            )
        near = _nearest(name, keys)
        top = ", ".join(key for key in keys if "." not in key and "/" not in key)
        return UserError(f"{name}: no such key{near or f'; choose from {top}'}")
    cause = error.__cause__
    reason = f": {one_line(cause)}" if isinstance(cause, OmegaConfBaseException) else ""
    return UserError(f"{one_line(error, 400)}{reason}")


def _explain_syntax(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[A-Za-z_][\w./@-]*", key):
        return f"{override}: is no option; options are given as key=value"
    return (
        f"{override}: the value cannot be read; quote it for Hydra and for the shell: "
        f"{_quote_for_shell(key, value)}"
    )


def _quote_for_shell(key: str, value: str) -> str:
    text = quote(value)
    return f'"{key}={text}"' if '"' not in text and "$" not in text else f"{key}={text}"


def _nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean <name>?`` if there is a similar name."""
    near = nearest_key(name, names)
    return f"; did you mean {near}?" if near else ""


def compose_config(
    config_folder: Path,
    config_name: str,
    arguments: Sequence[str],
    *,
    return_hydra_config: bool = False,
) -> DictConfig:
    """A program's config with some overrides, without running the program.

    Raises
    ------
    HydraException, OmegaConfBaseException
        For overrides that Hydra refuses.
    """
    GlobalHydra.instance().clear()
    with (
        warnings.catch_warnings(action="ignore"),  # Hydra 1.4 warns of version_base
        initialize_config_dir(str(config_folder.absolute()), version_base="1.3"),
    ):
        return compose(config_name, list(arguments), return_hydra_config=return_hydra_config)


def _known_keys(
    config_folder: Path, config_name: str, arguments: Sequence[str], unknown: str
) -> set[str]:
    """A script's keys and groups, with the chosen groups if these can be composed."""
    overrides = [
        argument
        for argument in arguments
        if (match := _ARGUMENT.fullmatch(argument)) and match["key"] != unknown
    ]
    for chosen in (overrides, []):
        try:
            config = compose_config(config_folder, config_name, chosen)
        except (HydraException, OmegaConfBaseException):
            continue
        plain: Any = OmegaConf.to_container(config, resolve=False)
        return {*_paths(plain), *_groups(config_folder, set(plain))}
    return set()


def _paths(nested: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of a config's nodes and values, as paths with dots."""
    for key, value in nested.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _groups(config_folder: Path, keys: set[str]) -> set[str]:
    """The config groups of a script: those of its nodes, and all groups if it trains."""
    folders = (path for path in config_folder.rglob("*") if path.is_dir())
    groups = {path.relative_to(config_folder).as_posix() for path in folders} | {ablations.GROUP}
    return groups if {"train", "trainer"} <= keys else groups & keys
