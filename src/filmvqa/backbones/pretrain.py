"""Pretraining of the shipped backbone ``clevr_cnn`` to recognize and locate the objects of
generated images.

Each cell of the feature map has labels (``labelled_images``). Augmentation varies light, colours,
sharpness and noise, so that the network generalises to other renderers.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from filmvqa.backbones.backbone import Backbone
from filmvqa.backbones.clevr_cnn import ClevrCNN, load_clevr_cnn
from filmvqa.backbones.labelled_images import IGNORED, LabelledImages, PretrainingExamples
from filmvqa.backbones.object_heads import HEADS, IS_OBJECT, ObjectHeads, find_objects
from filmvqa.backbones.settings import PretrainSettings
from filmvqa.system.devices import autocast, choose_device
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import write_file
from filmvqa.worlds.engine.worker_pool import worker_pool


def _loss(
    heads: ObjectHeads,
    num_values: Sequence[int],
    features: Tensor,
    attributes: Tensor,
    places: Tensor,
    offsets: Tensor,
) -> Tensor:
    """The sum of the cross-entropies of attributes and places and the L1 distance of offsets.

    The attributes have ``num_values`` values. The terms of attributes and offsets are averaged
    over the labelled cells, and that of places over the objects.
    """
    values, place_logits, predicted_offsets = heads(features)
    is_place = _chosen_places(place_logits.detach(), places)
    loss = F.binary_cross_entropy_with_logits(place_logits, is_place, reduction="sum")
    loss = 2.0 * loss / is_place.sum().clamp(min=1)
    for k, logits in enumerate(values.split(list(num_values), dim=1)):
        loss = loss + F.cross_entropy(logits, attributes[:, k].long(), ignore_index=IGNORED)
    has_object = attributes[:, 0] != IGNORED  # (N, h, w)
    distance = (predicted_offsets - offsets.float()).abs().sum(1)
    total: Tensor = loss + 2.0 * (distance * has_object).sum() / has_object.sum().clamp(min=1)
    return total


def _chosen_places(logits: Tensor, places: Tensor) -> Tensor:
    """1 in the place of each object, else 0; (N, h, w).

    Of the cells that may be an object's place, the one with the largest logit is. The network
    chooses, since the nearest cell is ambiguous if the object's centre is on the border of two
    (one-to-one assignment as in Sun et al., ICML 2021).
    """
    flat, numbers = logits.flatten(1), places.flatten(1).long()
    largest = torch.full((len(flat), 256), -torch.inf, device=flat.device, dtype=flat.dtype)
    largest = largest.scatter_reduce(1, numbers, flat, "amax").gather(1, numbers)
    return ((numbers > 0) & (flat == largest)).float().view_as(logits)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary the light, colours, contrast, sharpness and noise of each image (N, 3, H, W).

    Pixels are from 0 to 255; the result is float32. ``generator`` is on the images' device.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=images.device)

    def uniform(low: float, high: float) -> Tensor:
        share = torch.rand((n, 1, 1, 1), generator=generator, device=images.device)
        return low + (high - low) * share

    n = len(images)
    x = images.float()
    # Below 0 the factor sharpens.
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), uniform(-0.5, 0.9))
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, uniform(0.85, 1.2))  # contrast
    x = torch.lerp(x.mean(1, keepdim=True), x, uniform(0.8, 1.25))  # saturation
    gain = torch.exp(0.08 * normal(n, 1, 1, 1) + 0.04 * normal(n, 3, 1, 1))
    x = gain * x + 4.0 * normal(n, 1, 1, 1) + uniform(0.0, 4.0) * normal(*x.shape)
    return x.clamp_(0.0, 255.0)


def pretrain(settings: PretrainSettings, examples: PretrainingExamples) -> dict[str, float]:
    """Train ``ClevrCNN`` and its heads on generated images, and write their weights as float16
    safetensors.

    After each epoch the state of training is written beside the output. A later call resumes a
    stopped training from there.

    Parameters
    ----------
    examples
        The world's images.

    Returns
    -------
    dict
        Scores on held-out images without augmentation: the accuracy of each attribute, the mean
        error of offsets in cells (``offset_error``), and the share of images in which the number
        of objects is predicted correctly (``number``).

    Raises
    ------
    UserError
        If there are fewer images than a batch of each size, if the initial weights cannot be read,
        or if the state on disk is damaged or has other settings.
    """
    sizes, batch_size, seed = settings.sizes, settings.batch_size, settings.seed
    per_size = settings.images // len(sizes)
    if per_size < batch_size:
        raise UserError(
            f"images={settings.images}: must be at least {batch_size * len(sizes)}, a batch of "
            "each size"
        )
    torch.manual_seed(seed)
    device = choose_device(settings.device)
    network, heads = ClevrCNN(), None
    if settings.init is not None:
        network, heads, _ = load_clevr_cnn(Path(settings.init))
    model = Backbone("clevr_cnn", network).to(device).to(memory_format=torch.channels_last)
    num_values = list(examples.num_values.values())
    heads = (heads or ObjectHeads(network.channels, sum(num_values))).to(device)
    num_steps = settings.epochs * len(sizes) * (per_size // batch_size)
    record = {
        "images": settings.images, "sizes": list(sizes), "epochs": settings.epochs,
        "batch_size": batch_size, "lr": settings.lr, "seed": seed, "rules": examples.rules,
        "init": settings.init, "device": device.type,
    }  # fmt: skip
    training = _Training(model, heads, num_values, num_steps, settings, device)
    state_path = Path(f"{settings.output}.training")
    training.restore(state_path, record)
    images = _draw_in_parallel(per_size, sizes, seed, settings.workers, examples)
    train = [_to_tensors(labelled, device) for labelled in images]
    held_out = [_to_tensors(examples.draw(512, size, (seed, 1, size)), device) for size in sizes]
    with tqdm(total=num_steps, initial=training.step, desc="pretrain", unit="batch") as bar:
        for _ in range(training.epoch, settings.epochs):
            training.train_epoch(train, batch_size, bar)
            training.save(state_path, record)
    state = network.state_dict() | heads.state_dict(prefix=HEADS)
    weights = {k: v.half().contiguous().cpu() for k, v in state.items()}
    write_file(settings.output, safetensors.torch.save(weights))
    state_path.unlink()
    # The scores are those of the weights as written.
    network.load_state_dict({k: weights[k].float() for k in network.state_dict()})
    heads.load_state_dict({k: weights[HEADS + k].float() for k in heads.state_dict()})
    return _score(model.eval(), heads, examples.num_values, held_out)


class _Training:
    """The loop of ``pretrain`` and its state, which is saved after each epoch."""

    def __init__(
        self,
        model: nn.Module,
        heads: ObjectHeads,
        num_values: Sequence[int],
        num_steps: int,
        settings: PretrainSettings,
        device: torch.device,
    ) -> None:
        self.model, self.heads, self.device = model, heads, device
        self.num_values = num_values
        self.parameters = [*model.parameters(), *heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.lr, weight_decay=1e-2)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.lr, total_steps=num_steps
        )
        self.stateful: dict[str, Any] = {
            "model": model, "heads": heads, "optimizer": self.optimizer, "schedule": self.schedule,
        }  # fmt: skip
        #: Of the order of batches, and of the augmentation.
        self.generators = [torch.Generator(d).manual_seed(settings.seed) for d in ("cpu", device)]
        self.step = self.epoch = 0

    def train_epoch(self, train: list[TensorDataset], batch_size: int, bar: Any) -> None:
        order_generator, image_generator = self.generators
        for images, *labels in _shuffled_batches(train, batch_size, order_generator):
            pixels = augmented(images, image_generator)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with autocast(self.device, "auto"):
                features = self.model(pixels)
                loss = _loss(self.heads, self.num_values, features, *labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.step += 1
            bar.update()
            if self.step % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        self.epoch += 1

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        content = {name: part.state_dict() for name, part in self.stateful.items()}
        content |= {"settings": settings, "generators": [g.get_state() for g in self.generators]}
        stream = io.BytesIO()
        torch.save({**content, "step": self.step, "epoch": self.epoch}, stream)
        write_file(path, stream.getbuffer())

    def restore(self, path: Path, settings: dict[str, Any]) -> None:
        """Resume from the state in the file ``path``, if it exists.

        Raises
        ------
        UserError
            If the state is damaged or has other settings.
        """
        if not path.exists():
            return
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            is_same = content["settings"] == settings
        except OSError:
            raise
        except Exception as error:  # torch raises half a dozen types for a file it cannot read
            raise UserError(
                f"{path}: the state of a stopped training cannot be read ({one_line(error)}); "
                "delete it to start again"
            ) from None
        if not is_same:
            raise UserError(
                f"{path}: has the state of a training with other settings; delete it to start "
                f"again, or resume with its settings: {content['settings']}"
            )
        for name, part in self.stateful.items():
            part.load_state_dict(content[name])
        for generator, state in zip(self.generators, content["generators"], strict=True):
            generator.set_state(state)
        self.step, self.epoch = content["step"], content["epoch"]


def _draw_in_parallel(
    count: int, sizes: tuple[int, ...], seed: int, workers: int, examples: PretrainingExamples
) -> list[LabelledImages]:
    """Draw ``count`` images of each size."""
    # The number of chunks does not depend on ``workers``, so neither do the images.
    num_chunks = max(1, count // 250)
    counts = [count * (i + 1) // num_chunks - count * i // num_chunks for i in range(num_chunks)]
    with worker_pool(workers) as pool:
        jobs = [
            [pool.submit(examples.draw, n, size, (seed, 0, size, i)) for i, n in enumerate(counts)]
            for size in sizes
        ]
        by_size = []
        for size, of_size in zip(sizes, jobs, strict=True):
            progress = tqdm(of_size, desc=f"draw {size}×{size}", unit="chunk")
            chunks = [job.result() for job in progress]
            by_size.append(LabelledImages(*map(np.concatenate, zip(*chunks, strict=True))))
    return by_size


def _to_tensors(labelled: LabelledImages, device: torch.device) -> TensorDataset:
    return TensorDataset(*(torch.from_numpy(part).to(device) for part in labelled))


def _shuffled_batches(
    train: list[TensorDataset], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of an epoch in random order; the images of a batch have the same size."""
    batches = []
    for dataset in train:
        order = torch.randperm(len(dataset), generator=generator)
        num_used = len(order) // batch_size * batch_size
        order = order[:num_used].to(dataset.tensors[0].device)
        batches += [(dataset, rows) for rows in order.view(-1, batch_size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        dataset, rows = batches[i]
        yield dataset[rows]


@torch.inference_mode()
def _score(
    model: nn.Module,
    heads: ObjectHeads,
    num_values: Mapping[str, int],
    held_out: list[TensorDataset],
) -> dict[str, float]:
    """The scores of ``pretrain``, averaged over the image sizes."""
    scores: dict[str, float] = defaultdict(float)
    for dataset in held_out:
        images, attributes, places, offsets = dataset.tensors
        values, place_logits, predicted_offsets = heads(model(images))
        has_object = attributes[:, 0] != IGNORED  # (N, h, w)
        logits = values.split(list(num_values.values()), dim=1)
        for k, name in enumerate(num_values):
            is_correct = logits[k].argmax(1) == attributes[:, k]
            scores[name] += float(is_correct[has_object].float().mean()) / len(held_out)
        distance = (predicted_offsets - offsets.float()).square().sum(1).sqrt()
        scores["offset_error"] += float(distance[has_object].mean()) / len(held_out)
        num_objects = places.amax((1, 2))
        # One more than the largest number, so that it can be exceeded.
        count = int(num_objects.max()) + 1
        probabilities, _ = find_objects(place_logits, predicted_offsets, count)
        num_predicted = (probabilities > IS_OBJECT).sum(1)
        scores["number"] += float((num_predicted == num_objects).float().mean()) / len(held_out)
    return {name: round(score, 4) for name, score in scores.items()}
