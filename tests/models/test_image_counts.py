"""A batch with several questions about an image trains like a batch that repeats the image.

The original code computes everything once for each question. Here, an image's part is computed once.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from filmvqa.models import MODELS, register_model, targets_of
from filmvqa.models.conditioning import CONDITIONINGS
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.models.vision import for_each_question
from filmvqa.tasks.protocol import task_of
from filmvqa.training.state import compile_parts
from filmvqa.training.transfer import freeze_except, training_mode
from tests.models.small_models import SIZES, SMALL, questions, small

IMAGE_OF_QUESTION = torch.tensor([2, 0, 0, 1, 0, 2])
STEPS = 4
OWN = "own_norms"
NO_DROPOUT = {
    f"{part}_dropout": 0.0
    for part in ("embedding", "stem", "question", "memory", "read", "output")
}  # fmt: skip
WORDS = {"reads": True, "generator": {"word_attention": True}}
READS = WORDS | {
    "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [14]},
}
#: Every model, also with options that add a batch norm, attention or a cast.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, NO_DROPOUT if name == "mac" else {}) for name in MODELS if name != "qtype"),
    ("film", READS),
    ("film", {"stem": {"strides": [2, 1, [1, 2]]}}),
    ("film", {"stem": {"rows_as_channels": True, "strides": [[1, 2]]}}),
    ("film", {"film_blocks": [False, True], "block": {"norm_affine": True}}),
    *(("film", {"block": {"conditioning": name}}) for name in CONDITIONINGS),
    ("film_segmentation", WORDS | {"mask_size": [11, 9], "stem": {"strides": [2]}}),
    ("film_label_maps", WORDS | {"stem": {"strides": [1, 2]}}),
    ("cnn_lstm", {"num_res_blocks": 2, "res_block_dim": 8, "classifier_norm": "all"}),
    ("cnn_lstm", {"stem_strides": [2, 1], "pool": "none", "res_block_dim": 8}),
    ("cnn_lstm", {"stem_strides": [1], "num_res_blocks": 1, "res_block_dim": 8}),
    ("cnn_lstm_sa", {"classifier_norm": "all", "num_attentions": 3}),
    ("mac", NO_DROPOUT | {"stem_strides": [2, 1], "self_attention": True, "memory_gate": True}),
    (OWN, {}),
]  # fmt: skip
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


class OwnNorms(nn.Module):
    """A user's model, with torch's batch norms of maps, places and vectors of images."""

    def __init__(self, vocab_size: int, num_answers: int, feature_shape: list[int]) -> None:
        super().__init__()
        self.encoder = QuestionEncoder(vocab_size, hidden_dim=8)
        self.maps = nn.Sequential(nn.Conv2d(feature_shape[0], 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.places = nn.BatchNorm1d(5)
        self.vectors = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8))
        self.joined = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, num_answers))

    def forward(
        self, features: Tensor, questions: Tensor, image_of_question: Tensor | None = None
    ) -> Tensor:
        places = self.places(self.maps(features).flatten(2))  # (U, 5, N)
        vectors = for_each_question(self.vectors(places.amax(2)), image_of_question)  # (B, 8)
        out: Tensor = self.joined(torch.cat([vectors, self.encoder(questions)], 1))
        return out


@pytest.fixture(autouse=True)
def own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, OWN, {})
    monkeypatch.setitem(MODELS, OWN, OwnNorms)
    register_model(OWN)(type(OWN, (OwnNorms,), {}))


def network(name: str, options: dict[str, Any], trained: list[str] | None = None) -> nn.Module:
    """A small model in float64 and training mode, of which only the named parts train."""
    model = small(name, **options).double()
    freeze_except(model, trained)
    training_mode(model, "train")
    return model


def batch(several: bool, image_of_question: Tensor = IMAGE_OF_QUESTION) -> tuple[Any, ...]:
    """Six questions with their three images, or with an image for each question."""
    features = torch.randn(3, *SIZES["feature_shape"], dtype=torch.float64)
    rows = questions([4, 2, 5, 3, 4, 6])
    return (features, rows, image_of_question) if several else (features[image_of_question], rows)


def training(model: nn.Module, several: bool) -> dict[str, Tensor]:
    """Outputs, gradients, statistics and weights of several steps."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    values = {}
    for step in range(STEPS):
        output = model(*batch(several, IMAGE_OF_QUESTION.roll(step)))
        optimizer.zero_grad()
        (output * torch.linspace(-1, 1, output.numel()).double().view_as(output)).mean().backward()
        grads = {f"gradient of {k}": p.grad for k, p in model.named_parameters()}
        state = {k: v.clone() for k, v in model.state_dict().items()}
        optimizer.step()
        values |= {f"{k}, step {step}": v for k, v in ({"output": output} | grads | state).items()}
    return {k: v.detach().clone() for k, v in values.items() if v is not None}


@every_case
@pytest.mark.parametrize("trained", [None, ["encoder"]], ids=["all", "frozen"])
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_several_questions_of_an_image_are_the_image_several_times(
    name: str, options: dict[str, Any], trained: list[str] | None, fast: bool
) -> None:
    model = network(name, options, trained)
    if fast:
        accelerate(model)
    computed = training(model, several=True)
    expected = training(network(name, options, trained), several=False)
    assert computed.keys() == expected.keys()
    for label, value in expected.items():
        torch.testing.assert_close(computed[label], value, rtol=1e-10, atol=1e-10, msg=label)


def test_every_model_with_batch_norms_of_images_is_a_case() -> None:
    """A batch norm of images computes its statistics from three rows, one for each image."""
    counting = set()
    for name, options in CASES:
        model, rows = network(name, options), []
        for norm in filter(lambda m: isinstance(m, _BatchNorm), model.modules()):
            norm.register_forward_pre_hook(lambda _, inputs, rows=rows: rows.append(len(inputs[0])))
        model(*batch(several=True))
        assert set(rows) <= {3, 6}
        if 3 in rows:
            counting.add(name)
    assert counting == {"film", "film_segmentation", "film_label_maps", "cnn_lstm", OWN}


def test_a_pass_within_another_has_its_own_images() -> None:
    inner = network("film", {})

    def between(module: nn.Module, inputs: Any, output: Tensor) -> None:
        with torch.no_grad():
            inner(*batch(several=False))

    model, outputs = network("film", {}), []
    for hook in (lambda *_: None, between):
        model.encoder.register_forward_hook(hook)
        torch.manual_seed(1)
        outputs.append(model(*batch(several=True)))
    assert torch.equal(*outputs)


def test_compiled_parts_count() -> None:
    options = {"stem_strides": [1], "num_res_blocks": 1, "res_block_dim": 8}
    expected = training(network("cnn_lstm", options), several=False)
    model = network("cnn_lstm", options)
    compile_parts(model, backend="aot_eager")
    computed = training(model, several=True)
    for label, value in expected.items():
        torch.testing.assert_close(computed[label], value, rtol=1e-10, atol=1e-10, msg=label)


class InDoublePrecision(TorchFunctionMode):
    """Fail if anything is computed in single precision."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            assert not isinstance(tensor, Tensor) or tensor.dtype != torch.float32, func
        return out


@every_case
def test_double_precision_is_kept_to_the_loss(name: str, options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model, task = network(name, options), task_of(MODELS[name])
        features, rows, image_of_question = batch(several=True)
        with InDoublePrecision():
            output = model(features, rows, image_of_question)
            shape = (6, *output.shape[1 if targets_of(name) == "masks" else 2 :])
            loss = task.loss(output, torch.randint(2, shape))
            if options.get("reads"):
                loss = loss + model.film_generator.penalty(model.modulate(rows))
    finally:
        torch.set_default_dtype(torch.float32)
    assert loss.dtype == torch.float64
