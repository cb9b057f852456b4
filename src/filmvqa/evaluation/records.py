"""The lines of ``<split>_predictions.jsonl``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from filmvqa.errors import UserError
from filmvqa.files import read_bytes


class Prediction(msgspec.Struct):
    """The answer to a question, and the right one where the split has answers."""

    question_index: int
    answer: str
    image_index: int | None = None
    truth: str | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions that an evaluation has written, with their images.

    Raises
    ------
    UserError
        If the file is missing, or a line is no such record.
    """
    records = []
    for number, line in enumerate(read_bytes(path, "evaluate the run on it").splitlines(), 1):
        try:
            record = msgspec.json.decode(line, type=Prediction)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: line {number}: {error}; evaluate the run again") from None
        if record.image_index is None:
            raise UserError(f"{path}: line {number}: no image_index; evaluate the run again")
        records.append(record)
    return records
