"""The objects that programs refer to: the targets of ``trainer.program_loss``.

The referents of a question are the objects that steps of its program output (such as ``unique``),
in the order of the program. Its sets are the sets of objects that are counted or tested for being
empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.system.devices import to_device
from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import HDF5_ERRORS, arrays_sha256, open_hdf5, unreadable
from filmvqa.system.hdf5_storage import read_array

FORMAT = "filmvqa-program-targets-1"
MAKE = "make it with scripts/preprocess_questions.py targets=true"
_DATASETS = ("referents", "sets", "image_idxs", "positions")


class NamedObjects(NamedTuple):
    """The objects that the programs of B questions refer to, in U images of at most O objects.

    Attributes
    ----------
    referents
        (B, R) numbers of the referents in their scene, in the order of the program; padded with -1.
    sets
        (B, S) the sets of objects, as bits; padded with -1.
    positions
        (U, O, 2) x and y of each object's centre, as fractions of the picture's width and height;
        padded with NaN.
    """

    referents: Tensor
    sets: Tensor
    positions: Tensor


class ProgramTargets:
    """The targets of a split's questions, in host memory.

    Raises
    ------
    UserError
        If the file is missing or damaged, or was made from other questions.
    """

    def __init__(self, path: Path, questions: QuestionDataset) -> None:
        try:
            with open_hdf5(path) as file:
                if file.attrs.get("format") != FORMAT:
                    raise UserError(
                        f"{path}: is not a file of program targets; move it away, and {MAKE}"
                    )
                if file.attrs["questions_sha256"] != questions.sha256:
                    raise UserError(f"{path}: was made from other questions; {MAKE}")
                arrays = {name: read_array(file[name]) for name in _DATASETS}
                self.sha256 = str(file.attrs["sha256"])
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {MAKE}") from None
        except HDF5_ERRORS as error:
            raise unreadable(path, error, MAKE) from None
        if arrays_sha256(arrays) != self.sha256:
            raise UserError(f"{path}: is damaged (other checksum); {MAKE}")
        self.referents, self.sets, self.images, self.positions = (
            torch.from_numpy(arrays[name]) for name in _DATASETS
        )
        self._row_in_file = questions.rows

    def read(self, rows: Tensor, images: Tensor, device: torch.device) -> NamedObjects:
        """Read the targets of questions (B,), given as rows, about images (U,) onto a device."""
        file_rows = self._row_in_file[rows]
        parts = (
            self.referents[file_rows].long(),
            self.sets[file_rows],
            self.positions[torch.searchsorted(self.images, images.int())],
        )
        return NamedObjects(*(to_device(part, device) for part in parts))
