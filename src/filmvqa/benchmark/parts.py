"""The parts that are measured."""

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
from torch.utils.flop_counter import FlopCounterMode

from filmvqa.benchmark.inputs import SPLIT, Inputs
from filmvqa.benchmark.measure import BenchmarkResult, forget, rates, time_runs
from filmvqa.benchmark.reference import ReferenceModel, reference_extraction, reference_reading
from filmvqa.data.backbones import build_backbone
from filmvqa.data.batches import Batch, Loader
from filmvqa.data.features import Extraction
from filmvqa.data.images import list_images
from filmvqa.data.preprocess import preprocess_questions
from filmvqa.data.rows import DatasetRows
from filmvqa.data.sampler import EpochSampler
from filmvqa.data.store import open_feature_store
from filmvqa.devices import autocast, use_bfloat16
from filmvqa.evaluation.predictions import predict
from filmvqa.layout import DatasetLayout, RunLayout
from filmvqa.models import build_model
from filmvqa.training.settings import TrainerSettings
from filmvqa.training.state import build_state
from filmvqa.training.trainer import Trainer

RESNET_MAPS = (1024, 14, 14)
PIXELS = (3, 224, 224)
READ_AT_ONCE = 64


@dataclass
class Bench:
    """What all parts share. ``models`` are model configs by name; ``trainer`` and ``optim`` are
    training's settings."""

    inputs: Inputs
    device: torch.device
    models: dict[str, dict[str, Any]]
    optim: dict[str, Any]
    trainer: TrainerSettings
    runs: int
    reference_runs: int
    questions: int

    @property
    def arithmetic_ceiling(self) -> str:
        """The ceiling of arithmetic in the precision of training."""
        fast = use_bfloat16(self.device, self.trainer.precision)
        return "matmul_bfloat16" if fast else "matmul_float32"

    def question_preprocessing(
        self, count: int | None = None, runs: int | None = None
    ) -> BenchmarkResult:
        """Question JSON to HDF5."""
        count = count or self.questions
        source, target = self.inputs.question_folder(count), self.inputs.folder / "preprocessed"
        layout = DatasetLayout.under(self.inputs.folder, questions=source, h5=target)

        def work() -> None:
            shutil.rmtree(target, ignore_errors=True)
            preprocess_questions(layout)

        seconds = time_runs(work, runs or self.runs, torch.device("cpu"))
        return BenchmarkResult("questions", rates(count, seconds))

    def feature_extraction(
        self, count: int | None = None, runs: int | None = None
    ) -> BenchmarkResult:
        """PNG files to features of ResNet-101."""
        folder = self.inputs.world.image_folder(SPLIT)
        some = self.inputs.folder / "some-images"
        size, target = PIXELS[1:], self.inputs.folder / "extracted.h5"
        shutil.rmtree(some, ignore_errors=True)
        some.mkdir()
        for path in list_images(folder)[: count or self.inputs.images]:
            os.link(path, some / path.name)
        paths = list_images(some)
        backbone = build_backbone("resnet101", 3, self.inputs.resnet_weights())
        threads = os.cpu_count() or 2

        def work() -> None:
            target.unlink(missing_ok=True)
            Extraction(
                some, target, SPLIT, backbone, size,
                threads=threads, device=self.device, precision=self.trainer.precision,
            ).run()  # fmt: skip

        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            backbone(torch.zeros((1, *PIXELS), dtype=torch.uint8))
        seconds = time_runs(work, runs or self.runs, self.device)
        return BenchmarkResult(
            "images", rates(len(paths), seconds),
            flops=counter.get_total_flops(), ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def reference_extraction(self) -> list[float]:
        """The same, one thing after the other in float32: images a second."""
        paths = list_images(self.inputs.world.image_folder(SPLIT))[: 2 * READ_AT_ONCE]
        backbone = build_backbone("resnet101", 3, self.inputs.resnet_weights())
        target, size = self.inputs.folder / "plain.h5", PIXELS[1:]
        reference_extraction(paths[:2], target, backbone, size, 2)
        seconds = time_runs(
            lambda: reference_extraction(paths, target, backbone, size, READ_AT_ONCE),
            self.reference_runs, torch.device("cpu"), warm_up=0,
        )  # fmt: skip
        return rates(len(paths), seconds)

    def feature_store(self, kind: str) -> BenchmarkResult:
        """Batches of features at random, of the size of ResNet-101's; from a file, one that the
        page cache does not hold."""
        path = self.inputs.features(RESNET_MAPS, "float16")
        store = open_feature_store(path, self.device, kind)
        self._read(store.read, 1)
        return BenchmarkResult(
            "images",
            self._read(store.read, self.runs),
            bytes=np.prod(RESNET_MAPS).item() * 2,
            ceiling="disk" if kind == "stream" else "memory",
        )

    def reference_reading(self) -> list[float]:
        """Reading image by image through HDF5: images a second."""
        with h5py.File(self.inputs.features(RESNET_MAPS, "float16"), "r") as file:
            dataset = file["features"]
            return self._read(
                lambda rows: reference_reading(dataset, rows.tolist()), self.reference_runs
            )

    def _read(self, read: Callable[[Tensor], Tensor], runs: int) -> list[float]:
        path = self.inputs.features(RESNET_MAPS, "float16")
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(self.inputs.copies * self.inputs.images, generator=generator)
        chosen = torch.split(order[: 8 * READ_AT_ONCE], READ_AT_ONCE)
        batches = [rows.sort().values for rows in chosen]
        seconds = []
        for _ in range(runs):
            forget(path)
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
        """Training steps from a feature store."""
        settings = replace(
            self.trainer,
            batch_size=batch_size or self.trainer.batch_size,
            questions_per_image=questions_per_image or self.trainer.questions_per_image,
        )
        trainer, batches = self._trainer(name, settings, store)
        size = settings.batch_size
        with FlopCounterMode(display=False) as counter:
            trainer.step(next(batches))
        seconds = time_runs(lambda: trainer.step(next(batches)), self.runs, self.device)
        return BenchmarkResult(
            "questions", rates(size, seconds),
            flops=counter.get_total_flops() / size, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def reference_step(self, name: str) -> list[float]:
        """Training steps of the reference model: questions a second."""
        settings = replace(
            self.trainer, precision="float32", channels_last=False, questions_per_image=1,
            compile=False,
        )  # fmt: skip
        trainer, batches = self._trainer(name, settings, "auto", reference=True)
        # Warm enough after a few questions: a step of all takes a minute on two cores.
        trainer.step(_first(next(batches), 4))
        seconds = time_runs(
            lambda: trainer.step(next(batches)), self.reference_runs, self.device, warm_up=0
        )
        return rates(settings.batch_size, seconds)

    def _trainer(
        self, name: str, settings: TrainerSettings, store: str, reference: bool = False
    ) -> tuple[Trainer, Iterator[Batch]]:
        questions = self.inputs.questions
        pixels = name.endswith("pixels")
        shape, dtype = (PIXELS, "uint8") if pixels else (RESNET_MAPS, "float16")
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
        optim = self.optim | ({"fused": False} if reference else {})
        network = (ReferenceModel(model) if reference else model).to(self.device)
        state = build_state(network, optim, settings, sampler)
        trainer = Trainer(state, settings, loader, loader, RunLayout(Path()), {}, [], rows)
        return trainer, loader.train_batches(sampler)

    def _model(self, name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
        options = {k: v for k, v in self.models[name].items() if k != "name"}
        vocabulary = self.inputs.vocabulary
        sizes = {"vocab_size": len(vocabulary.question), "num_answers": len(vocabulary.answer)}
        return build_model(self.models[name]["name"], feature_shape=shape, **sizes, **options)

    def evaluation(self) -> BenchmarkResult:
        """Answers of the paper's FiLM."""
        questions = self.inputs.questions
        features = open_feature_store(
            self.inputs.features(RESNET_MAPS, "float16"), self.device, "auto"
        )
        loader = Loader(questions, features, 256)
        model = self._model("film", RESNET_MAPS).to(self.device).eval()
        rows = torch.arange(min(4 * 256, len(questions)))
        precision = self.trainer.precision

        def work() -> None:
            predict(model, loader, rows, precision=precision, progress=False)

        batch = loader.batch(rows[:256])
        with (
            FlopCounterMode(display=False) as counter,
            torch.inference_mode(),
            autocast(self.device, precision),
        ):
            model(batch.features, batch.questions, batch.image_of_question)
        seconds = time_runs(work, self.runs, self.device)
        return BenchmarkResult(
            "questions", rates(len(rows), seconds),
            flops=counter.get_total_flops() / 256, ceiling=self.arithmetic_ceiling,
        )  # fmt: skip

    def disk_rows(self) -> tuple[Path, DatasetRows]:
        """The feature file, for the ceiling of reading it."""
        path = self.inputs.features(RESNET_MAPS, "float16")
        return path, DatasetRows(h5py.File(path, "r")["features"])


def _first(batch: Batch, count: int) -> Batch:
    """The first questions of a batch, their images included."""
    images, of = torch.unique(batch.image_of_question[:count], return_inverse=True)
    answers = None if batch.answers is None else batch.answers[:count]
    return Batch(batch.features[images], of, batch.questions[:count], answers, batch.index[:count])
