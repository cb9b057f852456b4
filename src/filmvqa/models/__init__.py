"""Models that map tensors to logits. Nothing here reads or writes files.

Every constructor takes the vocabulary size, the number of answers and the shape (C, H, W) of an
image's features. Every model is called as ``model(features, questions, image_of_question=None)``
with features (U, C, H, W), questions (B, T) and image_of_question (B,). It returns logits
(B, num_answers).
"""

from __future__ import annotations

from filmvqa.models import baselines, film_net, film_segmentation, mac, question_type_mode
from filmvqa.models.registry import MODELS, build_model, check_model, register_model, targets_of

__all__ = [
    "MODELS", "baselines", "build_model", "check_model", "film_net", "film_segmentation", "mac",
    "question_type_mode", "register_model", "targets_of",
]  # fmt: skip
