"""The site that ``make docs`` builds in ``build/docs``: documents, settings and docstrings.

Pages that are drawn from the code are written to ``docs/reference``, which git ignores.
"""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder

import filmvqa
from filmvqa.cli.command import CONFIGS, SETTINGS_OF_PROGRAMS
from filmvqa.cli.help import collect_comments, list_keys
from filmvqa.cli.overrides import compose_config, list_choices
from filmvqa.cli.programs import find_verbs

DOCS = Path(__file__).parent.resolve()
sys.path.insert(0, str(DOCS.parent))

from tests.test_rooms import ALL, FLOORS, PACKAGE, imported_rooms, room_of  # noqa: E402

project, author, release = "filmvqa", "The filmvqa authors", filmvqa.__version__
copyright = "the filmvqa authors, MIT license"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # `make notebooks` stores their outputs
html_theme = "furo"
html_title = f"filmvqa {release}"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = False
napoleon_use_ivar = True

# The recording of the page is a WebP, which every browser shows.
StandaloneHTMLBuilder.supported_image_types = [
    *StandaloneHTMLBuilder.supported_image_types, "image/webp",
]  # fmt: skip

REFERENCE = DOCS / "reference"
#: Where the design's page has the table of rooms.
ROOMS = "<!-- rooms -->"
#: Documents outside of docs/, and the pages of the site that show them.
PAGES = {
    "data/README.md": "reference/formats.md",
    "CONTRIBUTING.md": "reference/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
    "notebooks/tour.ipynb": "reference/tour.ipynb",
    "notebooks/your_data.ipynb": "reference/your_data.ipynb",
}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def rewrite_links(text: str, document: Path, page: Path) -> str:
    """Point a document's links to pages of the site, relative to the page that shows the document.

    Links to files that are not pages, such as code, become plain text.
    """

    def rewrite(match: re.Match[str]) -> str:
        words, link, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", link):
            return match[0]
        target = (document.parent / link).resolve()
        target = DOCS / PAGES.get(str(target.relative_to(DOCS.parent)), target)
        if DOCS not in target.parents:
            return words
        return f"[{words}]({os.path.relpath(target, page.parent)}{anchor})"

    return _LINK.sub(rewrite, text)


def rewrite_notebook(text: str, document: Path, page: Path) -> str:
    """A notebook, in whose texts links are rewritten."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = rewrite_links("".join(cell["source"]), document, page)
    return json.dumps(notebook)


def write_program(verb: str, path: Path) -> str:
    """The page of a program: its summary, its config groups and its keys."""
    summary = ast.get_docstring(ast.parse(path.read_text())) or ""
    text = [f"# {verb}", "", summary, ""]
    if verb not in SETTINGS_OF_PROGRAMS:
        return "\n".join([*text, "```bash", f"python scripts/{path.name}", "```"])
    config: Any = OmegaConf.to_container(
        compose_config(CONFIGS, verb, [], return_hydra_config=True)
    )
    choices = {
        group: choice
        for group, choice in config.pop("hydra")["runtime"]["choices"].items()
        if not group.startswith("hydra/")
    }
    text += ["```bash", f"python scripts/{path.name} [key=value ...]", "```", ""]
    for group in reversed(choices):
        names = ", ".join(f"`{name}`" for name in list_choices(group.partition("@")[0], CONFIGS))
        text += [f"`{group}=` sets several keys: {names}.", ""]
    comments = collect_comments(CONFIGS, verb, choices)
    text += ["| key | value | meaning |", "|---|---|---|"]
    keys = list_keys(SETTINGS_OF_PROGRAMS[verb], config)
    for key, value, takes, meaning in sorted(keys, key=lambda key: key[0] in ("imports", "debug")):
        shown = "required" if value == "???" else f"`{json.dumps(value)}`"
        limits = f" ({takes})" if takes else ""
        words = f"{meaning or comments.get(key, '')}{limits}".replace("<", "\\<")
        text.append(f"| `{key}` | {shown} | {words} |".replace("\n", " "))
    return "\n".join(text)


def write_rooms() -> str:
    """A table of the package's rooms, from the top floor down, with the rooms that each imports."""
    text = ["| floor | room | contains | imports |", "|---:|---|---|---|"]
    for floor, rooms in reversed(list(enumerate(FLOORS))):
        for room in rooms:
            path = PACKAGE / room.replace(".", "/")
            source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            summary = (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n\n")[0]
            modules = [module for module in ALL if room_of(module) == room]
            imports = set().union(*map(imported_rooms, modules)) - {room}
            names = ", ".join(f"`{name}`" for name in sorted(imports))
            summary = " ".join(summary.split())
            text.append(f"| {floor} | `{room}` | {summary} | {names} |")
    return "\n".join(text)


def write_reference(app: Sphinx) -> None:
    """Write the pages that are drawn from the code."""
    (REFERENCE / "commands").mkdir(parents=True, exist_ok=True)
    for source, page in PAGES.items():
        document = DOCS.parent / source
        rewrite = rewrite_notebook if document.suffix == ".ipynb" else rewrite_links
        (DOCS / page).write_text(rewrite(document.read_text(), document, DOCS / page))
    pages = []
    for verb, path in find_verbs().items():
        runpy.run_path(str(path), run_name="docs")
        (REFERENCE / f"commands/{verb}.md").write_text(write_program(verb, path))
        pages.append(f"commands/{verb}")
    listed = "\n".join(["```{toctree}", ":maxdepth: 1", "", *pages, "```"])
    (REFERENCE / "commands.md").write_text(f"# Commands\n\n{listed}\n")


def read_source(app: Sphinx, name: str, content: list[str]) -> None:
    """Rewrite the links of a page that lies in docs/ itself, insert the table of rooms, and list
    the pages of the folder that has the page's name."""
    path = Path(app.env.doc2path(name))
    if REFERENCE not in path.parents:
        content[0] = rewrite_links(content[0], path, path)
        if ROOMS in content[0]:
            content[0] = content[0].replace(ROOMS, write_rooms())
        folder = path.with_suffix("")
        if children := sorted(page.stem for page in folder.glob("*.md")):
            pages = [f"{folder.name}/{child}" for child in children]
            content[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_reference)
    app.connect("source-read", read_source)
