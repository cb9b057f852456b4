"""What questions are to be answered with: the targets that a loss compares outputs with.

Each kind of targets is a class here. A model names the kind that it is trained on, and the loader
of its data makes them.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from filmvqa.data.questions import QuestionDataset
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.devices import to_device


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


Targets: TypeAlias = AnswerTargets
