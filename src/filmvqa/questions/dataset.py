"""The questions of a split as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from filmvqa.features.store import FeatureStore
from filmvqa.questions.vocabulary import SPECIAL_TOKENS, Vocabulary
from filmvqa.settings.typed import MissingImages
from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import HDF5_ERRORS, arrays_sha256, name_the_same, open_hdf5, unreadable
from filmvqa.system.hdf5_storage import read_array
from filmvqa.worlds.engine.programs import QUESTION_TYPES

_MAKE_AGAIN = "delete it and run scripts/preprocess_questions.py again"
#: The format of earlier versions, whose generated sets had other family numbers.
_FORMAT_2 = "filmvqa-questions-2"
_OTHER_FORMAT = "data/README.md describes the files that are read"
#: The datasets that are read: columns of questions, and columns of image names.
QUESTION_DATASETS = (
    "questions", "image_idxs", "orig_idxs", "answers", "question_families", "types", "programs",
    "objects", "groups",
)  # fmt: skip
NAME_DATASETS = ("named_image_idxs", "image_name_crc32")


def padded(encoded: Sequence[Sequence[int]]) -> Tensor:
    """Pad encoded questions with 0 to token indices (B, T) int64."""
    rows = [torch.tensor(tokens) for tokens in encoded]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a question dataset: their indices (M,), the rows of their questions, and all
    other rows."""

    images: Tensor
    rows: Tensor
    other_rows: Tensor


@dataclass(kw_only=True)
class QuestionGroups:
    """Properties by which N questions are grouped in reports.

    Attributes
    ----------
    types, families, program_lengths : Tensor or None
        (N,) index into ``type_names``, question family, and number of steps; None if the file does
        not have them. -1 is an unknown type or family.
    num_objects : Tensor or None
        (N,) number of objects in the image, from the scenes; None if unknown.
    groups : Tensor or None
        (N,) index into ``group_names``, the template files that questions name; -1 for none.
    question_types : dict
        The functions that end a program, by question type: CLEVR's, unless the file defines others.
    """

    types: Tensor | None
    families: Tensor | None
    program_lengths: Tensor | None
    num_objects: Tensor | None = None
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    question_types: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: QUESTION_TYPES)

    @property
    def type_names(self) -> tuple[str, ...]:
        """The functions that ``types`` index."""
        return tuple(name for names in self.question_types.values() for name in names)


@dataclass(kw_only=True)
class QuestionDataset(QuestionGroups):
    """A question file with N questions, in host memory.

    Attributes
    ----------
    questions : Tensor
        (N, T) token indices, padded with 0; ``lengths`` (N,) without the padding.
    images : Tensor
        (N,) index of the image that each question is about.
    original_index : Tensor
        (N,) ``question_index`` of the JSON.
    answers : Tensor or None
        (N,) answer index; None if the file has no answers.
    objects : Tensor or None
        (N,) int64 the objects that each expression refers to, as bits; None for questions.
    rows : Tensor
        (N,) row of each question in the file.
    image_names_sha256 : str or None
        Hash of the image names in index order.
    named_images, image_name_crc32 : ndarray or None
        (M,) sorted indices of the images, and CRC-32 of their names.
    sha256 : str
        Hash of all rows of the file.
    """

    path: Path
    questions: Tensor
    lengths: Tensor
    images: Tensor
    original_index: Tensor
    answers: Tensor | None
    objects: Tensor | None
    rows: Tensor
    image_names_sha256: str | None
    named_images: NDArray[Any] | None
    image_name_crc32: NDArray[Any] | None
    sha256: str

    def __len__(self) -> int:
        return len(self.questions)

    @classmethod
    def load(cls, path: str | Path, vocabulary: Vocabulary) -> QuestionDataset:
        """Read a question HDF5 file written by this project, film or clevr-iep.

        Raises
        ------
        UserError
            If the file is missing, unreadable or damaged, or encoded with another vocabulary.
        """
        path = Path(path)
        try:
            with open_hdf5(path) as file:
                names = (*QUESTION_DATASETS, *NAME_DATASETS)
                arrays = {name: read_array(file[name]) for name in file if name in names}
                attributes = dict(file.attrs)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; make it with scripts/preprocess_questions.py"
            ) from None
        except HDF5_ERRORS as error:
            raise unreadable(path, error, _MAKE_AGAIN) from None
        _check_arrays(path, arrays, attributes, vocabulary)
        named_images, image_name_crc32 = (arrays.pop(name, None) for name in NAME_DATASETS)
        questions = torch.from_numpy(arrays["questions"].astype(np.int32))
        count = len(questions)

        def column(name: str, dtype: Any = None) -> Tensor | None:
            if (values := arrays.get(name)) is None:
                return None
            return torch.from_numpy(values if dtype is None else values.astype(dtype))

        question_types = _question_types(path, attributes)
        types = _answer_function_indices(arrays, attributes, vocabulary, question_types)
        num_steps = None
        if "programs" in arrays:
            num_steps = torch.from_numpy((arrays["programs"] >= len(SPECIAL_TOKENS)).sum(1))
        return cls(
            path=path,
            questions=questions,
            lengths=(questions != 0).sum(1),
            images=torch.from_numpy(arrays["image_idxs"].astype(np.int64)),
            original_index=torch.from_numpy(arrays.get("orig_idxs", np.arange(count))),
            answers=column("answers", np.int64),
            types=None if types is None else torch.from_numpy(types),
            # In the earlier format, families of a generated set may have other numbers.
            families=None if attributes.get("format") == _FORMAT_2 else column("question_families"),
            groups=column("groups"),
            group_names=tuple(map(str, np.ravel(attributes.get("group_names", [])))),
            program_lengths=num_steps,
            objects=column("objects", np.int64),
            rows=torch.arange(count),
            image_names_sha256=attributes.get("image_names_sha256"),
            named_images=named_images,
            image_name_crc32=image_name_crc32,
            sha256=arrays_sha256(arrays),
            question_types=question_types,
        )

    def select(self, rows: Tensor) -> QuestionDataset:
        """Select the questions of some rows (M,)."""
        selected: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **selected)

    def image_subset(self, fraction: float, seed: int) -> ImageSubset:
        """Choose a fraction of the images by seed, with all of their questions.

        With the same seed, smaller fractions are subsets of larger ones.

        Raises
        ------
        UserError
            If the fraction is outside (0, 1], or contains no image.
        """
        if not 0 < fraction <= 1:
            raise UserError(f"data.fraction={fraction}; must be above 0 and at most 1")
        images: Tensor = self.images.unique()  # type: ignore[no-untyped-call]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        count = round(fraction * len(images))
        if count == 0:
            raise UserError(
                f"data.fraction={fraction} selects none of {len(images)} images; raise it"
            )
        chosen = images[order[:count]].sort().values
        is_chosen = torch.isin(self.images, chosen)
        return ImageSubset(
            chosen.int(), is_chosen.nonzero().flatten(), (~is_chosen).nonzero().flatten()
        )

    def of_families(self, families: Sequence[int] | None) -> QuestionDataset:
        """Select the questions of some families; None: all.

        Raises
        ------
        UserError
            If the file has no families, or no question of these families.
        """
        if families is None:
            return self
        if self.families is None:
            raise UserError(f"{self.path}: has no question_families to choose data.families from")
        chosen = torch.isin(self.families, torch.tensor(list(families)).to(self.families.dtype))
        if not chosen.any():
            raise UserError(
                f"{self.path}: has no questions of data.families={list(families)}; it has the "
                f"families {self.families.unique().tolist()}"  # type: ignore[no-untyped-call]
            )
        return self.select(chosen.nonzero().flatten())

    def with_features(
        self,
        store: FeatureStore,
        path: str | Path,
        missing_images: MissingImages = "refuse",
        option: str = "data.missing_images",
    ) -> QuestionDataset:
        """Select the questions whose images have features.

        Parameters
        ----------
        missing_images
            ``refuse`` questions about images without features, or ``leave_out`` these questions.
        option
            The name of this option, for the error message.

        Raises
        ------
        UserError
            If the features do not belong to the images of this file.
        """
        has_features = torch.isin(self.images, torch.from_numpy(store.image_idxs).long())
        count = len(self.images[has_features].unique())  # type: ignore[no-untyped-call]
        if not has_features.all() and (missing_images == "refuse" or not count):
            images = self.images.unique()  # type: ignore[no-untyped-call]
            first = int(has_features.int().argmin())
            leave_out = f", or leave the other questions out with {option}=leave_out"
            raise UserError(
                f"{self.path}: asks about {len(images):,} images, but {path} has features of "
                f"{count:,} of them (none of image {int(self.images[first])} of question "
                f"{int(self.rows[first])}); extract features of all{leave_out if count else ''}"
            )
        self._check_names(store, path)
        store.check_written(self.images[has_features].unique())  # type: ignore[no-untyped-call]
        return self if has_features.all() else self.select(has_features.nonzero().flatten())

    def _check_names(self, store: FeatureStore, path: str | Path) -> None:
        """Raise ``UserError`` if an index means another image in the feature file."""
        ours, theirs = self.image_name_crc32, store.image_name_crc32
        if self.named_images is not None and ours is not None and theirs is not None:
            _, here, there = np.intersect1d(
                self.named_images, store.image_idxs, assume_unique=True, return_indices=True
            )
            if not (other := ~name_the_same(ours[here], theirs[there])).any():
                return
            image = f"image {self.named_images[here[int(other.argmax())]]} has another name there"
        else:
            hashes = (self.image_names_sha256, store.image_names_sha256)
            same_count = int(self.images.max()) + 1 == store.num_images
            if not same_count or None in hashes or hashes[0] == hashes[1]:
                return
            image = "other names"
        raise UserError(
            f"{self.path}: its images are not those of {path} ({image}); preprocess and extract "
            "the same split again"
        )


def _check_arrays(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
    vocabulary: Vocabulary,
) -> None:
    """Raise ``UserError`` unless arrays form a valid, undamaged question file."""
    remedy = _MAKE_AGAIN if "format" in attributes else _OTHER_FORMAT
    for name in ("questions", "image_idxs"):
        if name not in arrays:
            raise UserError(f"{path}: has no dataset {name!r}; {remedy}")
    rows = arrays["questions"].shape[:1]
    images = arrays.get(NAME_DATASETS[0], np.empty(0)).shape
    for name, values in arrays.items():
        shape = images if name in NAME_DATASETS else rows
        ndim = 2 if name in ("questions", "programs") else 1
        if values.dtype.kind not in "iu" or values.ndim != ndim or values.shape[:1] != shape:
            raise UserError(
                f"{path}: {name!r} is {values.dtype} {values.shape}, which does not fit "
                f"{rows[0] if rows else 0} questions; {remedy}"
            )
    if not rows[0]:
        raise UserError(f"{path}: has no questions; {remedy}")
    other_vocabulary = UserError(
        f"{path}: was encoded with another vocabulary than the one in use; preprocess the "
        "questions with the one in use (vocab=<vocab.json>)"
    )
    if attributes.get("vocab_sha256", vocabulary.sha256()) != vocabulary.sha256():
        raise other_vocabulary
    checksum = attributes.get("sha256")
    if checksum is not None and checksum != arrays_sha256(arrays):
        raise UserError(f"{path}: is damaged (other checksum); {_MAKE_AGAIN}")
    if int(arrays["questions"].max()) >= len(vocabulary.question):
        raise other_vocabulary
    if not (has_words := arrays["questions"].any(1)).all():
        raise UserError(f"{path}: question {int(has_words.argmin())} has no words; {remedy}")
    limits = {"answers": len(vocabulary.answer), "image_idxs": 2**31, "objects": 2**63 - 1}
    for name, names in (("types", "type_names"), ("groups", "group_names")):
        if names in attributes:
            limits[name] = len(attributes[names])
    for name in ("questions", "programs", "image_idxs", "answers", "types", "objects", "groups"):
        if name not in arrays:
            continue
        values = arrays[name]
        lowest = -1 if name in ("types", "groups") else 0
        outside = (values < lowest) | (values >= limits.get(name, 2**31))
        if outside.any():
            row = int(outside.reshape(len(outside), -1).any(1).argmax())
            raise UserError(
                f"{path}: {name!r} of question {row} is out of range ({values[row]}); {remedy}"
            )


def _question_types(path: Path, attributes: dict[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """The functions that end a program, by question type.

    Files of another world than CLEVR's have them in the attribute ``question_types``: the question
    type of each of ``type_names``.
    """
    if "question_types" not in attributes:
        return QUESTION_TYPES
    of_functions = [str(t) for t in np.ravel(attributes["question_types"])]
    names = [str(name) for name in np.ravel(attributes.get("type_names", []))]
    if len(of_functions) != len(names):
        raise UserError(f"{path}: 'question_types' does not fit 'type_names'; {_MAKE_AGAIN}")
    by_type: dict[str, tuple[str, ...]] = {}
    for question_type, name in zip(of_functions, names, strict=True):
        if question_type:
            by_type[question_type] = (*by_type.get(question_type, ()), name)
    return by_type


def _answer_function_indices(
    arrays: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
    vocabulary: Vocabulary,
    question_types: Mapping[str, tuple[str, ...]],
) -> NDArray[np.int64] | None:
    """Indices (N,) into the functions of the question types; -1 for any other function."""
    functions = [name for names in question_types.values() for name in names]
    index = {name: i for i, name in enumerate(functions)}
    if "type_names" in attributes and "types" in arrays:
        # The last entry is for type -1.
        by_type = np.array([*(index.get(str(n), -1) for n in attributes["type_names"]), -1])
        types: NDArray[np.int64] = by_type[arrays["types"]]
        return types
    if "programs" not in arrays or not arrays["programs"].size:
        return None
    # film's type ids change from run to run, so find the function that answers. It is the first
    # step in prefix order. It is the last step in clevr-iep's chain and postfix orders (ns-vqa has
    # them too), which begin with ``scene``.
    programs = arrays["programs"]
    is_step = programs >= len(SPECIAL_TOKENS)
    first = is_step.argmax(1)
    last = programs.shape[1] - 1 - is_step[:, ::-1].argmax(1)
    by_token = np.full(len(vocabulary.program) + 1, -1)  # the last entry is for all other tokens
    for name, token in vocabulary.program.items():
        by_token[token] = index.get(name, -1)
    steps = np.arange(len(programs))
    begins_with_scene = programs[steps, first] == vocabulary.program.get("scene", -1)
    answering = programs[steps, np.where(begins_with_scene, last, first)]
    indices: NDArray[np.int64] = by_token[np.minimum(answering, len(by_token) - 1)]
    return indices
