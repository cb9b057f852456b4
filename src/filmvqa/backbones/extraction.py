"""Images to feature HDF5: decoding and writing in threads beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from filmvqa.backbones.backbone import Backbone, compute_maps
from filmvqa.backbones.settings import ExtractionSettings
from filmvqa.features.feature_file import FORMAT, recorded_precision
from filmvqa.features.feature_writer import check_made_alike, open_writer
from filmvqa.features.images import list_images
from filmvqa.features.prefetch import prefetch
from filmvqa.settings.typed import ImageSize, MissingImages, checked
from filmvqa.system import processes
from filmvqa.system.devices import use_bfloat16
from filmvqa.system.errors import warn
from filmvqa.system.files import refuse_overwriting, sync_folder
from filmvqa.system.hdf5 import names_sha256
from filmvqa.system.locks import file_lock
from filmvqa.system.memory import explained_out_of_memory

#: Batches that are decoded ahead, and that wait to be written.
DECODE_AHEAD, WRITE_BEHIND = 2, 2
#: The paper's maps have 14×14 places (section 4.1).
_PAPER_SIDE = 14


class Extraction:
    """The features of one split's images, inspected but not yet computed.

    ``path`` is the target, ``shape`` (N, C, H, W) that of the features, ``image_names`` has the
    names of the N images by index, ``bytes_to_write`` is what is still to be written, and
    ``was_there`` whether the target was complete from the start.

    Parameters
    ----------
    settings
        None: ``ExtractionSettings()``.
    missing_images
        As ``list_images`` takes it.

    Raises
    ------
    UserError
        For images that ``list_images`` refuses, a target with features made otherwise, and a
        number that is out of its range.
    """

    def __init__(
        self,
        images_folder: str | Path,
        target: str | Path,
        split: str,
        backbone: Backbone,
        image_size: tuple[int, int],
        settings: ExtractionSettings | None = None,
        *,
        device: torch.device | str = "cpu",
        missing_images: MissingImages = "refuse",
    ) -> None:
        self.path, self.split = Path(target), split
        self.settings = settings or ExtractionSettings()
        self.image_size = checked(image_size, ImageSize, "image_size")
        refuse_overwriting(self.path, images_folder)
        self._partial = self.path.with_name(self.path.name + ".partial")
        images = list_images(
            images_folder,
            missing_images=missing_images,
            max_images=self.settings.max_images,
            kind=backbone.file_kind,
        )
        self._image_paths = list(images.values())
        self.image_names = {index: path.name for index, path in images.items()}
        device = torch.device(device)
        precision: str = self.settings.precision
        if precision == "auto":
            recorded = recorded_precision(self.path) or recorded_precision(self._partial)
            precision = recorded or precision
        bfloat16 = use_bfloat16(device, precision)
        self._attributes: dict[str, Any] = {
            "format": FORMAT,
            "split": split,
            **backbone.spec(),
            "image_size": np.array(image_size, np.int64),
            "image_names_sha256": names_sha256(self.image_names.values()),
            "precision": "bfloat16" if bfloat16 else "float32",
        }
        self._backbone = backbone.prepared(device, bfloat16)
        blank = torch.zeros(1, backbone.input_channels, *image_size, dtype=torch.uint8)
        probe = compute_maps(self._backbone, blank)
        channels, height, width = probe.shape[1:]
        self.dtype = backbone.dtype
        self.shape = (len(self._image_paths), channels, height, width)
        self.was_there = processes.from_first(self.path.exists())
        if self.was_there:
            check_made_alike(self.path, self._attributes, self.shape)

    @property
    def bytes_to_write(self) -> int:
        """Bytes that are still to be written."""
        if self.path.exists():
            return 0
        total = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        written = self._partial.stat().st_blocks * 512 if self._partial.exists() else 0
        return max(0, total - written)

    def warn_of_large_maps(self) -> None:
        """Warn of maps with more than twice the places of the paper's 14×14, and name the image
        size that gives these: an image size that fits one network does not fit another. Twice,
        because 18×18 is what our own sets have on purpose. Pixels and recordings have no maps.
        """
        places = self.shape[2] * self.shape[3]
        if places <= 2 * _PAPER_SIDE**2 or isinstance(self._backbone.network, torch.nn.Identity):
            return
        height, width = (
            round(size * _PAPER_SIDE / side)
            for size, side in zip(self.image_size, self.shape[2:], strict=True)
        )
        blank = torch.zeros(1, self._backbone.input_channels, height, width, dtype=torch.uint8)
        maps = compute_maps(self._backbone, blank).shape
        size = ",".join(map(str, self.image_size))
        if processes.is_first():
            warn(
                f"data.image_size=[{size}]: {self._backbone.name} makes maps of "
                f"{self.shape[2]}×{self.shape[3]} of it, {places / _PAPER_SIDE**2:.1f} times the "
                f"places of the paper's 14×14, and training takes as many times longer; "
                f"data.image_size=[{height},{width}] gives {maps[2]}×{maps[3]}"
            )

    def run(self) -> Extraction:
        """Compute the features unless they are there; returns itself. Several processes share the
        batches, which the first of them writes.

        Work in progress lies in ``<target>.partial``, whose ``num_done`` counts the images that it
        holds, and from which a later run goes on; the target appears when it is complete.

        Raises
        ------
        UserError
            For a broken image, features that are not finite, or a full disk; finished rows are
            kept.
        """
        if self.was_there:
            return self
        # Where nothing can be written the lock would pass in silence.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path), explained_out_of_memory(self._out_of_memory_message):
            if processes.from_first(self.path.exists()):  # another program made it meanwhile
                return self
            if processes.is_first():
                self._extract()
            else:
                self._help_to_extract()
        return self

    def _out_of_memory_message(self) -> str:
        settings = self.settings
        return (
            f"{self.path}: out of memory while it was made; lower batch_size={settings.batch_size} "
            f"or threads={settings.threads} and run again: images that were done are kept"
        )

    def _extract(self) -> None:
        with open_writer(
            self._partial, self._attributes, self.shape, self.dtype, self.image_names
        ) as writer:
            bar = tqdm(
                total=self.shape[0],
                initial=writer.num_done,
                desc=f"{self.split} features",
                unit="image",
            )
            maps = self._all_maps(processes.from_first(writer.num_done))
            writes = prefetch(writer.write, maps, depth=WRITE_BEHIND, finish=True)
            with bar, closing(writes):
                for count in writes:
                    bar.update(count)
        self._partial.replace(self.path)
        sync_folder(self.path.parent)

    def _help_to_extract(self) -> None:
        """Send the first process the maps of this one's batches."""
        under_way: deque[tuple[Any, Tensor]] = deque()  # maps are kept until they were sent
        for maps in self._maps(self._own_paths(processes.from_first(None))):
            on_host = maps.cpu()
            under_way.append((processes.send_to_first(on_host), on_host))
            if len(under_way) > WRITE_BEHIND:
                under_way.popleft()[0].wait()
        for work, _ in under_way:
            work.wait()

    def _all_maps(self, num_done: int) -> Iterator[Tensor]:
        """Maps (n, C, H', W') of all batches of images after the first ``num_done``, of which each
        process in turn computes one."""
        with closing(self._maps(self._own_paths(num_done))) as own:
            for turn, first in enumerate(range(num_done, self.shape[0], self.settings.batch_size)):
                sender = turn % processes.count()
                if sender == 0:
                    yield next(own)
                    continue
                size = min(self.settings.batch_size, self.shape[0] - first)
                maps = torch.empty((size, *self.shape[1:]), dtype=getattr(torch, self.dtype))
                yield processes.receive(maps, sender)

    def _own_paths(self, num_done: int) -> list[Path]:
        """The images of this process' batches after the first ``num_done`` images."""
        starts = range(num_done, self.shape[0], self.settings.batch_size)
        own = starts[processes.rank() :: processes.count()]
        return [
            path
            for first in own
            for path in self._image_paths[first : first + self.settings.batch_size]
        ]

    def _maps(self, paths: Sequence[Path]) -> Generator[Tensor]:
        """Maps (n, C, H', W') of batches of images; a GPU may not have computed them yet."""
        load = partial(self._backbone.load, size=self.image_size)
        depth = DECODE_AHEAD * self.settings.batch_size
        with closing(prefetch(load, paths, threads=self.settings.threads, depth=depth)) as images:
            while batch := list(islice(images, self.settings.batch_size)):
                # Stacked as they were decoded, (H, W, 3) each: channels last at no cost.
                stacked = torch.from_numpy(np.stack([image.transpose(1, 2, 0) for image in batch]))
                yield compute_maps(self._backbone, stacked.permute(0, 3, 1, 2))
