"""The lines of ``<split>_predictions.jsonl``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes


class RunLengths(msgspec.Struct):
    """A mask as ``evaluation.masks.run_lengths`` writes it."""

    size: tuple[int, int]
    counts: list[int]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or sum(self.counts) != self.size[0] * self.size[1]:
            raise ValueError(f"the runs of a mask are not as long as its size {self.size}")


class Prediction(msgspec.Struct):
    """The answer to a question, and the right one where the split has answers; or the mask of an
    expression, and its intersection over union with the true one."""

    question_index: int
    answer: str = ""
    image_index: int | None = None
    truth: str | None = None
    mask: RunLengths | None = None
    iou: float | None = None

    def __post_init__(self) -> None:
        if not self.answer and self.mask is None:
            raise ValueError("`answer` is missing, and so is `mask`")


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
