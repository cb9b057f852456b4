"""Pretraining of the shipped backbone ``clevr_cnn`` to recognize and locate the objects of
generated images.

The renderer gives a label for each cell of the feature map: the attributes and the position of the
object that covers most of the cell. The cell with an object's centre is labelled too, so that two
neighbouring objects with equal attributes can be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.clevr.render import sample_and_render
from filmvqa.clevr.scene_rules import SceneRules
from filmvqa.clevr.scenes import Layout
from filmvqa.clevr.schema import ATTRIBUTES
from filmvqa.data.backbones import Backbone, ClevrCNN
from filmvqa.devices import autocast
from filmvqa.errors import UserError
from filmvqa.files import write_file

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
    """Render ``count`` square images of ``size`` pixels with their labels."""
    rng = np.random.default_rng(seed)
    labelled = LabelledImages.empty(count, size)
    for index in range(count):
        layout, rendered = sample_and_render(rng, rules, size, size)
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


def pretrain(
    output: str | Path,
    *,
    images: int = 24000,
    sizes: tuple[int, ...] = (96, 112),
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 4e-3,
    seed: int = 0,
    workers: int = 2,
    rules: SceneRules | None = None,
) -> dict[str, float]:
    """Train ``ClevrCNN`` on generated images and write its weights as float16 safetensors.

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

    Returns
    -------
    dict
        Scores on held-out images: the accuracy of each attribute, the precision and recall of
        object centres, and the mean distance of positions in world units (``position_error``).

    Raises
    ------
    UserError
        For fewer images than make a batch of each size.
    """
    if images // len(sizes) < batch_size:
        raise UserError(
            f"images={images}: must be at least {batch_size * len(sizes)}, a batch of each size"
        )
    torch.manual_seed(seed)
    rules = rules or SceneRules()
    train = [_draw_in_parallel(images // len(sizes), size, seed, workers, rules) for size in sizes]
    held_out = [draw_labelled_images(512, size, (seed, 1, size), rules) for size in sizes]
    network = ClevrCNN()
    model = Backbone("clevr_cnn", network).to(memory_format=torch.channels_last)
    predictor = CellPredictor(network.channels)
    _train(model, predictor, train, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed)
    weights = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    write_file(output, safetensors.torch.save(weights))
    # The scores are those of the weights as written.
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    return _score(model.eval(), predictor.eval(), held_out)


def _train(
    model: nn.Module,
    predictor: CellPredictor,
    train: list[LabelledImages],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> None:
    parameters = [*model.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-2)
    num_steps = epochs * sum(len(labelled) // batch_size for labelled in train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=num_steps, desc="pretrain", unit="batch")
    for _ in range(epochs):
        for images, *labels in _shuffled_batches(train, batch_size, generator):
            with autocast(torch.device("cpu"), "auto"):
                features = model(images.contiguous(memory_format=torch.channels_last))
                loss = predictor.loss(features, *labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            if bar.n % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()


def _draw_in_parallel(
    count: int, size: int, seed: int, workers: int, rules: SceneRules
) -> LabelledImages:
    # The number of chunks does not depend on ``workers``, so the images depend on the seed alone.
    num_chunks = max(1, count // 500)
    counts = [count // num_chunks] * num_chunks
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(draw_labelled_images, n, size, (seed, 0, size, i), rules)
            for i, n in enumerate(counts)
        ]
        chunks = [job.result() for job in tqdm(jobs, desc=f"draw {size}×{size}", unit="chunk")]
    arrays = {
        field.name: np.concatenate([getattr(chunk, field.name) for chunk in chunks])
        for field in fields(LabelledImages)
    }
    return LabelledImages(**arrays)


def _to_tensors(labelled: LabelledImages, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """Images, attributes, centres and positions of some rows, in the dtypes of training."""
    return (
        torch.from_numpy(labelled.images[rows]),
        torch.from_numpy(labelled.attributes[rows]).long(),
        torch.from_numpy(labelled.centres[rows]).float(),
        torch.from_numpy(labelled.positions[rows]).float(),
    )


def _shuffled_batches(
    train: list[LabelledImages], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """One epoch of batches in random order; the images of a batch are of one size."""
    batches = []
    for labelled in train:
        order = torch.randperm(len(labelled), generator=generator).numpy()
        num_used = len(order) // batch_size * batch_size
        batches += [(labelled, rows) for rows in order[:num_used].reshape(-1, batch_size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        yield _to_tensors(*batches[i])


@torch.inference_mode()
def _score(
    model: nn.Module, predictor: CellPredictor, held_out: list[LabelledImages]
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
    model: nn.Module, predictor: CellPredictor, labelled: LabelledImages
) -> dict[str, float]:
    """Scores on images of one size."""
    images, attributes, centres, positions = _to_tensors(labelled, np.arange(len(labelled)))
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
