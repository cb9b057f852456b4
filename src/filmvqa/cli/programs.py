"""The program ``filmvqa <verb>``: each file of ``scripts/`` is a verb.

Only the verb imports torch and Hydra.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import signal
import sys
from pathlib import Path

from filmvqa import __version__
from filmvqa.cli.packed import packed_folder


def find_verbs() -> dict[str, Path]:
    """The file of each verb, sorted by verb."""
    return {path.stem: path for path in sorted(packed_folder("scripts").glob("[a-z]*.py"))}


def summarize(path: Path) -> str:
    """The first line of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def list_verbs() -> str:
    """The usage, with a line for each verb."""
    rows = [f"  {verb:<21} {summarize(path)}" for verb, path in find_verbs().items()]
    head = "usage: filmvqa <verb> [key=value ...]; filmvqa <verb> --help lists the verb's keys"
    return "\n".join([head, "", *rows])


def main() -> None:
    """Run the verb with the remaining arguments, as ``python scripts/<verb>.py`` does. Without a
    verb, list the verbs."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that | head ends it quietly
        print(list_verbs())
        return
    if sys.argv[1] == "--version":
        print(f"filmvqa {__version__}")
        return
    verbs, verb = find_verbs(), sys.argv[1].replace("-", "_")
    if verb not in verbs:
        near = difflib.get_close_matches(verb, verbs, n=1)
        remedy = f"did you mean {near[0]}?" if near else "filmvqa --help lists the verbs"
        sys.exit(f"error: {sys.argv[1]}: no such verb; {remedy}")
    sys.argv[:2] = [str(verbs[verb])]
    runpy.run_path(sys.argv[0], run_name="__main__")
