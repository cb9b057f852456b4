"""Tables of text: for the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """Rows in columns as wide as their widest cell; the first ``labels`` columns are aligned to
    the left, the others, which hold numbers, to the right. A row of one cell spans the table."""
    columns = max(map(len, rows))
    widths = [
        max((len(row[i]) for row in rows if len(row) > 1 and i < len(row)), default=0)
        for i in range(columns)
    ]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < labels else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip() if len(row) > 1 else "".join(row))
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """The same in Markdown, with a head and a final line end."""
    marks = ["---"] * labels + ["---:"] * (len(head) - labels)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, marks, *rows))
