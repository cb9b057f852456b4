from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm2d
from filmvqa.models.fast.batch_norm import FastBatchNorm2d

CHANNELS_LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format
ORDERS = [CHANNELS_LAST, CONTIGUOUS]
both_forms = pytest.mark.parametrize("norm_type", [BatchNorm2d, FastBatchNorm2d])


def relative_error(computed: Tensor | None, exact: Tensor) -> float:
    assert computed is not None
    return float((computed.double() - exact.double()).abs().max() / exact.double().abs().max())


def train_step(norm: nn.Module, x: Tensor, grad: Tensor, *args: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers of a norm after one training step."""
    x = x.detach().requires_grad_()
    out = norm(x, *args)
    out.backward(grad)
    grads = {f"grad of {name}": p.grad for name, p in norm.named_parameters()}
    return {"out": out.detach(), "grad of x": x.grad, **grads, **dict(norm.named_buffers())}


def pair(
    norm_type: type[BatchNorm2d], channels: int, **options: Any
) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Our batch norm and torch's, in float64, with the same random scale and shift."""
    ours = norm_type(channels, dtype=torch.float64, **options)
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    torchs = nn.BatchNorm2d(channels, dtype=torch.float64, **options)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def repeated_step(norm: nn.Module, x: Tensor, grad: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """``train_step`` with ``counts`` copies of each map.

    The output is that of the first copies, and the gradient of x the sum over copies.
    """
    first = counts.cumsum(0) - counts
    repeated = torch.zeros(int(counts.sum()), *grad.shape[1:], dtype=grad.dtype)
    repeated[first] = grad
    step = train_step(norm, x.repeat_interleave(counts, 0), repeated)
    map_of_copy = torch.arange(len(counts)).repeat_interleave(counts)
    grad_of_x = torch.zeros_like(x).index_add(0, map_of_copy, step["grad of x"])
    return step | {"out": step["out"][first], "grad of x": grad_of_x}


@both_forms
@settings(max_examples=80)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=9), counted=st.booleans(),
    channels=st.integers(1, 5), height=st.integers(1, 7), width=st.integers(2, 7),
    order=st.sampled_from(ORDERS), affine=st.booleans(),
    momentum=st.sampled_from([0.1, 1.0, None]), seed=st.integers(0, 99),
)  # fmt: skip
def test_training_equals_torchs_and_counts_equal_repeated_maps(
    norm_type: type[BatchNorm2d], counts: list[int], counted: bool, channels: int, height: int,
    width: int, order: torch.memory_format, affine: bool, momentum: float | None, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    ours, torchs = pair(norm_type, channels, affine=affine, momentum=momentum)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for _ in range(2):
        x = torch.randn(len(counts), channels, height, width, dtype=torch.float64) * 3 + 2
        grad = torch.randn_like(x)
        x, grad = x.contiguous(memory_format=order), grad.contiguous(memory_format=order)
        if counted:
            computed = train_step(ours, x, grad, torch.tensor(counts))
            expected = repeated_step(torchs, x, grad, torch.tensor(counts))
        else:
            computed, expected = train_step(ours, x, grad), train_step(torchs, x, grad)
        for name in expected:
            torch.testing.assert_close(
                computed[name], expected[name], rtol=1e-9, atol=1e-9, msg=f"{name} differs"
            )
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 128, 14, 14), (128, 64, 6, 6), (61, 96, 7, 7)])
@pytest.mark.parametrize("with_counts", [False, True])
def test_statistics_in_channels_last_order_are_exact(
    shape: tuple[int, ...], with_counts: bool
) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape) + 1).relu()
    counts = torch.arange(len(x)) % 3 + 1 if with_counts else torch.ones(len(x), dtype=torch.int64)
    norm = FastBatchNorm2d(shape[1], momentum=1.0)
    args = (counts,) if with_counts else ()
    norm(x.contiguous(memory_format=CHANNELS_LAST), *args)
    exact = x.double().repeat_interleave(counts, 0)
    # torch's errors are 4e-6 to 1e-5 in the mean and 3e-6 to 2e-5 in the variance.
    assert relative_error(norm.running_mean, exact.mean((0, 2, 3))) < 3e-7
    assert relative_error(norm.running_var, exact.var((0, 2, 3))) < 5e-7


@both_forms
@pytest.mark.parametrize("order", ORDERS)
def test_counts_in_bfloat16(norm_type: type[BatchNorm2d], order: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = (torch.randn(8, 6, 5, 5) + 1).bfloat16().contiguous(memory_format=order)
    grad, counts = torch.randn_like(x), torch.arange(8) % 3 + 1
    ours, exact = norm_type(6), BatchNorm2d(6, dtype=torch.float64)
    computed = train_step(ours, x, grad, counts)
    expected = train_step(exact, x.double(), grad.double(), counts)
    assert computed["out"].dtype == computed["grad of x"].dtype == torch.bfloat16
    for name in expected:
        limit = 1e-2 if name in ("out", "grad of x") else 1e-6
        assert relative_error(computed[name], expected[name]) < limit, name


def test_compiled_counts_equal_those_of_eager_mode() -> None:
    torch.manual_seed(0)
    norm, compiled = FastBatchNorm2d(3), FastBatchNorm2d(3)
    compiled.compile(backend="aot_eager")
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=CHANNELS_LAST)
    grad, counts = torch.randn_like(x), torch.tensor([1, 2, 5, 1])
    expected, computed = train_step(norm, x, grad, counts), train_step(compiled, x, grad, counts)
    for name in expected:
        torch.testing.assert_close(computed[name], expected[name], rtol=1e-5, atol=1e-5)


def test_one_value_per_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm2d(3)(torch.randn(1, 3, 1, 1))


def test_without_running_statistics() -> None:
    norm = BatchNorm2d(3, track_running_stats=False)
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=CHANNELS_LAST)
    for training in (True, False):
        out = norm.train(training)(x)
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
