"""Extraction of images' features to HDF5; threads decode and write while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
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

#: Number of batches that are decoded ahead, and number of batches that wait to be written.
DECODE_AHEAD, WRITE_BEHIND = 2, 2
#: The paper's maps have 14×14 places (section 4.1).
_PAPER_SIDE = 14


class Extraction:
    """The extraction of the features of one split's images; ``run`` computes them.

    Attributes
    ----------
    path
        The feature file.
    shape
        Shape (N, C, H, W) of the features.
    image_names
        The names of the N images by index.
    was_there
        Whether the feature file existed, complete, from the start.

    Parameters
    ----------
    settings
        None selects ``ExtractionSettings()``.
    missing_images
        As for ``list_images``.

    Raises
    ------
    UserError
        If ``list_images`` refuses the images, the existing feature file was extracted with other
        settings, or a number is out of its range.
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
        """Number of bytes that remain to be written."""
        if self.path.exists():
            return 0
        total = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        written = self._partial.stat().st_blocks * 512 if self._partial.exists() else 0
        return max(0, total - written)

    def warn_of_large_maps(self) -> None:
        """Warn if maps have more than twice the places of the paper's 14×14.

        The warning names the image size that gives 14×14 maps, since it differs between networks.
        The limit is twice as many places because this package's sets have 18×18. Backbones without
        a network are exempt.
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
        """Compute the features unless the file exists, and return self.

        With several processes, each computes some of the batches and the first process writes
        them. The features are written to ``<path>.partial``, whose ``num_done`` is the number of
        finished images; a later run resumes from there. The file is renamed to ``path`` when it is
        complete.

        Raises
        ------
        UserError
            If an image is broken, features are not finite, or the disk is full; finished rows are
            kept.
        """
        if self.was_there:
            return self
        # In a read-only folder the lock would do nothing, so report that folder here.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path), explained_out_of_memory(self._out_of_memory_message):
            if processes.from_first(self.path.exists()):  # written by another program meanwhile
                return self
            if processes.is_first():
                self._extract()
            else:
                self._help_to_extract()
        return self

    def _out_of_memory_message(self) -> str:
        settings = self.settings
        return (
            f"{self.path}: out of memory during extraction; lower batch_size={settings.batch_size} "
            f"or threads={settings.threads} and run again; finished images are kept"
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
        """Send the maps of this process's batches to the first process."""
        under_way: deque[tuple[Any, Tensor]] = deque()  # keeps maps until they are sent
        for maps in self._own_maps(processes.from_first(None)):
            on_host = maps.cpu()
            under_way.append((processes.send_to_first(on_host), on_host))
            if len(under_way) > WRITE_BEHIND:
                under_way.popleft()[0].wait()
        for work, _ in under_way:
            work.wait()

    def _all_maps(self, num_done: int) -> Iterator[Tensor]:
        """Yield the maps (n, C, H', W') of all batches after the first ``num_done`` images; the
        processes compute the batches in turn."""
        with closing(self._own_maps(num_done)) as own:
            for turn, first in enumerate(range(num_done, self.shape[0], self.settings.batch_size)):
                sender = turn % processes.count()
                if sender == 0:
                    yield next(own)
                    continue
                size = min(self.settings.batch_size, self.shape[0] - first)
                maps = torch.empty((size, *self.shape[1:]), dtype=getattr(torch, self.dtype))
                yield processes.receive(maps, sender)

    def _own_maps(self, num_done: int) -> Generator[Tensor]:
        """Yield the maps (n, C, H', W') of this process's batches after the first ``num_done``
        images; a GPU may still be computing them."""
        size = self.settings.batch_size
        starts = range(num_done, self.shape[0], size)[processes.rank() :: processes.count()]
        paths = [path for first in starts for path in self._image_paths[first : first + size]]
        load, threads = partial(self._backbone.load, size=self.image_size), self.settings.threads
        decoded = prefetch(load, paths, threads=threads, depth=DECODE_AHEAD * size)
        with closing(decoded) as images:
            while batch := list(islice(images, size)):
                # Decoded images are (H, W, 3) in memory: stacked so, they are channels last.
                stacked = torch.from_numpy(np.stack([image.transpose(1, 2, 0) for image in batch]))
                yield compute_maps(self._backbone, stacked.permute(0, 3, 1, 2))
