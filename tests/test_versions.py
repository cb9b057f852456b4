"""The version number is the same everywhere."""

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
