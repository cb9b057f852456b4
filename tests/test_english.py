"""The words that CONTRIBUTING.md's table of terms replaces occur nowhere."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TABLE = "CONTRIBUTING.md"
ENDINGS = ("*.py", "*.md", "*.yaml", "*.ipynb", "*.js", "*.html")
#: What begins a line of a comment, and what joins the lines of a text in code.
_MARGIN = re.compile(r"^\s*(?:#:?|//|\*|>)?\s*[rbf]?[\"']*|[\"']*\s*\\?$")


def replaced_terms() -> list[str]:
    """The regular expressions of the table's last column."""
    rows = re.findall(
        r"^\|.*`.*\|$", (REPOSITORY / TABLE).read_text().partition("## Terms")[2], re.M
    )
    cells = [re.split(r"(?<!\\)\|", row)[-2] for row in rows]
    return [term.replace(r"\|", "|") for cell in cells for term in re.findall(r"`(.+?)`", cell)]


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file's text with their numbers, of a notebook without its outputs."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        sources = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
        text = "\n".join(sources)
    for number, line in enumerate(text.splitlines(), 1):
        if not (path.name == TABLE and line.startswith("|")):
            yield number, _MARGIN.sub("", line)


def find_terms(path: Path, pattern: re.Pattern[str]) -> list[str]:
    """Where a file has the terms, which may go over several lines."""
    text, starts = "", []
    for number, line in read_lines(path):
        starts.append((len(text), number))
        text += " ".join(line.split()) + " "
    return [
        f"{path.relative_to(REPOSITORY)}:{max(n for s, n in starts if s <= match.start())}: "
        f"{match[0]}"
        for match in pattern.finditer(text)
    ]


def test_replaced_terms_occur_nowhere() -> None:
    pattern = re.compile(rf"\b(?:{'|'.join(replaced_terms())})\b", re.IGNORECASE)
    listed = subprocess.run(
        ["git", "ls-files", *ENDINGS], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("no git checkout")
    occurrences = [found for name in listed for found in find_terms(REPOSITORY / name, pattern)]
    assert not occurrences, "\n".join([f"see the terms in {TABLE}:", *occurrences])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# The run can be gone\n# on with.", 1),
        ('x = 1\nprint("no questions, Complete "\n      "already")', 2),
        ("<!-- the\n    like -->", 1),
        ("the likeliest answer, not sorted; pretrained network", None),
    ],
)
def test_terms_are_found_over_lines(
    text: str, line: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = replaced_terms()
    assert len(terms) > 20
    pattern = re.compile(rf"\b(?:{'|'.join(terms)})\b", re.IGNORECASE)
    monkeypatch.setattr("tests.test_english.REPOSITORY", tmp_path)
    path = tmp_path / "text.py"
    path.write_text(text)
    assert [found.split(":")[1] for found in find_terms(path, pattern)] == [str(line)] * bool(line)
