"""Training the small shipped backbone to tell what stands where in generated images.

Labels come from the renderer: the object that fills most of a cell of the feature map gives the
cell's shape, size, material and colour and its place on the ground; the cell of an object's
centre is marked as such, so that neighbours of equal looks stay two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.clevr.render import render
from filmvqa.clevr.scenes import SceneRules, sample_layout
from filmvqa.clevr.schema import ATTRIBUTES
from filmvqa.data.backbones import Backbone, ClevrCNN
from filmvqa.files import write_file

STRIDE = 8
#: A cell belongs to an object that shows in at least this share of its pixels.
MIN_SHARE = 0.25
IGNORED = -1


@dataclass(frozen=True)
class LabelledImages:
    """N images with a label for each cell of their (h, w) feature map.

    ``images`` uint8 (N, 3, H, W); ``attributes`` int8 (N, 4, h, w) in the order of
    ``ATTRIBUTES``, ``IGNORED`` where no object is; ``centres`` uint8 (N, h, w);
    ``places`` float16 (N, 2, h, w), metres to the right and to the front, over 3.
    """

    images: NDArray[np.uint8]
    attributes: NDArray[np.int8]
    centres: NDArray[np.uint8]
    places: NDArray[np.float16]


def draw_labelled_images(
    count: int, size: int, seed: tuple[int, ...], rules: SceneRules
) -> LabelledImages:
    """Render ``count`` square images of ``size`` pixels with their labels."""
    rng = np.random.default_rng(seed)
    cells = size // STRIDE
    images = np.empty((count, 3, size, size), np.uint8)
    attributes = np.full((count, 4, cells, cells), IGNORED, np.int8)
    centres = np.zeros((count, cells, cells), np.uint8)
    places = np.zeros((count, 2, cells, cells), np.float16)
    done = 0
    while done < count:
        layout = sample_layout(rng, rules)
        rendered = render(layout, size, size, min_visible=rules.min_visible(size, size))
        if rendered is None:
            continue
        images[done] = rendered.image.transpose(2, 0, 1)
        directions = layout.camera.directions()
        blocks = rendered.mask.reshape(cells, STRIDE, cells, STRIDE)
        share = np.stack([(blocks == i).mean((1, 3)) for i in range(len(layout.half_extent))])
        owner = np.where(share.max(0) >= MIN_SHARE, share.argmax(0), IGNORED)
        for i, centre in enumerate(layout.centres()):
            mine = owner == i
            looks = (layout.size[i], layout.color[i], layout.material[i], layout.shape[i])
            for k, (values, look) in enumerate(zip(ATTRIBUTES.values(), looks, strict=True)):
                attributes[done, k][mine] = values.index(look)
            for k, axis in enumerate(("right", "front")):
                places[done, k][mine] = centre @ directions[axis] / 3.0
            x, y, _ = layout.camera.project(centre, cells, cells)
            centres[done, min(max(int(y), 0), cells - 1), min(max(int(x), 0), cells - 1)] = 1
        done += 1
    return LabelledImages(images, attributes, centres, places)


class CellHeads(nn.Module):
    """Linear read-outs of each cell: attributes, centre, place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in ATTRIBUTES.values()]
        self.linear = nn.Conv2d(channels, sum(self.sizes) + 3, 1)

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        out = self.linear(features).float()
        *attributes, centre, place = out.split([*self.sizes, 1, 2], dim=1)
        return attributes, centre[:, 0], place

    def loss(self, features: Tensor, attributes: Tensor, centres: Tensor, places: Tensor) -> Tensor:
        """Cross-entropies and an L1 on places, averaged over their cells; scalar."""
        logits, centre, place = self(features)
        owned = attributes[:, 0] != IGNORED  # (N, h, w)
        loss = 2.0 * F.binary_cross_entropy_with_logits(centre, centres)
        for k, logit in enumerate(logits):
            loss = loss + F.cross_entropy(logit, attributes[:, k], ignore_index=IGNORED)
        distance = (place - places).abs().sum(1)
        total: Tensor = loss + 2.0 * (distance * owned).sum() / owned.sum().clamp(min=1)
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
    """Train ``ClevrCNN`` on freshly drawn images and write its weights as float16 safetensors.

    Returns the share of held-out cells with the right value, per attribute and for the centre,
    and the mean error of places.
    """
    torch.manual_seed(seed)
    rules = rules or SceneRules()
    train = [_draw(images // len(sizes), size, seed, workers, rules) for size in sizes]
    held = [draw_labelled_images(512, size, (seed, 1, size), rules) for size in sizes]
    network = ClevrCNN()
    model = Backbone("clevr_cnn", network).to(memory_format=torch.channels_last)
    heads = CellHeads(network.channels)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-2)
    steps = epochs * sum(len(part.images) // batch_size for part in train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=steps, desc="pretrain", unit="batch")
    for _ in range(epochs):
        for batch in _shuffled(train, batch_size, generator):
            with torch.autocast("cpu", torch.bfloat16):
                features = model(batch[0].contiguous(memory_format=torch.channels_last))
                loss = heads.loss(features, *batch[1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            if bar.n % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    state = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    write_file(output, safetensors.torch.save(state))
    network.load_state_dict({k: v.float() for k, v in state.items()})
    return _score(model.eval(), heads.eval(), held)


def _draw(count: int, size: int, seed: int, workers: int, rules: SceneRules) -> LabelledImages:
    # The number of chunks is fixed, not the number of workers': the data depend on the seed alone.
    chunks = max(1, count // 500)
    counts = [count // chunks] * chunks
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(draw_labelled_images, n, size, (seed, 0, size, i), rules)
            for i, n in enumerate(counts)
        ]
        parts = [job.result() for job in tqdm(jobs, desc=f"draw {size}×{size}", unit="chunk")]
    fields = ("images", "attributes", "centres", "places")
    return LabelledImages(*(np.concatenate([getattr(p, f) for p in parts]) for f in fields))


def _tensors(part: LabelledImages, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
    return (
        torch.from_numpy(part.images[rows]),
        torch.from_numpy(part.attributes[rows]).long(),
        torch.from_numpy(part.centres[rows]).float(),
        torch.from_numpy(part.places[rows]).float(),
    )


def _shuffled(
    parts: list[LabelledImages], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    batches = []
    for part in parts:
        order = torch.randperm(len(part.images), generator=generator).numpy()
        whole = len(order) // batch_size * batch_size
        batches += [(part, rows) for rows in order[:whole].reshape(-1, batch_size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        yield _tensors(*batches[i])


@torch.inference_mode()
def _score(model: nn.Module, heads: CellHeads, held: list[LabelledImages]) -> dict[str, float]:
    right: dict[str, float] = {}
    for part in held:
        images, attributes, centres, places = _tensors(part, np.arange(len(part.images)))
        logits, centre, place = heads(model(images))
        owned = attributes[:, 0] != IGNORED
        share = 1.0 / len(held)
        for k, name in enumerate(ATTRIBUTES):
            hit = (logits[k].argmax(1) == attributes[:, k])[owned].float().mean()
            right[name] = right.get(name, 0.0) + share * float(hit)
        found = ((centre > 0) & (centres > 0.5)).sum() / centres.sum()
        right["centre_recall"] = right.get("centre_recall", 0.0) + share * float(found)
        exact = ((centre > 0) & (centres > 0.5)).sum() / (centre > 0).sum().clamp(min=1)
        right["centre_precision"] = right.get("centre_precision", 0.0) + share * float(exact)
        error = 3.0 * (place - places).square().sum(1).sqrt()[owned].mean()
        right["place_error"] = right.get("place_error", 0.0) + share * float(error)
    return {
        name: round(value, 4) if math.isfinite(value) else value for name, value in right.items()
    }
