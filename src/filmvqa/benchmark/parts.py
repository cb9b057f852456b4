"""The measured parts of the pipeline, and the references for some of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.settings import ExtractionSettings
from filmvqa.benchmark.inputs import SPLIT, Inputs
from filmvqa.benchmark.measure import Work, count_operations, drop_from_page_cache
from filmvqa.benchmark.reference import ReferenceModel, reference_extraction, reference_reading
from filmvqa.benchmark.settings import BenchmarkSettings
from filmvqa.evaluation.batches import Batch, Loader
from filmvqa.evaluation.predictions import predict
from filmvqa.features.images import list_images
from filmvqa.features.store import open_feature_store
from filmvqa.models import build_model
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.sampler import EpochSampler
from filmvqa.system.devices import autocast, use_bfloat16
from filmvqa.system.layout import DatasetLayout, RunLayout
from filmvqa.training.settings import TrainerSettings
from filmvqa.training.state import build_state
from filmvqa.training.trainer import Trainer

#: Shapes (C, H, W) of ResNet-101's features, and of images.
RESNET_SHAPE = (1024, 14, 14)
IMAGE_SHAPE = (3, 224, 224)
#: Images in a batch of reading and of reference extraction.
IMAGE_BATCH = 64
#: Questions in a batch of evaluation.
EVALUATION_BATCH = 256


class Parts:
    """The work of each part of the pipeline, one method for each.

    Attributes
    ----------
    works, references
        The methods by the names of the parts.
    by_size
        For some parts, the unit of the size, the largest size, and the method that takes a size.
    """

    def __init__(self, inputs: Inputs, settings: BenchmarkSettings, device: torch.device) -> None:
        self.inputs, self.settings, self.device = inputs, settings, device
        self.trainer = settings.trainer
        is_bfloat16 = use_bfloat16(device, self.trainer.precision)
        self.arithmetic_ceiling = "matmul_bfloat16" if is_bfloat16 else "matmul_float32"
        stores = ("device", "memory", "stream") if device.type == "cuda" else ("memory", "stream")
        grouped = replace(self.trainer, questions_per_image=8)
        self.works: dict[str, Callable[[], Work]] = {
            "question_preprocessing": self.question_preprocessing,
            "feature_extraction": self.feature_extraction,
            **{f"feature_store.{store}": partial(self.feature_store, store) for store in stores},
            **{f"train_step.{name}": partial(self.train_step, name) for name in settings.models},
            "train_step.film.stream": partial(self.train_step, "film", store="stream"),
            "train_step.film.grouped": partial(self.train_step, "film", grouped),
            "evaluation": self.evaluation,
        }
        self.references: dict[str, Callable[[], Work]] = {
            "feature_extraction": self.reference_extraction,
            "feature_store.stream": self.reference_reading,
            **{f"train_step.{n}": partial(self.reference_step, n) for n in settings.models},
        }

        def train_batch(size: int) -> Work:
            return self.train_step("film", replace(self.trainer, batch_size=size))

        preprocess = self.question_preprocessing
        self.by_size: dict[str, tuple[str, int, Callable[[int], Work]]] = {
            "question_preprocessing": ("questions", settings.questions, preprocess),
            "feature_extraction": ("images", inputs.images, self.feature_extraction),
            "train_step.film": ("batch", 2 * self.trainer.batch_size, train_batch),
        }

    def question_preprocessing(self, count: int | None = None) -> Work:
        """Conversion of question JSON to HDF5."""
        count = count or self.settings.questions
        target = self.inputs.folder / "preprocessed"
        layout = DatasetLayout.under(
            self.inputs.folder, questions=self.inputs.question_folder(count), h5=target
        )
        return Work(
            "questions", count, lambda: preprocess_questions(layout),
            lambda: shutil.rmtree(target, ignore_errors=True),
        )  # fmt: skip

    def feature_extraction(self, count: int | None = None) -> Work:
        """Extraction of ResNet-101's features from PNG files."""
        paths = self._image_paths(count or self.inputs.images)
        folder, target = self.inputs.folder / "image-subset", self.inputs.folder / "extracted.h5"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in paths:
            os.link(path, folder / path.name)
        backbone = build_backbone("resnet101", 3, self.inputs.resnet_weights())
        settings = ExtractionSettings(threads=os.cpu_count() or 2, precision=self.trainer.precision)
        extraction = partial(
            Extraction, folder, target, SPLIT, backbone, IMAGE_SHAPE[1:], settings,
            device=self.device,
        )  # fmt: skip
        with torch.inference_mode():
            image = torch.zeros((1, *IMAGE_SHAPE), dtype=torch.uint8)
            flops = count_operations(lambda: backbone(image))
        return Work(
            "images", len(paths), lambda: extraction().run(),
            lambda: target.unlink(missing_ok=True),
            flops=flops, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def reference_extraction(self) -> Work:
        """Extraction by the reference."""
        paths = self._image_paths(2 * IMAGE_BATCH)
        backbone = build_backbone("resnet101", 3, self.inputs.resnet_weights())
        extract = partial(
            reference_extraction, target=self.inputs.folder / "reference.h5", backbone=backbone,
            size=IMAGE_SHAPE[1:], batch_size=IMAGE_BATCH,
        )  # fmt: skip
        extract(paths[:2])  # warms up
        return Work("images", len(paths), lambda: extract(paths))

    def _image_paths(self, count: int) -> list[Path]:
        """The first ``count`` images."""
        folder = self.inputs.world.image_folder(SPLIT)
        return list(list_images(folder, max_images=count).values())

    def feature_store(self, store_name: str) -> Work:
        """Reading of random batches of ResNet-101's shape from a feature store.

        A streaming store reads from the disk, not from the page cache.
        """
        path = self.inputs.features(RESNET_SHAPE, "float16")
        work = self._reading(open_feature_store(path, self.device, store_name).read)
        work.bytes = np.prod(RESNET_SHAPE).item() * 2
        work.ceiling = "disk" if store_name == "stream" else "memory"
        return work

    def reference_reading(self) -> Work:
        """Reading by the reference."""
        dataset = h5py.File(self.inputs.features(RESNET_SHAPE, "float16"), "r")["features"]
        return self._reading(lambda rows: reference_reading(dataset, rows.tolist()))

    def _reading(self, read: Callable[[Tensor], Tensor]) -> Work:
        """Reading by a function that takes the rows of a batch."""
        path = self.inputs.features(RESNET_SHAPE, "float16")
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(self.inputs.copies * self.inputs.images, generator=generator)
        shuffled_batches = torch.split(order[: 8 * IMAGE_BATCH], IMAGE_BATCH)
        batches = [rows.sort().values for rows in shuffled_batches]
        return Work(
            "images", sum(map(len, batches)), lambda: [read(rows) for rows in batches],
            lambda: drop_from_page_cache(path),
        )  # fmt: skip

    def train_step(
        self, name: str, settings: TrainerSettings | None = None, store: str = "auto"
    ) -> Work:
        """Training steps of the model ``name``, with features from a store."""
        settings = settings or self.trainer
        trainer, batches = self._training(name, settings, store)
        flops = count_operations(lambda: trainer.step(next(batches)))
        return Work(
            "questions", settings.batch_size, lambda: trainer.step(next(batches)),
            flops=flops / settings.batch_size, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def reference_step(self, name: str) -> Work:
        """Training steps of the reference model."""
        settings = replace(
            self.trainer, precision="float32", channels_last=False, questions_per_image=1,
            compile=False,
        )  # fmt: skip
        trainer, batches = self._training(name, settings, is_reference=True)
        # Warm up with a few questions: a step of a whole batch takes a minute on two cores.
        trainer.step(trainer.train_loader.batch(torch.arange(4)))
        return Work("questions", settings.batch_size, lambda: trainer.step(next(batches)))

    def _training(
        self, name: str, settings: TrainerSettings, store: str = "auto", is_reference: bool = False
    ) -> tuple[Trainer, Iterator[Batch]]:
        """Make a trainer of the model ``name`` and an endless iterator of batches."""
        is_pixels = name.endswith("pixels")
        shape, dtype = (IMAGE_SHAPE, "uint8") if is_pixels else (RESNET_SHAPE, "float16")
        loader = self._loader(settings.batch_size, settings.channels_last, shape, dtype, store)
        questions, rows = loader.questions, torch.arange(len(loader.questions))
        torch.manual_seed(0)
        model = self._model(name, shape)
        sampler = EpochSampler(
            rows, settings.batch_size, 0, questions.images, settings.questions_per_image
        )
        optim = self.settings.optim
        if is_reference:
            model, optim = ReferenceModel(model), replace(optim, fused=False)
        state = build_state(model.to(self.device), optim, settings, sampler)
        trainer = Trainer(state, settings, loader, loader, RunLayout(Path()), {}, [], rows)
        return trainer, loader.train_batches(sampler)

    def _loader(
        self, batch_size: int, channels_last: bool = True,
        shape: tuple[int, int, int] = RESNET_SHAPE, dtype: str = "float16", store: str = "auto",
    ) -> Loader:  # fmt: skip
        features = open_feature_store(self.inputs.features(shape, dtype), self.device, store)
        return Loader(self.inputs.questions, features, batch_size, channels_last=channels_last)

    def _model(self, name: str, shape: tuple[int, int, int]) -> nn.Module:
        """Build the model ``name`` for features of ``shape`` (C, H, W)."""
        vocabulary = self.inputs.vocabulary
        model = build_model(
            **self.settings.models[name], feature_shape=shape,
            vocab_size=len(vocabulary.question), num_answers=len(vocabulary.answer),
        )  # fmt: skip
        accelerate(model)
        return model

    def evaluation(self) -> Work:
        """Prediction of answers by the paper's FiLM."""
        loader, precision = self._loader(EVALUATION_BATCH), self.trainer.precision
        model = self._model("film", RESNET_SHAPE).to(self.device).eval()
        rows = torch.arange(min(4 * EVALUATION_BATCH, len(loader.questions)))
        batch = loader.batch(rows[:EVALUATION_BATCH])
        inputs = (batch.features, batch.questions, batch.image_of_question)
        with torch.inference_mode(), autocast(self.device, precision):
            flops = count_operations(lambda: model(*inputs))
        return Work(
            "questions", len(rows),
            lambda: predict(model, loader, rows, precision=precision, progress=False),
            flops=flops / EVALUATION_BATCH, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip
