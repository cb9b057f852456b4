"""Claims about networks, and the sweeps that try them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from msgspec import Meta

from filmvqa.settings.typed import AboveZero, Name, Positive, Settings, SplitName, settings_from
from filmvqa.studies.sweeps import SweepRun, find_runs_below, format_value
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import read_bytes


@dataclass(frozen=True, kw_only=True)
class Key(Settings):
    """A config key that a claim's settings differ in, the name of its column, and the values that
    belong to the claim, in order (None: all that the runs have); ``labels`` has what stands for a
    value in tables and figures instead of itself."""

    node: ClassVar[str] = "keys"

    key: Name
    name: Name
    values: Annotated[list[Any], Meta(min_length=1)] | None = None
    labels: dict[str, Name] = field(default_factory=dict)

    def format_value(self, value: Any) -> str:
        """A value as tables have it."""
        text = format_value(value)
        return self.labels.get(text, text)


@dataclass(frozen=True, kw_only=True)
class Contrast(Settings):
    """Two settings that a claim says something about.

    Attributes
    ----------
    text
        What is compared, in words.
    first, second
        Values by key, which each one setting alone has; the difference is that of their accuracies.
    expected
        Whether the claim has it that the ``first`` is ``more`` accurate, that it is ``no more``
        so, or that they are the ``same``.
    claimed
        The difference in points that the source gives; None if it gives none.
    decides
        The part of the claim that it decides; a claim without any such is decided by the first.
    """

    node: ClassVar[str] = "contrasts"

    text: Name
    first: dict[str, Any]
    second: dict[str, Any]
    expected: Literal["more", "no more", "same"] = "more"
    claimed: float | None = None
    decides: Name | None = None


@dataclass(frozen=True, kw_only=True)
class Claim(Settings):
    """A claim, and the runs that try it.

    Attributes
    ----------
    called
        What ``laboratory.py`` calls it.
    claim, source
        What is claimed, and where.
    note
        What its figures do not say, such as what was settled when runs had been seen.
    sweeps
        Overrides of ``train.py -m`` by the folder of the sweep; several claims may share one.
    runs, minutes
        How many runs the sweeps have, and how long one takes with a thread of its own.
    split
        What is reported on; None: what ``laboratory.py`` is told.
    film
        Changes of γ and β with which each run is evaluated, as ``film`` of ``evaluate.py``; what
        they say is keys, such as ``film.arithmetic``. None: it is evaluated as it is.
    keys
        What the settings differ in.
    where
        Values by key that all runs of the claim have; others in the same folders are left out.
    axis
        The key, with numbers for values, along which figures draw curves; None: a row a setting.
    panels
        The key of which each value has a panel of its own where figures draw accuracy while
        training; None: a few settings a panel, in order.
    contrasts
        What is compared.
    plateau
        Training accuracy in percent that networks have on their plateau. One that has not left it
        by its end is not judged: when it would have is another question. None: there is none.
    by_type
        Whether the table has the question types.
    paper
        Which published results stand beside: those of Table 1 of the paper for ``models``, by the
        key ``model``; of its Tables 2 and 3 for ``ablations``, by the key ``ablation``; MAC's for
        ``data_efficiency``, by the keys ``model`` and ``data.fraction``.
    """

    node: ClassVar[str] = ""

    name: Name
    called: Name
    title: Name
    claim: Name
    source: Name
    note: Name | None = None
    sweeps: Annotated[dict[str, list[Name]], Meta(min_length=1)]
    runs: Positive
    minutes: AboveZero
    split: SplitName | None = None
    film: list[dict[str, Any]] = field(default_factory=list)
    keys: Annotated[list[Key], Meta(min_length=1)]
    where: dict[str, Any] = field(default_factory=dict)
    axis: Name | None = None
    panels: Name | None = None
    contrasts: list[Contrast] = field(default_factory=list)
    plateau: AboveZero | None = None
    by_type: bool = False
    paper: Literal["models", "ablations", "data_efficiency"] | None = None

    @property
    def deciding(self) -> dict[str, Contrast]:
        """The contrast that decides each part of the claim."""
        parts = {contrast.decides: contrast for contrast in self.contrasts if contrast.decides}
        if not parts and self.contrasts:
            parts = {self.claim: self.contrasts[0]}
        return parts


def read_claim(path: Path, called: str | None = None) -> Claim:
    """A claim from a YAML file, whose name is the claim's.

    Parameters
    ----------
    called
        What ``laboratory.py`` calls it; None: the path.

    Raises
    ------
    UserError
        If the file is missing or is no claim.
    """
    try:
        content = yaml.safe_load(read_bytes(path, "write a claim's settings to it"))
        if not isinstance(content, dict):
            raise UserError("is no claim's settings")
        for name, entry in (("keys", Key), ("contrasts", Contrast)):
            content[name] = [settings_from(e, entry) for e in content.get(name) or []]
        claim = settings_from(content | {"name": path.stem, "called": called or str(path)}, Claim)
        keys = [key.key for key in claim.keys]
        named = [("axis", claim.axis), ("panels", claim.panels)]
        named += [("contrasts", key) for c in claim.contrasts for key in (*c.first, *c.second)]
        for name, key in named:
            if key is not None and key not in keys:
                raise UserError(f"{name}: {key} is none of its keys, {', '.join(keys)}")
        return claim
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, UserError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def find_runs(claim: Claim, folder: Path) -> list[SweepRun]:
    """The runs of a claim's sweeps below a folder that belong to it; none if nothing was trained
    yet."""
    folders = [folder / sweep for sweep in claim.sweeps if (folder / sweep).is_dir()]
    return [run for path in folders for run in find_runs_below(path) if belongs(run, claim)]


def belongs(run: SweepRun, claim: Claim) -> bool:
    """Whether a run has the values that a claim is about."""
    allowed = [(key, [value]) for key, value in claim.where.items()]
    allowed += [(key.key, key.values) for key in claim.keys if key.values is not None]
    return all(run.config.get(key) in values for key, values in allowed)
