"""Tables as plain text, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def text_table(rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A table with columns as wide as their widest cell.

    The first ``labels`` columns are aligned to the left, the others, which hold numbers, to the
    right. A row of one cell spans the table.
    """
    num_columns = max(map(len, rows))
    widths = [
        max((len(row[i]) for row in rows if len(row) > 1 and i < len(row)), default=0)
        for i in range(num_columns)
    ]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < labels else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip() if len(row) > 1 else "".join(row))
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A table in Markdown with a header and a final newline, aligned as in ``text_table``."""
    alignments = ["---"] * labels + ["---:"] * (len(header) - labels)
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, alignments, *rows))


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Any]], digits: str = "") -> str:
    """A table as CSV with a header and Unix line endings.

    ``digits`` is the format of floating-point numbers, such as ``.6f``. None is an empty cell.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([format(v, digits) if isinstance(v, float) else v for v in row])
    return out.getvalue()


def format_number(value: float) -> str:
    """A number as in settings: 1e-4 and 1e-5, for which ``g`` writes 0.0001 and 1e-05."""
    if 0 < abs(value) <= 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"
