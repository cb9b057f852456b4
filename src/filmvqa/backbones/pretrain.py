"""Pretraining of the shipped backbone ``clevr_cnn`` to recognize and locate the objects of
generated images.

The renderer gives a label for each cell of the feature map: the attributes and the position of the
object that covers most of the cell. The cell with an object's centre is labelled too, so that two
neighbouring objects with equal attributes can be told apart.

The images vary more than the generator's, so that the network also reads those of other cameras
and renderers: frames from the release's to the official generator's default, and in training other
light, colours, sharpness and noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.backbones.build import Backbone, ClevrCNN
from filmvqa.checkpoints.checkpoint import save_checkpoint
from filmvqa.system.devices import autocast
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import write_file
from filmvqa.worlds.clevr.camera import DEFAULT_FRAME_ASPECT, FRAME_ASPECT
from filmvqa.worlds.clevr.render import sample_and_render
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import Layout

#: Pixels per cell of the feature map, in each direction.
STRIDE = 8
#: The least share of a cell's pixels that an object must cover to label the cell.
MIN_SHARE = 0.25
#: The attribute label of cells without an object.
IGNORED = -1
#: Positions in labels are in units of this many world units, so that they are of order 1.
POSITION_SCALE = 3.0


@dataclass(frozen=True)
class LabelledImages:
    """N images with a label for each cell of their feature maps of h × w cells.

    Attributes
    ----------
    images
        uint8 (N, 3, H, W).
    attributes
        int8 (N, 4, h, w): indices of values, in the order of ``ATTRIBUTES``; ``IGNORED`` in cells
        without an object.
    centres
        uint8 (N, h, w): 1 in cells with the centre of an object, else 0.
    positions
        float16 (N, 2, h, w): the object's position to the right and to the front, in units of
        ``POSITION_SCALE`` world units; 0 in cells without an object.
    """

    images: NDArray[np.uint8]
    attributes: NDArray[np.int8]
    centres: NDArray[np.uint8]
    positions: NDArray[np.float16]

    @classmethod
    def empty(cls, count: int, size: int) -> LabelledImages:
        """Images that are to be drawn, labelled as images without objects."""
        cells = size // STRIDE
        return cls(
            images=np.empty((count, 3, size, size), np.uint8),
            attributes=np.full((count, len(ATTRIBUTES), cells, cells), IGNORED, np.int8),
            centres=np.zeros((count, cells, cells), np.uint8),
            positions=np.zeros((count, 2, cells, cells), np.float16),
        )

    def __len__(self) -> int:
        return len(self.images)


def draw_labelled_images(
    count: int, size: int, seed: tuple[int, ...], rules: SceneRules
) -> LabelledImages:
    """Render ``count`` square images of ``size`` pixels with their labels: half of them in the
    release's frame, the others in frames between it and the official generator's default."""
    rng = np.random.default_rng(seed)
    labelled = LabelledImages.empty(count, size)
    for index in range(count):
        frame_aspect = (
            rng.uniform(DEFAULT_FRAME_ASPECT, FRAME_ASPECT) if index % 2 else FRAME_ASPECT
        )
        layout, rendered = sample_and_render(rng, rules, size, size, frame_aspect=frame_aspect)
        labelled.images[index] = rendered.image.transpose(2, 0, 1)
        _label_cells(labelled, index, layout, rendered.mask)
    return labelled


def _label_cells(
    labelled: LabelledImages, index: int, layout: Layout, mask: NDArray[np.uint8]
) -> None:
    """Write the labels of the image ``index``; ``mask`` (H, W) has the object of each pixel."""
    cells = labelled.centres.shape[-1]
    directions = layout.camera.directions()
    blocks = mask.reshape(cells, STRIDE, cells, STRIDE)
    num_objects = len(layout.half_extent)
    share = np.stack([(blocks == i).mean((1, 3)) for i in range(num_objects)])  # (objects, h, w)
    object_of_cell = np.where(share.max(0) >= MIN_SHARE, share.argmax(0), IGNORED)
    for i, centre in enumerate(layout.centres()):
        object_cells = object_of_cell == i
        values = (layout.size[i], layout.color[i], layout.material[i], layout.shape[i])
        for k, (vocabulary, value) in enumerate(zip(ATTRIBUTES.values(), values, strict=True)):
            labelled.attributes[index, k][object_cells] = vocabulary.index(value)
        for k, axis in enumerate(("right", "front")):
            position = centre @ directions[axis] / POSITION_SCALE
            labelled.positions[index, k][object_cells] = position
        x, y, _ = layout.camera.project(centre, cells, cells)
        row, column = min(max(int(y), 0), cells - 1), min(max(int(x), 0), cells - 1)
        labelled.centres[index, row, column] = 1


class CellPredictor(nn.Module):
    """Linear predictions for each cell: attributes, object centre, position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in ATTRIBUTES.values()]
        self.linear = nn.Conv2d(channels, sum(self.sizes) + 3, 1)

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Attribute logits, a list of (N, values, h, w); centre logits (N, h, w); and positions
        (N, 2, h, w), for features (N, C, h, w)."""
        out = self.linear(features).float()
        *attributes, centre, position = out.split([*self.sizes, 1, 2], dim=1)
        return attributes, centre[:, 0], position

    def loss(
        self, features: Tensor, attributes: Tensor, centres: Tensor, positions: Tensor
    ) -> Tensor:
        """The sum of cross-entropies of attributes and centres and the L1 distance of positions,
        each averaged over the labelled cells; scalar."""
        attribute_logits, centre_logits, predicted_positions = self(features)
        has_object = attributes[:, 0] != IGNORED  # (N, h, w)
        loss = 2.0 * F.binary_cross_entropy_with_logits(centre_logits, centres)
        for k, logits in enumerate(attribute_logits):
            loss = loss + F.cross_entropy(logits, attributes[:, k], ignore_index=IGNORED)
        distance = (predicted_positions - positions).abs().sum(1)
        num_cells = has_object.sum().clamp(min=1)
        total: Tensor = loss + 2.0 * (distance * has_object).sum() / num_cells
        return total


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, 3, H, W) of 0 to 255 in another light, with other colours, sharpness and noise;
    each image in its own way. Float32, from 0 to 255. ``generator`` is of the images' device."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=images.device)

    def uniform(low: float, high: float) -> Tensor:
        share = torch.rand((n, 1, 1, 1), generator=generator, device=images.device)
        return low + (high - low) * share

    n = len(images)
    x = images.float()
    # Below 0 the factor sharpens.
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), uniform(-0.3, 0.9))
    x = torch.lerp(x.mean(1, keepdim=True), x, uniform(0.8, 1.25))  # saturation
    gain = torch.exp(0.08 * normal(n, 1, 1, 1) + 0.04 * normal(n, 3, 1, 1))
    x = gain * x + 4.0 * normal(n, 1, 1, 1) + uniform(0.0, 4.0) * normal(*x.shape)
    return x.clamp_(0.0, 255.0)


def pretrain(
    output: str | Path,
    *,
    images: int = 60000,
    sizes: tuple[int, ...] = (96, 112, 144),
    epochs: int = 36,
    batch_size: int = 256,
    lr: float = 5e-3,
    seed: int = 0,
    workers: int = 2,
    rules: SceneRules | None = None,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Train ``ClevrCNN`` on generated images and write its weights as float16 safetensors.

    After each epoch the state of training is written beside ``output``; a training that was stopped
    goes on from there.

    Parameters
    ----------
    images
        Number of training images of all ``sizes`` together.
    sizes
        Widths of the square images, in pixels.
    workers
        Number of processes that render images; the images do not depend on it.
    rules
        The rules of the scenes; None is ``SceneRules()``.
    device
        Where the network is trained; all images are held there. None: the CPU.

    Returns
    -------
    dict
        Scores on held-out images, which are not augmented: the accuracy of each attribute, the
        precision and recall of object centres, and the mean distance of positions in world units
        (``position_error``).

    Raises
    ------
    UserError
        For fewer images than make a batch of each size, and for the state of a training with other
        settings.
    """
    if images // len(sizes) < batch_size:
        raise UserError(
            f"images={images}: must be at least {batch_size * len(sizes)}, a batch of each size"
        )
    torch.manual_seed(seed)
    rules = rules or SceneRules()
    device = device or torch.device("cpu")
    network = ClevrCNN()
    model = Backbone("clevr_cnn", network).to(device).to(memory_format=torch.channels_last)
    predictor = CellPredictor(network.channels).to(device)
    num_steps = epochs * len(sizes) * (images // len(sizes) // batch_size)
    settings = {
        "images": images, "sizes": list(sizes), "epochs": epochs, "batch_size": batch_size,
        "lr": lr, "seed": seed, "rules": repr(rules), "device": device.type,
    }  # fmt: skip
    training = _Training(model, predictor, num_steps, lr, seed, device)
    state_path = Path(f"{output}.training")
    training.restore(state_path, settings)
    drawn = _draw_in_parallel(images // len(sizes), sizes, seed, workers, rules)
    train = [_to_tensors(labelled, device) for labelled in drawn]
    held_out = [
        _to_tensors(draw_labelled_images(512, size, (seed, 1, size), rules), device)
        for size in sizes
    ]
    with tqdm(total=num_steps, initial=training.step, desc="pretrain", unit="batch") as bar:
        for _ in range(training.epoch, epochs):
            training.train_epoch(train, batch_size, bar)
            training.save(state_path, settings)
    weights = {k: v.half().contiguous().cpu() for k, v in network.state_dict().items()}
    write_file(output, safetensors.torch.save(weights))
    state_path.unlink()
    # The scores are those of the weights as written.
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    return _score(model.eval(), predictor.eval(), held_out)


class _Training:
    """A training of ``pretrain`` with its state, which is saved between epochs."""

    def __init__(
        self,
        model: nn.Module,
        predictor: CellPredictor,
        num_steps: int,
        lr: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.predictor, self.device = model, predictor, device
        self.parameters = [*model.parameters(), *predictor.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=1e-2)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, lr, total_steps=num_steps
        )
        self.order_generator = torch.Generator().manual_seed(seed)
        self.image_generator = torch.Generator(device).manual_seed(seed)
        self.step = self.epoch = 0

    def train_epoch(self, train: list[LabelledTensors], batch_size: int, bar: Any) -> None:
        for images, *labels in _shuffled_batches(train, batch_size, self.order_generator):
            pixels = augmented(images, self.image_generator)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with autocast(self.device, "auto"):
                features = self.model(pixels)
                loss = self.predictor.loss(features, *labels)
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

    def _stateful(self) -> dict[str, Any]:
        names = ("model", "predictor", "optimizer", "schedule")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        content = {name: part.state_dict() for name, part in self._stateful().items()}
        generators = (self.order_generator, self.image_generator)
        content |= {"settings": settings, "generators": [g.get_state() for g in generators]}
        save_checkpoint(path, {**content, "step": self.step, "epoch": self.epoch})

    def restore(self, path: Path, settings: dict[str, Any]) -> None:
        """Go on from the state in the file ``path``, if there is one.

        Raises
        ------
        UserError
            If it is of other settings, or damaged.
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
                f"{path}: the state of a training that was stopped cannot be read "
                f"({one_line(error)}); delete it to begin anew"
            ) from None
        if not is_same:
            raise UserError(
                f"{path}: is of a training with other settings; delete it to begin anew, or give "
                f"its settings to go on: {content['settings']}"
            )
        for name, part in self._stateful().items():
            part.load_state_dict(content[name])
        for generator, state in zip(
            (self.order_generator, self.image_generator), content["generators"], strict=True
        ):
            generator.set_state(state)
        self.step, self.epoch = content["step"], content["epoch"]


def _draw_in_parallel(
    count: int, sizes: tuple[int, ...], seed: int, workers: int, rules: SceneRules
) -> list[LabelledImages]:
    """``count`` images of each size."""
    # The number of chunks does not depend on ``workers``, so the images depend on the seed alone.
    num_chunks = max(1, count // 250)
    counts = [count * (i + 1) // num_chunks - count * i // num_chunks for i in range(num_chunks)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [
            [
                pool.submit(draw_labelled_images, n, size, (seed, 0, size, i), rules)
                for i, n in enumerate(counts)
            ]
            for size in sizes
        ]
        drawn = []
        for size, of_size in zip(sizes, jobs, strict=True):
            progress = tqdm(of_size, desc=f"draw {size}×{size}", unit="chunk")
            chunks = [job.result() for job in progress]
            arrays = {
                field.name: np.concatenate([getattr(chunk, field.name) for chunk in chunks])
                for field in fields(LabelledImages)
            }
            drawn.append(LabelledImages(**arrays))
    return drawn


class LabelledTensors(NamedTuple):
    """``LabelledImages`` on a device."""

    images: Tensor
    attributes: Tensor
    centres: Tensor
    positions: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Images, attributes, centres and positions of some rows, in the dtypes of training."""
        images, attributes, centres, positions = (part[rows] for part in self)
        return images, attributes.long(), centres.float(), positions.float()


def _to_tensors(labelled: LabelledImages, device: torch.device) -> LabelledTensors:
    parts = (getattr(labelled, name) for name in LabelledTensors._fields)
    return LabelledTensors(*(torch.from_numpy(part).to(device) for part in parts))


def _shuffled_batches(
    train: list[LabelledTensors], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """One epoch of batches in random order; the images of a batch are of one size."""
    batches = []
    for labelled in train:
        order = torch.randperm(len(labelled.images), generator=generator)
        num_used = len(order) // batch_size * batch_size
        order = order[:num_used].to(labelled.images.device)
        batches += [(labelled, rows) for rows in order.view(-1, batch_size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        labelled, rows = batches[i]
        yield labelled.batch(rows)


@torch.inference_mode()
def _score(
    model: nn.Module, predictor: CellPredictor, held_out: list[LabelledTensors]
) -> dict[str, float]:
    """Scores as ``pretrain`` returns them, averaged over the sizes of images."""
    mean_scores: dict[str, float] = {}
    for labelled in held_out:
        for name, score in _score_size(model, predictor, labelled).items():
            mean_scores[name] = mean_scores.get(name, 0.0) + score / len(held_out)
    return {
        name: round(score, 4) if math.isfinite(score) else score
        for name, score in mean_scores.items()
    }


def _score_size(
    model: nn.Module, predictor: CellPredictor, labelled: LabelledTensors
) -> dict[str, float]:
    """Scores on images of one size."""
    every_row = torch.arange(len(labelled.images), device=labelled.images.device)
    images, attributes, centres, positions = labelled.batch(every_row)
    attribute_logits, centre_logits, predicted_positions = predictor(model(images))
    has_object = attributes[:, 0] != IGNORED  # (N, h, w)
    scores = {}
    for k, name in enumerate(ATTRIBUTES):
        is_correct = attribute_logits[k].argmax(1) == attributes[:, k]
        scores[name] = float(is_correct[has_object].float().mean())
    is_predicted, is_centre = centre_logits > 0, centres > 0.5
    num_true_positives = (is_predicted & is_centre).sum()
    scores["centre_recall"] = float(num_true_positives / centres.sum())
    scores["centre_precision"] = float(num_true_positives / is_predicted.sum().clamp(min=1))
    distance = POSITION_SCALE * (predicted_positions - positions).square().sum(1).sqrt()
    scores["position_error"] = float(distance[has_object].mean())
    return scores
