"""The parts of the pipeline that are measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.benchmark.inputs import SPLIT, Inputs
from filmvqa.benchmark.measure import BenchmarkResult, drop_from_page_cache, rates, time_runs
from filmvqa.benchmark.operations import count_operations
from filmvqa.benchmark.reference import ReferenceModel, reference_extraction, reference_reading
from filmvqa.evaluation.batches import Batch, Loader
from filmvqa.evaluation.predictions import predict
from filmvqa.features.images import list_images
from filmvqa.features.rows import DatasetRows
from filmvqa.features.store import open_feature_store
from filmvqa.models import build_model
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.sampler import EpochSampler
from filmvqa.system.devices import autocast, use_bfloat16
from filmvqa.system.layout import DatasetLayout, RunLayout
from filmvqa.training.settings import OptimSettings, TrainerSettings
from filmvqa.training.state import build_state
from filmvqa.training.trainer import Trainer

#: Shapes (C, H, W) of ResNet-101's features, and of images.
RESNET_SHAPE = (1024, 14, 14)
IMAGE_SHAPE = (3, 224, 224)
#: Number of images per batch of reading and of reference extraction.
IMAGE_BATCH = 64
#: Number of questions per batch of evaluation.
EVALUATION_BATCH = 256


@dataclass
class Benchmark:
    """Measures the parts of the pipeline, one per method.

    Attributes
    ----------
    models
        Model configs by name.
    optim, trainer
        Settings of training.
    runs, reference_runs
        Number of runs of each part, and of each reference.
    questions
        Number of questions that are preprocessed.
    """

    inputs: Inputs
    device: torch.device
    models: dict[str, dict[str, Any]]
    optim: OptimSettings
    trainer: TrainerSettings
    runs: int
    reference_runs: int
    questions: int

    @property
    def arithmetic_ceiling(self) -> str:
        """The name of the ceiling of arithmetic in the precision of training."""
        is_bfloat16 = use_bfloat16(self.device, self.trainer.precision)
        return "matmul_bfloat16" if is_bfloat16 else "matmul_float32"

    def question_preprocessing(
        self, count: int | None = None, runs: int | None = None
    ) -> BenchmarkResult:
        """Conversion of question JSON to HDF5."""
        count = count or self.questions
        question_folder = self.inputs.question_folder(count)
        target = self.inputs.folder / "preprocessed"
        layout = DatasetLayout.under(self.inputs.folder, questions=question_folder, h5=target)

        def work() -> None:
            shutil.rmtree(target, ignore_errors=True)
            preprocess_questions(layout)

        seconds = time_runs(work, runs or self.runs, torch.device("cpu"))
        return BenchmarkResult("questions", rates(count, seconds))

    def feature_extraction(
        self, count: int | None = None, runs: int | None = None
    ) -> BenchmarkResult:
        """Extraction of ResNet-101's features from PNG files."""
        count = count or self.inputs.images
        image_folder, target = self._image_subset(count), self.inputs.folder / "extracted.h5"
        num_images = len(list_images(image_folder))
        backbone = build_backbone("resnet101", 3, self.inputs.resnet_weights())
        threads = os.cpu_count() or 2

        def work() -> None:
            target.unlink(missing_ok=True)
            Extraction(
                image_folder, target, SPLIT, backbone, IMAGE_SHAPE[1:],
                threads=threads, device=self.device, precision=self.trainer.precision,
            ).run()  # fmt: skip

        with count_operations() as counter, torch.inference_mode():
            backbone(torch.zeros((1, *IMAGE_SHAPE), dtype=torch.uint8))
        seconds = time_runs(work, runs or self.runs, self.device)
        return BenchmarkResult(
            "images", rates(num_images, seconds),
            flops=counter.get_total_flops(), ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def _image_subset(self, count: int) -> Path:
        """A folder with links to the first ``count`` images."""
        folder = self.inputs.folder / "image-subset"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in self._image_paths(count):
            os.link(path, folder / path.name)
        return folder

    def _image_paths(self, count: int) -> list[Path]:
        """The first ``count`` images."""
        folder = self.inputs.world.image_folder(SPLIT)
        return list(list_images(folder, max_images=count).values())

    def reference_extraction(self) -> list[float]:
        """Extraction by the reference, in images per second."""
        paths = self._image_paths(2 * IMAGE_BATCH)
        backbone = build_backbone("resnet101", 3, self.inputs.resnet_weights())
        target, size = self.inputs.folder / "reference.h5", IMAGE_SHAPE[1:]
        reference_extraction(paths[:2], target, backbone, size, 2)
        seconds = time_runs(
            lambda: reference_extraction(paths, target, backbone, size, IMAGE_BATCH),
            self.reference_runs, torch.device("cpu"), warm_up=0,
        )  # fmt: skip
        return rates(len(paths), seconds)

    def feature_store(self, store_name: str) -> BenchmarkResult:
        """Reading of batches of random images from a feature store, with ResNet-101's shape.

        A store that streams from the file reads from the disk, not from the page cache.
        """
        path = self.inputs.features(RESNET_SHAPE, "float16")
        store = open_feature_store(path, self.device, store_name)
        self._time_reading(store.read, 1)
        return BenchmarkResult(
            "images",
            self._time_reading(store.read, self.runs),
            bytes=np.prod(RESNET_SHAPE).item() * 2,
            ceiling="disk" if store_name == "stream" else "memory",
        )

    def reference_reading(self) -> list[float]:
        """Reading by the reference, in images per second."""
        with h5py.File(self.inputs.features(RESNET_SHAPE, "float16"), "r") as file:
            dataset = file["features"]
            return self._time_reading(
                lambda rows: reference_reading(dataset, rows.tolist()), self.reference_runs
            )

    def _time_reading(self, read: Callable[[Tensor], Tensor], runs: int) -> list[float]:
        """Images per second of ``read``, which takes the rows of a batch."""
        path = self.inputs.features(RESNET_SHAPE, "float16")
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(self.inputs.copies * self.inputs.images, generator=generator)
        shuffled_batches = torch.split(order[: 8 * IMAGE_BATCH], IMAGE_BATCH)
        batches = [rows.sort().values for rows in shuffled_batches]
        seconds = []
        for _ in range(runs):
            drop_from_page_cache(path)
            seconds += time_runs(lambda: [read(b) for b in batches], 1, self.device, warm_up=0)
        return rates(sum(map(len, batches)), seconds)

    def train_step(
        self,
        name: str,
        *,
        batch_size: int | None = None,
        store: str = "auto",
        questions_per_image: int | None = None,
    ) -> BenchmarkResult:
        """Training steps of the model ``name``, with features from a store."""
        settings = replace(
            self.trainer,
            batch_size=batch_size or self.trainer.batch_size,
            questions_per_image=questions_per_image or self.trainer.questions_per_image,
        )
        trainer, batches = self.training(name, settings, store)
        batch_size = settings.batch_size
        with count_operations() as counter:
            trainer.step(next(batches))
        seconds = time_runs(lambda: trainer.step(next(batches)), self.runs, self.device)
        return BenchmarkResult(
            "questions", rates(batch_size, seconds),
            flops=counter.get_total_flops() / batch_size, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def reference_step(self, name: str) -> list[float]:
        """Training steps of the reference model, in questions per second."""
        settings = replace(
            self.trainer, precision="float32", channels_last=False, questions_per_image=1,
            compile=False,
        )  # fmt: skip
        trainer, batches = self.training(name, settings, reference=True)
        # A few questions suffice to warm up: a step of a whole batch takes a minute on two cores.
        trainer.step(_first_questions(next(batches), 4))
        seconds = time_runs(
            lambda: trainer.step(next(batches)), self.reference_runs, self.device, warm_up=0
        )
        return rates(settings.batch_size, seconds)

    def training(
        self, name: str, settings: TrainerSettings, store: str = "auto", *,
        shape: tuple[int, int, int] | None = None, reference: bool = False,
    ) -> tuple[Trainer, Iterator[Batch]]:  # fmt: skip
        """A trainer of the model ``name`` and an endless series of batches, of features of
        ``shape`` (C, H, W); None: ResNet-101's, or pixels."""
        questions, dtype = self.inputs.questions, "float16"
        if shape is None:
            uses_pixels = name.endswith("pixels")
            shape, dtype = (IMAGE_SHAPE, "uint8") if uses_pixels else (RESNET_SHAPE, dtype)
        features = open_feature_store(self.inputs.features(shape, dtype), self.device, store)
        loader = Loader(
            questions, features, settings.batch_size, channels_last=settings.channels_last
        )
        torch.manual_seed(0)
        model = self._model(name, shape)
        rows = torch.arange(len(questions))
        sampler = EpochSampler(
            rows, settings.batch_size, 0, questions.images, settings.questions_per_image
        )
        optim = replace(self.optim, fused=self.optim.fused and not reference)
        network = (ReferenceModel(model) if reference else model).to(self.device)
        state = build_state(network, optim, settings, sampler)
        trainer = Trainer(state, settings, loader, loader, RunLayout(Path()), {}, [], rows)
        return trainer, loader.train_batches(sampler)

    def _model(self, name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
        """The model ``name``, for features of ``shape`` (C, H, W)."""
        options = {k: v for k, v in self.models[name].items() if k != "name"}
        vocabulary = self.inputs.vocabulary
        return build_model(
            self.models[name]["name"],
            feature_shape=shape,
            vocab_size=len(vocabulary.question),
            num_answers=len(vocabulary.answer),
            **options,
        )

    def evaluation(self) -> BenchmarkResult:
        """Prediction of answers by the paper's FiLM."""
        questions = self.inputs.questions
        features = open_feature_store(
            self.inputs.features(RESNET_SHAPE, "float16"), self.device, "auto"
        )
        loader = Loader(questions, features, EVALUATION_BATCH)
        model = self._model("film", RESNET_SHAPE).to(self.device).eval()
        rows = torch.arange(min(4 * EVALUATION_BATCH, len(questions)))
        precision = self.trainer.precision

        def work() -> None:
            predict(model, loader, rows, precision=precision, progress=False)

        batch = loader.batch(rows[:EVALUATION_BATCH])
        with (
            count_operations() as counter,
            torch.inference_mode(),
            autocast(self.device, precision),
        ):
            model(batch.features, batch.questions, batch.image_of_question)
        seconds = time_runs(work, self.runs, self.device)
        return BenchmarkResult(
            "questions", rates(len(rows), seconds),
            flops=counter.get_total_flops() / EVALUATION_BATCH, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def disk_rows(self) -> tuple[Path, DatasetRows]:
        """The feature file and its rows, for the ceiling of reading from the disk."""
        path = self.inputs.features(RESNET_SHAPE, "float16")
        return path, DatasetRows(h5py.File(path, "r")["features"])


def _first_questions(batch: Batch, count: int) -> Batch:
    """A batch of the first ``count`` questions of a batch and their images."""
    images, image_of_question = torch.unique(batch.image_of_question[:count], return_inverse=True)
    targets = None if batch.targets is None else batch.targets[:count]
    return Batch(
        batch.features[images], image_of_question, batch.questions[:count], targets,
        batch.index[:count], count,
    )  # fmt: skip
