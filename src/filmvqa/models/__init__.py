"""Models, from tensors to logits. Nothing here reads or writes files.

Every constructor takes the vocabulary's size, the number of answers and the shape (C, H, W) of an
image's features. Every model is called as ``model(features, questions, image_of_question=None)``,
with features (U, C, H, W), questions (B, T) and image_of_question (B,), and returns logits
(B, num_answers).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from filmvqa.errors import OptionError, UserError
from filmvqa.models.baselines import (
    CnnLSTM,
    CnnLSTMStackedAttention,
    QuestionOnlyLSTM,
    QuestionTypeMode,
)
from filmvqa.models.film_net import FilmNet
from filmvqa.models.mac import MacNet
from filmvqa.models.options import check_options

MODELS: dict[str, type[nn.Module]] = {
    "film": FilmNet,
    "mac": MacNet,
    "cnn_lstm_sa": CnnLSTMStackedAttention,
    "cnn_lstm": CnnLSTM,
    "lstm": QuestionOnlyLSTM,
    "qtype": QuestionTypeMode,
}


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """Build the model that ``MODELS`` has under ``name``.

    Parameters
    ----------
    name
        A key of ``MODELS``.
    **kwargs
        Options of the model's constructor. They are checked against its signature.

    Raises
    ------
    UserError
        For a name that is not in ``MODELS``, an option that the model does not have, or a value
        that the option does not take.
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    try:
        check_options(MODELS[name], kwargs)
        return MODELS[name](**kwargs)
    except OptionError as error:
        raise UserError(f"model {name!r}: {error}") from None
