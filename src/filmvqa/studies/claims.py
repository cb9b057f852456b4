"""Claims about networks, and the sweeps that test them."""

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
    """A config key by which the settings of a claim differ, and the name of its column.

    ``values`` are those that belong to the claim, in order (None: all that the runs have).
    ``labels`` replace values in tables and figures.
    """

    node: ClassVar[str] = "keys"

    key: Name
    name: Name
    values: Annotated[list[Any], Meta(min_length=1)] | None = None
    labels: dict[str, Name] = field(default_factory=dict)

    def format_value(self, value: Any) -> str:
        """A value as tables show it."""
        text = format_value(value)
        return self.labels.get(text, text)


@dataclass(frozen=True, kw_only=True)
class Contrast(Settings):
    """Two settings that a claim compares.

    Attributes
    ----------
    text
        The comparison in words.
    first, second
        Values by key that identify each setting. The difference is accuracy of the first minus
        accuracy of the second.
    expected
        What the claim says of ``first``: that it is ``more`` accurate than ``second``, ``no more``
        accurate, or that both are the ``same``.
    claimed
        The difference in points that the source gives; None if it gives none.
    decides
        The part of the claim that this contrast decides. If no contrast has one, the first
        decides the claim.
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
    """A claim, and the runs that test it.

    Attributes
    ----------
    called
        The name of the claim on ``laboratory.py``'s command line.
    claim, source
        What is claimed, and where.
    note
        What the figures do not show, such as a choice that was made after runs had been seen.
    sweeps
        Overrides of ``train.py -m`` by the folder of the sweep. Claims may share folders.
    runs, minutes
        Number of runs of the sweeps, and minutes that one takes with one thread.
    split
        The split that is reported on; None: that of ``laboratory.py``.
    film
        Changes of γ and β, as ``film`` of ``evaluate.py``; each run is evaluated with each of
        them. Their fields are keys, such as ``film.arithmetic``. None: runs are evaluated without
        a change.
    keys
        The keys by which settings differ.
    where
        Values by key that all runs of the claim have; other runs in the folders are ignored.
    axis
        A key with numeric values that is the x axis of curves; None: figures have a row for each
        setting.
    panels
        A key with one panel for each value in the figure of accuracy during training; None: a few
        settings share a panel, in order.
    contrasts
        The comparisons.
    plateau
        Training accuracy in percent of networks on their plateau. A contrast is not judged if one
        of its networks ends on the plateau, because a longer training might leave it. None: there
        is no plateau.
    by_type
        Whether the table includes accuracies by question type.
    paper
        Published results for comparison: ``models`` is Table 1 of the paper, by the key
        ``model``; ``ablations`` its Tables 2 and 3, by the key ``ablation``; ``data_efficiency``
        MAC's results, by the keys ``model`` and ``data.fraction``.
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
        """The contrast that decides each part of the claim, by part."""
        parts = {contrast.decides: contrast for contrast in self.contrasts if contrast.decides}
        if not parts and self.contrasts:
            parts = {self.claim: self.contrasts[0]}
        return parts


def read_claim(path: Path, called: str | None = None) -> Claim:
    """Read a claim from a YAML file; the file's name is the claim's.

    Parameters
    ----------
    called
        The name on ``laboratory.py``'s command line; None: the path.

    Raises
    ------
    UserError
        If the file is missing or not a claim.
    """
    try:
        content = yaml.safe_load(read_bytes(path, "write a claim's settings to it"))
        if not isinstance(content, dict):
            raise UserError("is not a claim's settings")
        for name, entry in (("keys", Key), ("contrasts", Contrast)):
            content[name] = [settings_from(e, entry) for e in content.get(name) or []]
        claim = settings_from(content | {"name": path.stem, "called": called or str(path)}, Claim)
        keys = [key.key for key in claim.keys]
        named = [("axis", claim.axis), ("panels", claim.panels)]
        named += [("contrasts", key) for c in claim.contrasts for key in (*c.first, *c.second)]
        for name, key in named:
            if key is not None and key not in keys:
                raise UserError(f"{name}: {key} is not one of its keys, {', '.join(keys)}")
        return claim
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, UserError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def find_runs(claim: Claim, folder: Path) -> list[SweepRun]:
    """Find the runs in a claim's sweep folders that belong to it; none if nothing was trained."""
    folders = [folder / sweep for sweep in claim.sweeps if (folder / sweep).is_dir()]
    return [run for path in folders for run in find_runs_below(path) if belongs(run, claim)]


def belongs(run: SweepRun, claim: Claim) -> bool:
    """Whether a run has the values that a claim requires."""
    allowed = [(key, [value]) for key, value in claim.where.items()]
    allowed += [(key.key, key.values) for key in claim.keys if key.values is not None]
    return all(run.config.get(key) in values for key, values in allowed)
