"""The questions of a split as tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.clevr.programs import ANSWER_FUNCTIONS
from filmvqa.data.hdf5 import HDF5_ERRORS, arrays_sha256
from filmvqa.data.store import FeatureStore
from filmvqa.data.vocabulary import SPECIAL_TOKENS, START, Vocabulary
from filmvqa.errors import UserError, one_line

_MAKE_AGAIN = "delete it and run scripts/preprocess_questions.py again"
#: The datasets of a question file that are read.
QUESTION_DATASETS = (
    "questions", "image_idxs", "orig_idxs", "answers", "question_families", "types", "programs",
)  # fmt: skip


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a question dataset: their indices (M,), the rows of their questions, and the
    rows of all other questions."""

    images: Tensor
    rows: Tensor
    other_rows: Tensor


@dataclass
class QuestionDataset:
    """A question file in the host's memory: N questions.

    Attributes
    ----------
    questions : Tensor
        (N, T) token indices, padded with 0; ``lengths`` (N,) without the padding.
    images : Tensor
        (N,) index of the image that each question is about.
    original_index : Tensor
        (N,) ``question_index`` of the JSON.
    answers, types, families, program_lengths : Tensor or None
        (N,) answer index, index into ``ANSWER_FUNCTIONS``, question family, and number of steps;
        None where the file does not tell.
    image_names_sha256 : str or None
        Hash of the image names in index order.
    sha256 : str
        Hash of all arrays of the file.
    """

    path: Path
    questions: Tensor
    lengths: Tensor
    images: Tensor
    original_index: Tensor
    answers: Tensor | None
    types: Tensor | None
    families: Tensor | None
    program_lengths: Tensor | None
    image_names_sha256: str | None
    num_images: int
    sha256: str

    def __len__(self) -> int:
        return len(self.questions)

    @classmethod
    def load(cls, path: str | Path, vocabulary: Vocabulary) -> QuestionDataset:
        """Read a question HDF5 that this project, film or clevr-iep wrote.

        Raises
        ------
        UserError
            If it is missing, unreadable or damaged, or was encoded with another vocabulary.
        """
        path = Path(path)
        try:
            with h5py.File(path, "r") as file:
                arrays = {name: file[name][:] for name in file if name in QUESTION_DATASETS}
                attributes = dict(file.attrs)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; make it with scripts/preprocess_questions.py"
            ) from None
        except HDF5_ERRORS as error:
            raise UserError(f"{path}: not readable ({one_line(error)}); {_MAKE_AGAIN}") from None
        _check_arrays(path, arrays, attributes, vocabulary)
        questions = torch.from_numpy(arrays["questions"].astype(np.int32))
        count = len(questions)
        types = _answer_function_indices(arrays, attributes, vocabulary)
        num_steps = None
        if "programs" in arrays:
            num_steps = (arrays["programs"] >= len(SPECIAL_TOKENS)).sum(1)
        return cls(
            path=path,
            questions=questions,
            lengths=(questions != 0).sum(1),
            images=torch.from_numpy(arrays["image_idxs"].astype(np.int64)),
            original_index=torch.from_numpy(arrays.get("orig_idxs", np.arange(count))),
            answers=None if (a := _tensor(arrays.get("answers"))) is None else a.long(),
            types=_tensor(types),
            families=_tensor(arrays.get("question_families")),
            program_lengths=_tensor(num_steps),
            image_names_sha256=attributes.get("image_names_sha256"),
            num_images=int(arrays["image_idxs"].max(initial=-1)) + 1,
            sha256=arrays_sha256(arrays),
        )

    def select(self, rows: Tensor) -> QuestionDataset:
        """The questions of some rows (M,) alone."""
        selected: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **selected)

    def image_subset(self, fraction: float, seed: int) -> ImageSubset:
        """A fraction of the images, chosen by seed, with all of their questions.

        With one seed, smaller fractions are subsets of larger ones.

        Raises
        ------
        UserError
            For a fraction outside (0, 1], or one without an image.
        """
        if not 0 < fraction <= 1:
            raise UserError(f"data.fraction={fraction}; must be above 0 and at most 1")
        images: Tensor = self.images.unique()  # type: ignore[no-untyped-call]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        count = round(fraction * len(images))
        if count == 0:
            raise UserError(f"data.fraction={fraction} of {len(images)} images is none; raise it")
        chosen = images[order[:count]].sort().values
        is_chosen = torch.isin(self.images, chosen)
        return ImageSubset(
            chosen.int(), is_chosen.nonzero().flatten(), (~is_chosen).nonzero().flatten()
        )

    def check_features(self, store: FeatureStore, path: str | Path) -> None:
        """Raise ``UserError`` unless the features are those of this file's images."""
        if self.num_images > store.num_images:
            raise UserError(
                f"{self.path}: asks about {self.num_images} images, but {path} has features of "
                f"{store.num_images}; extract the features of the same split again"
            )
        same_count = self.num_images == store.num_images
        hashes = (self.image_names_sha256, store.image_names_sha256)
        if same_count and None not in hashes and hashes[0] != hashes[1]:
            raise UserError(
                f"{self.path}: its images are not those of {path} (other names); preprocess and "
                "extract the same split again"
            )


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _check_arrays(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
    vocabulary: Vocabulary,
) -> None:
    """Raise ``UserError`` for arrays that are not those of a question file, or are damaged."""
    _check_shapes(path, arrays)
    other_vocabulary = UserError(
        f"{path}: was encoded with another vocabulary than the one in use; preprocess the "
        "questions with that vocabulary (vocab=<vocab.json>)"
    )
    if attributes.get("vocab_sha256", vocabulary.sha256()) != vocabulary.sha256():
        raise other_vocabulary
    recorded = attributes.get("sha256")
    if recorded is not None and recorded != arrays_sha256(arrays):
        raise UserError(f"{path}: is damaged (other checksum); {_MAKE_AGAIN}")
    if int(arrays["questions"].max()) >= len(vocabulary.question):
        raise other_vocabulary
    if not (has_words := arrays["questions"].any(1)).all():
        raise UserError(f"{path}: question {int(has_words.argmin())} has no words; {_MAKE_AGAIN}")
    limits = {"answers": len(vocabulary.answer), "image_idxs": 2**31}
    if "type_names" in attributes:
        limits["types"] = len(attributes["type_names"])
    for name in ("questions", "programs", "image_idxs", "answers", "types"):
        if name not in arrays:
            continue
        values = arrays[name]
        outside = (values < 0) | (values >= limits.get(name, 2**31))
        if outside.any():
            row = int(outside.reshape(len(outside), -1).any(1).argmax())
            raise UserError(
                f"{path}: {name!r} of question {row} is out of range ({values[row]}); {_MAKE_AGAIN}"
            )


def _check_shapes(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    for name in ("questions", "image_idxs"):
        if name not in arrays:
            raise UserError(f"{path}: has no dataset {name!r}; {_MAKE_AGAIN}")
    shape = arrays["questions"].shape[:1]
    for name, values in arrays.items():
        is_row = name not in ("questions", "programs")
        if values.dtype.kind not in "iu" or (values.shape != shape if is_row else values.ndim != 2):
            raise UserError(
                f"{path}: {name!r} is {values.dtype} {values.shape}, which does not fit "
                f"{shape[0] if shape else 0} questions; {_MAKE_AGAIN}"
            )
    if not shape[0]:
        raise UserError(f"{path}: has no questions; {_MAKE_AGAIN}")


def _answer_function_indices(
    arrays: dict[str, NDArray[Any]], attributes: dict[str, Any], vocabulary: Vocabulary
) -> NDArray[np.int64] | None:
    """Indices (N,) into ``ANSWER_FUNCTIONS``, -1 for a function that it does not list."""
    index = {name: i for i, name in enumerate(ANSWER_FUNCTIONS)}
    if "type_names" in attributes and "types" in arrays:
        by_type = np.array([index.get(str(name), -1) for name in attributes["type_names"]])
        types: NDArray[np.int64] = by_type[arrays["types"]]
        return types
    if "programs" not in arrays:
        return None
    # film's type ids change from run to run: the first token of the prefix program does not.
    programs = arrays["programs"]
    has_start = programs[:, 0] == vocabulary.program[START]
    first = np.where(has_start, programs[:, min(1, programs.shape[1] - 1)], programs[:, 0])
    by_token = np.full(max(len(vocabulary.program), int(first.max(initial=0)) + 1), -1)
    for name, token in vocabulary.program.items():
        by_token[token] = index.get(name, -1)
    return by_token[first]
