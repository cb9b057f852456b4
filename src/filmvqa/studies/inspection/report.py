"""An inspection of a checkpoint: a page of figures, and the numbers behind them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from filmvqa.evaluation.evaluate import open_questions, output_folder
from filmvqa.models.protocols import Attentive, can_record, has_film_penalty
from filmvqa.studies.inspection import answer_sections, film_sections
from filmvqa.studies.inspection.answers import write_answers
from filmvqa.studies.inspection.inspected import Inspected, Section
from filmvqa.studies.inspection.settings import InspectSettings
from filmvqa.studies.inspection.tables import Table
from filmvqa.system.errors import UserError
from filmvqa.system.files import check_output, write_file
from filmvqa.system.layout import RunLayout
from filmvqa.system.locks import folder_lock


def inspect_checkpoint(settings: InspectSettings) -> Path:
    """Write the page ``index.html``, its figures as PNG, their numbers as CSV, and ``answers.h5``.

    Returns the page.

    Raises
    ------
    UserError
        As ``open_questions``, and for a split without answers.
    """
    split = settings.split
    output = Path(settings.output or "")
    if settings.output is None:
        output = RunLayout(output_folder(settings.checkpoint)).inspection(split)
    check_output(output / "index.html")
    with open_questions(settings, split) as asked, folder_lock(output, "inspection"):
        if asked.loader.questions.answers is None:
            raise UserError(
                f"{asked.loader.questions.path}: has no answers to compare with; choose another "
                "split"
            )
        inspected = Inspected(asked, output, settings)
        sections = _describe(inspected)
        for section in sections:
            section.figures[:] = [name for name in section.figures if (output / name).exists()]
        page = _write_page(settings.checkpoint, split, len(inspected.rows), sections)
        for section in sections:
            for name, table in section.tables.items():
                write_file(output / f"{name}.csv", table.csv())
        write_file(output / "index.html", page)
    return output / "index.html"


def _describe(inspected: Inspected) -> list[Section]:
    """Draw the figures of all sections, and write ``answers.h5``."""
    gamma, beta = inspected.answers.gamma, inspected.answers.beta
    sections = [
        answer_sections.describe_accuracy(inspected),
        answer_sections.describe_confusion(inspected),
        answer_sections.describe_consistency(inspected),
    ]
    if gamma is not None and beta is not None and has_film_penalty(inspected.model):
        sections += [
            film_sections.describe_film(inspected, gamma, beta),
            film_sections.describe_points(inspected, gamma, beta),
            film_sections.describe_robustness(inspected, gamma.shape[1]),
        ]
    if can_record(inspected.model):
        sections.append(film_sections.describe_activations(inspected))
    if isinstance(inspected.model, Attentive):
        sections.append(film_sections.describe_attention(inspected))
    sections += [
        answer_sections.describe_shuffled_words(inspected),
        answer_sections.describe_worst(inspected),
    ]
    index = inspected.questions.original_index[inspected.rows]
    path = inspected.output / "answers.h5"
    write_answers(path, inspected.answers, index, inspected.names)
    return sections


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
.paper { color: gray; } table { border-collapse: collapse; font-size: 0.9rem; }
td, th { padding: 0.15rem 0.8rem 0.15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
"""


def _write_page(checkpoint: str, split: str, count: int, sections: Sequence[Section]) -> str:
    """The page as HTML without external files except the figures and tables."""
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(checkpoint)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(checkpoint)}: {count:,} questions of {html.escape(split)}</h1>",
    ]
    for section in sections:
        title, text = html.escape(section.title), html.escape(section.text)
        parts.append(f"<h2>{title}</h2><p>{text}</p>")
        if section.paper:
            parts.append(f'<p class="paper">The paper: {html.escape(section.paper)}</p>')
        parts += [f'<p><img src="{name}" alt="{title}"></p>' for name in section.figures]
        for name, table in section.tables.items():
            is_shown = len(table.rows) <= 12 and not section.figures
            content = _write_table(table) if is_shown else ""
            parts.append(f'<p><a href="{name}.csv">{name}.csv</a></p>{content}')
    parts.append(
        '<p><a href="answers.h5">answers.h5</a>: scores of each question, and, of a network with '
        "FiLM layers, γ and β</p>"
    )
    return "\n".join([*parts, "</body></html>\n"])


def _write_table(table: Table) -> str:
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in table.rows]
    lines = [("th", table.header), *(("td", row) for row in cells)]
    rows = ("".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in row) for tag, row in lines)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
