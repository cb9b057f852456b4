"""Commands, links, anchors and files that the documents name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from filmvqa.cli.overrides import quote_arguments
from tests.conftest import REPOSITORY
from tests.test_configs import CONFIGS, compose_config


def documents() -> list[Path]:
    return [
        *sorted(REPOSITORY.glob("*.md")),
        REPOSITORY / "data/README.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
        *sorted((REPOSITORY / "docs/guides").glob("*.md")),
        *sorted((REPOSITORY / "docs/laboratory").glob("*.md")),
    ]


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").replace(" && ", "\n").splitlines()
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.mark.parametrize("document", documents(), ids=lambda p: p.name)
def test_the_commands_of_the_documents_exist(document: Path) -> None:
    found = commands(document.read_text())
    targets = set(re.findall(r"^([a-z_]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for line in found:
        words = shlex.split(line)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        if words[:1] == ["python"] and words[1].startswith("scripts/"):
            script = REPOSITORY / words[1]
            assert script.is_file(), line
            if (CONFIGS / f"{script.stem}.yaml").exists() and "--config-dir" not in words:
                overrides = [w for w in words[2:] if w != "-m" and "<" not in w]
                if "-m" in words:  # the first of the values that are swept
                    overrides = [re.sub(r"=range\(\d+\)$", "=0", w) for w in overrides]
                    overrides = [w if "[" in w else w.split(",")[0] for w in overrides]
                compose_config(script.stem, *quote_arguments(overrides))
    if document.name == "README.md" and document.parent == REPOSITORY:
        assert {"make demo", "make test"} <= set(found)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=lambda p: p.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document}: {link}"
        assert not anchor or anchor in anchors(target), f"{document}: {link}"


def test_the_readme_is_read_in_minutes() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 1200


@pytest.mark.parametrize("document", documents(), ids=lambda p: p.name)
def test_files_of_the_code_that_are_named_exist(document: Path) -> None:
    """Files of the repository by their path, and tests by their path below tests/."""
    for name in re.findall(r"`((?:[\w.]+/)*\w+\.py)`", document.read_text()):
        is_test = name.rpartition("/")[2].startswith("test_") and not name.startswith("tests/")
        if is_test or name.startswith(("src/", "tests/")):
            assert (REPOSITORY / ("tests" if is_test else "") / name).is_file(), name
