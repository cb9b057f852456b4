from __future__ import annotations

from pathlib import Path

import pytest
import torch

from filmvqa.models import build_model
from filmvqa.models.baselines import StackedAttention
from filmvqa.models.question_type_mode import QuestionTypeMode
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.programs import ANSWER_FUNCTIONS


def test_qtype_answers_with_the_most_frequent_answer_of_the_type(tiny_set: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    train, val = (
        QuestionDataset.load(tiny_set / f"{split}_questions.h5", vocabulary)
        for split in ("train", "val")
    )
    model = QuestionTypeMode(len(vocabulary.question), len(vocabulary.answer), (1, 1, 1))
    model.fit(train.questions.long(), train.answers, train.types)
    # There are 600 questions of 90 families. With thousands, all types are correct; see the docstring.
    for questions, least in ((train, 0.99), (val, 0.9)):
        inferred = model.question_types(questions.questions.long())
        assert (inferred == questions.types).double().mean() > least
    logits = model(torch.zeros(len(val), 1, 1, 1), val.questions.long())
    for question_type in range(len(ANSWER_FUNCTIONS)):
        counts = torch.bincount(train.answers[train.types == question_type])
        is_type = model.question_types(val.questions.long()) == question_type
        chosen = logits[is_type].argmax(1)
        assert (counts[chosen] == counts.max()).all()


def test_stacked_attention_against_its_formula() -> None:
    torch.manual_seed(0)
    layer = StackedAttention(4, 6)
    image, query = torch.randn(2, 5, 4), torch.randn(2, 4)
    out = layer(image, query)
    for i in range(2):
        scores = torch.stack([
            layer.attend(torch.tanh(layer.image(image[i, n]) + layer.query(query[i])))[0]
            for n in range(5)
        ])  # fmt: skip
        attended = sum(p * image[i, n] for n, p in enumerate(scores.softmax(0)))
        assert torch.allclose(out[i], query[i] + attended, atol=1e-6)


def test_attention_begins_as_in_the_original_code() -> None:
    """Weights have Kaiming's normal distribution, and biases torch's default."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 9, "num_answers": 5, "feature_shape": [400, 3, 3], "hidden_dim": 300}
    default = build_model("cnn_lstm_sa", **sizes, attention_dim=300)
    original = build_model("cnn_lstm_sa", **sizes, attention_dim=300, kaiming_normal=True)
    for weight in (original.cnn.weight, original.attentions[0].image.weight,
                   original.attentions[0].query.weight, original.classifier[0].weight):  # fmt: skip
        values = weight.flatten(1)
        assert values.std().item() == pytest.approx((2 / values.shape[1]) ** 0.5, rel=0.02)
        kurtosis = (values / values.std()).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=0.1)  # a uniform distribution's is 1.8
    assert original.cnn.bias.abs().max() > 0
    assert default.cnn.weight.abs().max() <= 1 / 400**0.5


@pytest.mark.parametrize(
    "option", [{"classifier_norm": "both"}, {"pool": "avgpool2"}, {"pixel_range": "255"}]
)
def test_an_unknown_choice_is_refused(option: dict) -> None:
    with pytest.raises(UserError, match=rf"model\.{next(iter(option))}=.*: must be one of"):
        build_model("cnn_lstm", vocab_size=9, num_answers=5, feature_shape=[4, 6, 6], **option)
