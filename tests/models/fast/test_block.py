"""The fused block against the same block in torch's functions and double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from filmvqa.models.blocks import BlockOutput, FilmedResBlock
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.models.fast.fused_block import FusedBlock, _moments
from filmvqa.models.place_sets import PlaceSets
from filmvqa.models.protocols import Modulation
from tests.models.fast.accelerated import accelerated, threads
from tests.models.test_blocks import modulation

OPTIONS = {"coordinates": "none", "input_proj_kernel": 0, "kernel_size": 1}


def block(channels: int, context_dim: int = 0, sets: int = 0) -> FilmedResBlock:
    return accelerated(FilmedResBlock(channels, context_dim=context_dim, sets=sets, **OPTIONS))


def as_leaves(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    return [t.detach().to(dtype).requires_grad_() for t in tensors]


def run(module: FilmedResBlock, inputs: list[Tensor]) -> BlockOutput:
    x, context, weights, *parameters = inputs
    return module(x, Modulation(*parameters), context, True, weights)


def outputs_of(output: BlockOutput) -> list[Tensor]:
    return [part for part in output if part is not None]


@given(
    questions=st.integers(1, 9),
    size=st.tuples(st.integers(1, 5), st.integers(2, 5)),
    channels=st.integers(1, 20),
    sets=st.integers(0, 3),
    training=st.booleans(),
    num_threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_torchs_functions(
    questions: int,
    size: tuple[int, int],
    channels: int,
    sets: int,
    training: bool,
    num_threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    module = block(channels, 3, sets).train(training)
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2.0)
    exact = copy.deepcopy(module).double()
    x = torch.randn(questions, channels, *size)
    context = torch.randn(questions, 3)
    parameters = modulation(
        channels, batch=questions, key=channels + PlaceSets.key_dim(channels, sets)
    )
    inputs = (x, context, torch.rand(questions, *size), *parameters[:4])
    inputs32, inputs64 = as_leaves(inputs, torch.float32), as_leaves(inputs, torch.float64)
    with threads(num_threads):
        out, expected = outputs_of(run(module, inputs32)), outputs_of(run(exact, inputs64))
        weights = [torch.randn_like(t) for t in out]
        sum((t * w).sum() for t, w in zip(out, weights, strict=True)).backward()
    sum((t * w).sum() for t, w in zip(expected, weights, strict=True)).backward()
    assume(has_no_ties(copy.deepcopy(exact), inputs64))
    tolerance = 2e-5
    for actual, target in zip(out, expected, strict=True):
        assert_near(actual, target, tolerance)
    leaves = zip([*inputs32, *module.parameters()], [*inputs64, *exact.parameters()], strict=True)
    gradients = [(a.grad, b.grad) for a, b in leaves if b.grad is not None and b.numel()]
    scale = max(1.0, *(float(target.abs().max()) for _, target in gradients))
    for actual, target in gradients:
        assert (actual - target).abs().max() <= 20 * tolerance * scale
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert_near(getattr(module.norm, name), getattr(exact.norm, name), tolerance)


def assert_near(actual: Tensor, target: Tensor, tolerance: float) -> None:
    assert (actual - target).abs().max() <= tolerance * (1 + target.abs().max())


def has_no_ties(exact: FilmedResBlock, inputs: list[Tensor]) -> bool:
    """Whether rounding can neither change the sign of a value nor move a maximum."""
    with torch.no_grad():
        x, context, _, gamma, beta, *_ = inputs
        z = exact.norm(exact.conv(x) + exact.context(context)[:, :, None, None])
        branch = (gamma[:, :, None, None] * z + beta[:, :, None, None]).flatten(2)
        two = branch.topk(2, 2).values if branch.shape[2] > 1 else branch
        return bool(branch.abs().min() > 1e-4 and (two[..., 0] - two[..., -1]).min() > 1e-4)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_moments_of_values_far_from_zero(mean: float) -> None:
    torch.manual_seed(0)
    h, offset = mean + torch.randn(9, 25, 8), torch.randn(9, 8)
    moments = _moments(h, offset)
    exact = (h.double() + offset.double()[:, None]).flatten(0, 1)
    assert torch.allclose(moments[0].double(), exact.mean(0), rtol=1e-6, atol=1e-6)
    assert torch.allclose(moments[1].double(), exact.var(0, unbiased=False), rtol=1e-5)


def test_it_runs_only_in_supported_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernels = FusedBlock.apply
    monkeypatch.setattr(FusedBlock, "apply", lambda *a: calls.append(1) or kernels(*a))
    x, parameters = torch.randn(2, 4, 3, 3), modulation(4, key=4)
    fused = block(4)
    calls.clear()  # those of the comparison
    fused(x, parameters)
    assert calls == [1]
    fused(x, modulation(4))  # without a key
    with torch.autocast("cpu", torch.bfloat16):
        fused(x, parameters)
    fused.double()(x.double(), Modulation(*(p.double() for p in parameters[:4])))
    assert calls == [1]


@pytest.mark.parametrize(
    "option",
    [
        {"coordinates": "everywhere"}, {"input_proj_kernel": 1}, {"kernel_size": 3},
        {"norm": False}, {"norm_affine": True}, {"residual": False}, {"dropout": 0.1},
        {"film_position": "after_conv2"}, {"conditioning": "spatial_film"},
    ],
    ids=str,
)  # fmt: skip
def test_other_blocks_stay_as_they_are(option: dict) -> None:
    other = FilmedResBlock(4, **{**OPTIONS, **option})
    accelerate(other)
    assert type(other) is FilmedResBlock


def test_what_is_not_a_number_is_not_hidden() -> None:
    x, parameters = torch.randn(3, 4, 3, 3), modulation(4, batch=3, key=4)
    x[1, 2, 0, 0] = torch.nan
    out = block(4).eval()(x, parameters, None, True)
    assert out.x[1].isnan().any()
    assert out.read[1].isnan().any()
    assert out.branch[1].isnan().any()
    assert out.x[0].isfinite().all()


def test_one_value_per_channel_is_refused_as_by_batch_norm() -> None:
    x, parameters = torch.randn(1, 4, 1, 1), modulation(4, batch=1, key=4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(4).train()(x, parameters)
