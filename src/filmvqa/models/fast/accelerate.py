"""``accelerate`` replaces modules of a model by faster equivalents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm2d
from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.conditioning import Film
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.fast.batch_norm import FastBatchNorm2d
from filmvqa.models.fast.block import FastFilmedResBlock, is_fusible
from filmvqa.models.fast.encoder import FastQuestionEncoder
from filmvqa.models.fast.replacement import is_film_edited, remember_parts
from filmvqa.models.fast.word_attention import FastWordAttention
from filmvqa.models.place_sets import PlaceSets
from filmvqa.models.protocols import Modulation
from filmvqa.models.word_attention import WordAttention
from filmvqa.system.errors import one_line

#: Largest difference of outputs and gradients, relative to the largest value. Rounding in float32
#: causes differences of 1e-5, and other formulas rarely cause differences below 1e-2.
TOLERANCE = 2e-3
#: Standard deviations of the features, γ and β that are compared: an edit may act on large values
#: alone.
SCALES = (1.0, 10.0, 100.0)


@dataclass
class Acceleration:
    """Result of ``accelerate``.

    Attributes
    ----------
    replaced
        Kind of each replaced module, by the module's name.
    left
        Reason why a module with a fast form was not replaced, by the module's name.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = Counter(self.replaced.values())
        parts = [f"{n} {name}" if n > 1 else name for name, n in counts.items()]
        text = "accelerated: " + (", ".join(parts) or "nothing")
        for reason in dict.fromkeys(self.left.values()):
            names = [name for name, why in self.left.items() if why == reason]
            text += f"; {', '.join(names)} {'is' if len(names) == 1 else 'are'} left: {reason}"
        return text


#: Fast forms by the exact type of a module: subclasses that add nothing to its state.
FAST_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    QuestionEncoder: FastQuestionEncoder,
    BatchNorm2d: FastBatchNorm2d,
    FilmedResBlock: FastFilmedResBlock,
    WordAttention: FastWordAttention,
}


def _block_inputs(
    block: FilmedResBlock, normal: Callable[..., Tensor], scale: float
) -> Sequence[Any]:
    channels = block.conv.in_channels
    sets = 0 if block.sets is None else PlaceSets.key_dim(channels, block.sets.sets)
    gamma, beta, key = normal(3, channels), normal(3, channels), normal(3, channels + sets)
    # With small keys, the scores of large features can be compared too: rounding grows with them.
    modulation = Modulation(1 + scale * gamma, scale * beta, normal(3, 0), key / scale**2)
    context = None if block.context is None else normal(3, block.context.in_features)
    return scale * normal(3, channels, 4, 4), modulation, context, True, normal(3, 4, 4)


def _encoder_inputs(
    encoder: QuestionEncoder, normal: Callable[..., Tensor], _: float
) -> Sequence[Any]:
    words = normal(3, 5).abs().mul(1e4).long().cpu() % encoder.embedding.num_embeddings
    words[:, 0] = words[0, 0]  # questions that begin alike
    words[1, 3:] = 0  # padding
    return (words,)


def _word_attention_inputs(
    attention: WordAttention, normal: Callable[..., Tensor], _: float
) -> Sequence[Any]:
    width = attention.decoders[0].in_features
    words = normal(3, 4, width)
    padding = torch.arange(4, device=words.device).expand(3, 4) >= 3
    return normal(3, width), words, padding


#: By a module's type: random inputs of one scale for comparing it with its fast form, its kind in
#: messages, and the scales that are compared.
_COMPARISONS: dict[type[nn.Module], tuple[Callable[..., Sequence[Any]], str, tuple[float, ...]]] = {
    QuestionEncoder: (_encoder_inputs, "encoder", (1.0,)),
    BatchNorm2d: (
        lambda norm, normal, scale: (
            scale * normal(3, norm.num_features, 4, 4),
            torch.tensor([1, 3, 2]),
        ),
        "batch norms",
        SCALES,
    ),
    FilmedResBlock: (_block_inputs, "blocks", SCALES),
    WordAttention: (_word_attention_inputs, "word attention", (1.0,)),
}


def accelerate(model: nn.Module) -> Acceleration:
    """Replace the modules of a model that have a fast form, in place.

    A module is replaced if its type is exactly the plain one (a subclass may compute something
    else), the fast form supports its options, and both give the same outputs and gradients for
    small random inputs. If ``filmvqa.film.film`` is edited in any way, blocks are not replaced: the
    model is slower but correct. A replaced module is still an instance of its class, with the same
    parameters, names and hooks. It runs the plain code while a part of it has a hook or has been
    replaced since the comparison, in a precision that its kernels do not support, and under
    ``torch.compile``.

    Random generators, statistics and training modes do not change.

    Returns
    -------
    Acceleration
        The replaced modules, and the others with reasons.
    """
    acceleration = Acceleration()
    for name, module in model.named_modules():
        plain = type(module)
        if plain not in FAST_FORMS or not _is_replaceable(module):
            continue
        if (difference := _find_difference(module)) is None:
            acceleration.replaced[name] = _COMPARISONS[plain][1]
            module.__class__ = FAST_FORMS[plain]
        else:
            acceleration.left[name] = difference
    for name in acceleration.replaced:
        remember_parts(model.get_submodule(name))
    return acceleration


def _tensor_of(module: nn.Module) -> Tensor:
    """A tensor with the module's device and dtype."""
    tensors = chain(module.parameters(), module.buffers())
    return next((t for t in tensors if t.is_floating_point()), torch.zeros(()))


def _is_replaceable(module: nn.Module) -> bool:
    """Whether the fast form supports the module's options and device."""
    device = _tensor_of(module).device.type
    runs_there = device == "cpu" or (device == "cuda" and isinstance(module, QuestionEncoder))
    return runs_there and (not isinstance(module, FilmedResBlock) or is_fusible(module))


def _find_difference(module: nn.Module) -> str | None:
    """Why a module must not be replaced; None if its fast form computes the same."""
    if isinstance(module, FilmedResBlock):
        if type(module.condition) is not Film:
            return f"conditioning by {type(module.condition).__name__} has no fast form"
        if is_film_edited():
            return "filmvqa.film.film is edited"
    try:
        agrees = all(_agrees(module, scale) for scale in _COMPARISONS[type(module)][2])
    except Exception as error:  # raised by code that the user has changed
        return f"it could not be compared ({one_line(error, 80)})"
    return None if agrees else "its fast form computes something else"


def _agrees(module: nn.Module, scale: float) -> bool:
    """Whether a module and its fast form compute the same: in training, with gradients, and in
    evaluation, for large inputs in evaluation alone."""
    plain, like = type(module), _tensor_of(module)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator).to(like)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x.requires_grad_()

    inputs = _COMPARISONS[plain][0](module, normal, scale)
    for training in (True, False) if scale == 1 else (False,):
        results = []
        for form in (plain, FAST_FORMS[plain]):
            with _unchanged(module):
                module.train(training)
                module.__class__ = form
                remember_parts(module)
                results.append(_outputs(module, inputs, with_gradients=training))
        # A gradient that is 0 up to rounding, such as a bias before batch norm has, has no scale.
        least = 0.01 * max((float(x.abs().max()) for x in results[0] if x.numel()), default=0.0)
        if not all(_are_close(a, b, least) for a, b in zip(*results, strict=True)):
            return False
    return True


def _outputs(module: nn.Module, inputs: Sequence[Any], *, with_gradients: bool) -> list[Tensor]:
    """A module's outputs, its statistics, and the gradients of a weighted sum of the outputs."""
    torch.manual_seed(0)  # dropout
    with torch.inference_mode(False), torch.set_grad_enabled(with_gradients):
        output = module(*inputs)
    outputs = [x for x in _tensors(output) if x.is_floating_point()]
    statistics = [buffer.clone() for buffer in module.buffers() if buffer.is_floating_point()]
    leaves = [x for x in (*_tensors(inputs), *module.parameters()) if x.requires_grad]
    if not with_gradients or not leaves:  # no leaves if the encoder is frozen
        return [*outputs, *statistics]
    weights = [torch.linspace(-1, 1, x.numel()).to(x).view_as(x) for x in outputs]
    gradients = torch.autograd.grad(
        outputs, leaves, weights, allow_unused=True, materialize_grads=True
    )
    return [x.detach() for x in (*outputs, *statistics, *gradients)]


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested sequences."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _are_close(plain: Tensor, fast: Tensor, least: float) -> bool:
    """Whether tensors differ by at most ``TOLERANCE`` times their largest value or ``least``."""
    if plain.shape != fast.shape or not plain.numel():
        return plain.shape == fast.shape
    scale = max(least, float(plain.abs().max()))
    return torch.allclose(plain, fast, rtol=0.0, atol=TOLERANCE * scale)


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Restore a module's class, modes and buffers, and torch's generators, after the block."""
    plain = type(module)
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [d] if (d := _tensor_of(module).device).type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast("cpu", enabled=False):
        try:
            yield
        finally:
            module.__class__ = plain
            for part, training in modes:
                part.training = training
            with torch.no_grad():
                for buffer, saved in buffers:
                    buffer.copy_(saved)
