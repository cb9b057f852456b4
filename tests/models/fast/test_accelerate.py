"""The code that is read is the code that runs, with and without ``accelerate``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import filmvqa.film
from filmvqa.film import film
from filmvqa.models import MODELS, build_model
from filmvqa.models.conditioning import Film
from filmvqa.models.fast.accelerate import FAST_FORMS, accelerate
from filmvqa.models.protocols import Modulation
from tests.models.small_models import SIZES, questions, small

#: A network like the demo's and the shipped one, with all modules that have a fast form.
READS = {
    "channels": 12, "num_blocks": 2, "reads": True,
    "encoder": {"embedding_dim": 8, "hidden_dim": 16}, "generator": {"word_attention": True},
    "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [14]},
}  # fmt: skip
COUNTS = {
    **READS, "sets": 2, "head_inputs": "all",
    "generator": {"word_attention": "parts", "decoder": "none"},
}  # fmt: skip
LIKE_SHIPPED = {"film_reads": READS, "film_counts": COUNTS}
NAMES = [*MODELS, *LIKE_SHIPPED]
FILM = ["film", *LIKE_SHIPPED, "film_segmentation", "film_label_maps"]
in_every_way = pytest.mark.parametrize(
    ("fast", "bfloat16"), [(False, False), (False, True), (True, False), (True, True)]
)


def network(name: str, *, fast: bool = False) -> nn.Module:
    """A small model, always with the same weights, in evaluation mode."""
    torch.manual_seed(0)
    options = LIKE_SHIPPED.get(name)
    model = small(name) if options is None else build_model("film", **SIZES, **options)
    if fast:
        accelerate(model)
    return model.eval()


def output_of(model: nn.Module, *, bfloat16: bool = False) -> Tensor:
    torch.manual_seed(1)
    features, rows = torch.randn(3, 6, 5, 5), questions([4, 7, 2, 5])
    features = features.to(next(iter(model.parameters()), features).dtype)
    image_of_question = torch.tensor([2, 0, 0, 1])
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        output: Tensor = model(features, rows, image_of_question)
    return output.detach()


def leaf_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Conditionings, and modules without children that have weights."""
    return [
        (name, part) for name, part in model.named_modules()
        if not list(part.children()) and (list(part.parameters()) or isinstance(part, Film))
    ]  # fmt: skip


@pytest.mark.parametrize("name", FILM)
@in_every_way
def test_an_edited_film_takes_effect(
    name: str, fast: bool, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is edited after the network is built, or before."""
    model = network(name, fast=fast)
    before = output_of(model, bfloat16=bfloat16)
    monkeypatch.setattr(filmvqa.film, "film", lambda x, gamma, beta: torch.full_like(x, 0.5))
    after = output_of(model, bfloat16=bfloat16)
    assert not torch.allclose(before, after, atol=1e-3)
    edited_before = output_of(network(name, fast=fast), bfloat16=bfloat16)
    assert torch.allclose(edited_before, after, atol=0.05 if bfloat16 else 1e-5)
    if not fast and not bfloat16:
        assert torch.allclose(output_of(network(name, fast=True)), after, atol=1e-5)


@pytest.mark.parametrize("name", FILM)
@in_every_way
def test_a_replaced_conditioning_takes_effect(name: str, fast: bool, bfloat16: bool) -> None:
    class Shifted(Film):
        def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
            return super().forward(x, modulation) + 3.0

    model = network(name, fast=fast)
    before = output_of(model, bfloat16=bfloat16)
    model.blocks[1].condition = Shifted(12)
    after = output_of(model, bfloat16=bfloat16)
    assert not torch.allclose(before, after, atol=1e-3)
    plain = network(name)
    plain.blocks[1].condition = Shifted(12)
    expected = output_of(plain, bfloat16=bfloat16)
    tolerance = 0.05 if bfloat16 else 1e-5
    assert (after - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
@in_every_way
def test_a_hook_on_any_part_is_called_and_takes_effect(
    name: str, fast: bool, bfloat16: bool
) -> None:
    model = network(name, fast=fast)
    before = output_of(model, bfloat16=bfloat16)
    for label, part in leaf_parts(model):
        calls: list[str] = []

        def shift(module: nn.Module, inputs: Any, output: Any, calls: list[str] = calls) -> Any:
            calls.append("")
            if isinstance(output, Tensor):
                return output + torch.linspace(1, 5, output.shape[1]).to(output).view(
                    1, -1, *(1,) * (output.dim() - 2)
                )
            return output

        handle = part.register_forward_hook(shift)
        after = output_of(model, bfloat16=bfloat16)
        handle.remove()
        assert len(calls) == 1 or not isinstance(part, Film), label
        assert calls, label
        if not isinstance(part, nn.RNNBase):
            assert not torch.equal(before, after), label
    assert torch.equal(output_of(model, bfloat16=bfloat16), before)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "qtype"])
def test_accelerated_is_plain_in_double_precision(name: str) -> None:
    plain, fast = network(name).double().train(), network(name, fast=True).double().train()
    results = []
    for model in (plain, fast):
        torch.manual_seed(1)  # dropout
        features, rows = torch.randn(3, 6, 5, 5).double(), questions([4, 7, 2, 5])
        output = model(features, rows, torch.tensor([2, 0, 0, 1]))
        weights = torch.linspace(-1, 1, output.numel()).double().view_as(output)
        (output * weights).sum().backward()
        results.append([output.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_accelerated_is_plain_in_single_precision(name: str) -> None:
    plain, fast = network(name), network(name, fast=True)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(output_of(fast), output_of(plain), atol=2e-5)


def test_every_form_replaces_what_it_knows_and_says_so() -> None:
    model = network("film_reads")
    acceleration = accelerate(model)
    assert not acceleration.left
    assert not accelerate(network("film_reads").requires_grad_(False)).left
    assert set(acceleration.replaced) == {
        name for name, part in network("film_reads").named_modules() if type(part) in FAST_FORMS
    }
    text = str(acceleration)
    assert text.startswith("accelerated: ")
    assert "2 blocks" in text
    assert "encoder" in text
    assert not accelerate(model).replaced  # everything is replaced already


def test_random_numbers_and_statistics_stay_as_they_are() -> None:
    model = network("film_reads").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    accelerate(model)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "edited",
    [
        lambda x, gamma, beta: film(x, gamma, beta + 0.1),
        lambda x, gamma, beta: film(x, gamma.detach(), beta),
        lambda x, gamma, beta: film(x, gamma.clamp(-1e4, 1e4), beta),
        functools.wraps(film)(lambda x, gamma, beta: film(x, gamma, beta + 0.1)),
        functools.partial(film),
    ],
    ids=["another value", "another gradient", "large values alone", "a wrapper", "no function"],
)
def test_a_block_that_computes_something_else_is_left(
    edited: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filmvqa.film, "film", edited)
    acceleration = accelerate(network("film_reads"))
    assert set(acceleration.left) == {"blocks.0", "blocks.1"}
    assert "; blocks.0, blocks.1 are left: filmvqa.film.film is edited" in str(acceleration)


@pytest.mark.parametrize("limit", [3.0, 30.0])
def test_an_edit_elsewhere_that_acts_on_large_values_alone_is_found(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in the layer, which is compared with its fast form."""
    monkeypatch.setattr(
        Film, "forward",
        lambda self, x, m: film(x, m.gamma.clamp(-limit, limit), m.beta),
    )  # fmt: skip
    acceleration = accelerate(network("film_counts"))
    assert "blocks.0, blocks.1 are left: its fast form computes" in str(acceleration)


def test_another_conditioning_has_no_fast_form_and_is_named() -> None:
    model = network("film_reads")
    model.blocks[0].condition = Mine(12)
    acceleration = accelerate(model)
    assert acceleration.left == {"blocks.0": "conditioning by Mine has no fast form"}


class Mine(Film):
    pass


def test_a_subclass_is_left_alone() -> None:
    model = network("film_reads")
    model.blocks[0].__class__ = type("MyBlock", (type(model.blocks[0]),), {})
    acceleration = accelerate(model)
    assert "blocks.0" not in acceleration.replaced
    assert "blocks.1" in acceleration.replaced
