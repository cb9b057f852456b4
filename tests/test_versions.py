"""The version number is the same everywhere, and the public CI runs what ``.ci/run`` runs."""

from __future__ import annotations

import re
import tomllib

import yaml

import filmvqa
from tests.conftest import REPOSITORY


def test_the_changelog_and_the_citation_are_of_this_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "filmvqa.__version__"}
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", changelog, re.MULTILINE)
    assert len(releases) == changelog.count("\n## ")
    numbers = [tuple(map(int, version.split("."))) for version, _ in releases]
    assert numbers == sorted(set(numbers), reverse=True)
    assert [date for _, date in releases] == sorted((date for _, date in releases), reverse=True)
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["version"], str(citation["date-released"])) == releases[0]
    assert filmvqa.__version__ == releases[0][0]


def test_the_public_ci_runs_the_commands_of_our_own() -> None:
    commands = re.findall(r"^make [\w-]+$", (REPOSITORY / ".ci/run").read_text(), re.MULTILINE)
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [f"make {target}" for target in job["strategy"]["matrix"]["target"]] == commands
    assert job["steps"][-1]["run"] == "make ${{ matrix.target }}"
