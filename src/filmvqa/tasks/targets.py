"""What questions are to be answered with: the targets that a loss compares outputs with.

Each kind of targets is a class here. A model names the kind that it is trained on, and the loader
of its data makes them.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from filmvqa.features.store import open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.question_table import MAX_OBJECTS
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import to_device
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.label_targets import LabelMapTargets
from filmvqa.tasks.shown_objects import ShownObjects


class AnswerTargets:
    """Indices of answers in the vocabulary: targets (B,).

    Other kinds have the same methods, and targets (B, ...) of other shapes.

    Attributes
    ----------
    kind
        The name by which models ask for such targets.
    noun
        What messages call them.
    """

    kind: ClassVar[str] = "answers"
    noun: ClassVar[str] = "answers"

    def known(self, questions: QuestionDataset) -> bool:
        """Whether questions have such targets; those of a test split may be withheld."""
        return questions.answers is not None

    def read(
        self,
        questions: QuestionDataset,
        rows: Tensor,
        images: Tensor,
        image_of_question: Tensor,
        device: torch.device,
    ) -> Tensor | None:
        """Targets (B, ...) of the rows (B,) on the device, None if they are not known.

        ``images`` (U,) are the sorted indices of their images, into which ``image_of_question``
        (B,) points; both are on the host.
        """
        if questions.answers is None:
            return None
        return to_device(questions.answers[rows], device)

    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The options of a model that tell it the size of its output."""
        return {"num_answers": len(vocabulary.answer)}

    def inputs(self) -> dict[str, Any]:
        """What identifies the files that targets are made of beside the questions."""
        return {}

    def close(self) -> None:
        """Release these files."""


class MaskTargets(ShownObjects):
    """What the objects that a referring expression refers to cover: 0 or 1, uint8 (B, h, w)."""

    kind: ClassVar[str] = "masks"
    noun: ClassVar[str] = "referred objects"

    def known(self, questions: QuestionDataset) -> bool:
        return questions.objects is not None

    def read(
        self,
        questions: QuestionDataset,
        rows: Tensor,
        images: Tensor,
        image_of_question: Tensor,
        device: torch.device,
    ) -> Tensor | None:
        if questions.objects is None:
            return None
        referred = to_device(questions.objects[rows], device)[:, None, None]  # (B, 1, 1)
        shown = self.objects(images)  # (U, h, w)
        # The bit of the sign, which no set has, stands for no object.
        bit = shown.clamp(max=MAX_OBJECTS).long()[to_device(image_of_question, device)]
        return ((referred >> bit) & 1).to(torch.uint8)

    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return {"mask_size": list(self.store.shape[1:])}


Targets: TypeAlias = AnswerTargets | MaskTargets | LabelMapTargets


def open_targets(
    kind: str, layout: DatasetLayout, questions: QuestionDataset, split: str,
    device: torch.device, placement: str,
) -> Targets:  # fmt: skip
    """The targets of a kind for the questions of a split, held where ``placement`` says.

    Raises
    ------
    UserError
        If their file is missing, broken, or of other images than the questions.
    """
    if kind == AnswerTargets.kind:
        return AnswerTargets()
    path = layout.mask_h5(split)
    store = open_feature_store(path, device, placement)
    try:
        if store.shape[0] != 1:
            raise UserError(f"{path}: has {store.shape[0]} maps an image, not one; make it again")
        questions.with_features(store, path)
        if kind == LabelMapTargets.kind:
            return LabelMapTargets(store, path, layout.scene_json(split))
    except UserError:
        store.close()
        raise
    return MaskTargets(store, path)
