"""Read the rows of a user's table: CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes
from filmvqa.worlds.engine.schema import CORRECT, decode_json, not_utf8, plain_text, utf8_json

_DELIMITERS = ",;\t"
_LINES = {".jsonl", ".ndjson"}


class Row(NamedTuple):
    """A row of a table: its place in the file, and its values by column.

    Runs of spaces in values are single spaces; a missing value is an empty string.
    """

    place: str
    values: dict[str, str]


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read some columns of a table with at least one row.

    A ``.json`` file has a list of records, or an object with one such list. ``.jsonl`` and
    ``.ndjson`` files have one record per line. Any other file is CSV, separated by commas,
    semicolons or tabs; its first line names the columns.

    Raises
    ------
    UserError
        If the file cannot be read, lacks a column, or has a row of another shape.
    """
    content = utf8_json(read_bytes(path, "give source=<file>"), path)
    suffix = path.suffix.lower()
    if suffix == ".json" or suffix in _LINES:
        records = _lines(path, content) if suffix in _LINES else _list(path, content)
        rows = [Row(place, _texts(path, place, record, columns)) for place, record in records]
        for column in columns:
            if rows and not any(row.values[column] for row in rows):
                raise UserError(f"{path}: no record has the key {column!r}; name an existing key")
    else:
        rows = _read_csv(path, content, columns)
    if not rows:
        raise UserError(f"{path}: has no rows; {CORRECT}")
    return rows


def _list(path: Path, content: bytes) -> list[tuple[str, Any]]:
    decoded: Any = decode_json(content, Any, path, "export it again")
    values = decoded.values() if isinstance(decoded, dict) else [decoded]
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) != 1:
        raise UserError(
            f"{path}: is not a list of records, or an object with one such list; {CORRECT}"
        )
    return [(f"record {number}", record) for number, record in enumerate(lists[0])]


def _lines(path: Path, content: bytes) -> list[tuple[str, Any]]:
    lines = {f"line {n}": line for n, line in enumerate(content.splitlines(), 1) if line.strip()}
    return [
        (place, decode_json(line, Any, f"{path}: {place}", CORRECT))
        for place, line in lines.items()
    ]


def _texts(path: Path, place: str, record: Any, columns: Sequence[str]) -> dict[str, str]:
    if not isinstance(record, dict):
        raise UserError(f"{path}: {place}: is not an object with keys; {CORRECT}")
    texts = {}
    for column in columns:
        value = record.get(column)
        if isinstance(value, list | dict):
            raise UserError(f"{path}: {place}: {column!r} is neither text nor a number; {CORRECT}")
        texts[column] = " ".join((plain_text(value) or "").split())
    return texts


def _read_csv(path: Path, content: bytes, columns: Sequence[str]) -> list[Row]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    header, stream = text.partition("\n")[0], io.StringIO(text, newline="")
    rows, place = [], 1
    try:
        delimiter = max(_DELIMITERS, key=lambda d: len({*columns} & {*_split(header, d)}))
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        for column in columns:
            if names.count(column) != 1:
                raise UserError(
                    f"{path}: has {'no' if column not in names else 'several'} column {column!r} "
                    f"among {', '.join(names)}; name one of them"
                )
        place = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                raise UserError(
                    f"{path}: line {place}: has {len(cells)} columns, and the first line "
                    f"{len(names)}; {CORRECT}"
                )
            if cells:
                by_name = dict(zip(names, cells, strict=True))
                values = {column: " ".join(by_name[column].split()) for column in columns}
                rows.append(Row(f"line {place}", values))
            place = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {place}: {error}; {CORRECT}") from None
    return rows


def _split(header: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
