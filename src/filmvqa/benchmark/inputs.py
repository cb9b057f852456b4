"""Inputs of real sizes for the benchmark, made on the spot: no data set is needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import torch

from filmvqa.clevr.generate import generate
from filmvqa.clevr.generator_settings import GeneratorSettings
from filmvqa.clevr.scenes import image_filename
from filmvqa.clevr.schema import Question, QuestionFile, read_questions
from filmvqa.data.loader import QuestionSet
from filmvqa.data.preprocess import preprocess_questions
from filmvqa.data.vocabulary import Vocabulary

SPLIT = "train"


class Inputs:
    """What the parts work on, below ``folder``, each made when it is first asked for.

    ``images`` are drawn, of CLEVR's size and with questions of all families; ``copies`` times as
    many are asked about, so that batches draw distinct images as they do from a whole set.
    """

    def __init__(self, folder: Path, images: int, copies: int) -> None:
        self.folder, self.images, self.copies = folder, images, copies

    @cached_property
    def world(self) -> Path:
        """A generated set."""
        root = self.folder / "world"
        generate(root, GeneratorSettings(images={SPLIT: self.images}))
        return root

    @cached_property
    def asked(self) -> list[Question]:
        return read_questions(self.world / f"questions/CLEVR_{SPLIT}_questions.json").questions

    def question_file(self, count: int) -> Path:
        """A folder with a question file of ``count`` questions, the same asked of ever new
        images."""
        folder = self.folder / f"questions-{count}"
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        records = []
        for number in range(count):
            copy, place = divmod(number, len(self.asked))
            question = self.asked[place]
            index = copy * self.images + (question.image_index or 0)
            record = msgspec.structs.replace(
                question,
                image_index=index,
                image_filename=image_filename(SPLIT, index),
                question_index=number,
            )
            records.append(record)
        content = msgspec.json.encode(QuestionFile(records))
        (folder / f"CLEVR_{SPLIT}_questions.json").write_bytes(content)
        return folder

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self._h5 / "vocab.json")

    @cached_property
    def questions(self) -> QuestionSet:
        return QuestionSet.load(self._h5 / f"{SPLIT}_questions.h5", self.vocabulary)

    @cached_property
    def _h5(self) -> Path:
        folder = self.folder / "h5"
        preprocess_questions(self.question_file(self.copies * len(self.asked)), folder)
        return folder

    def features(self, shape: tuple[int, int, int], dtype: str) -> Path:
        """A feature file of the asked-about images, in the format of ``extract_features``."""
        path = self.folder / f"features-{'x'.join(map(str, shape))}-{dtype}.h5"
        if path.exists():
            return path
        count = self.copies * self.images
        rng = np.random.default_rng(0)
        kinds: dict[str, Any] = {
            "uint8": lambda: rng.integers(0, 256, shape, np.uint8),
            "float16": lambda: np.abs(rng.standard_normal(shape, np.float32)).astype(np.float16),
        }
        with h5py.File(path, "w", libver="latest") as file:
            dataset = file.create_dataset("features", (count, *shape), dtype, chunks=(1, *shape))
            for row in range(count):
                dataset[row] = kinds[dtype]()
        return path

    def resnet_weights(self) -> Path:
        """A file of random weights of ResNet-101, read as ImageNet's are."""
        from torchvision.models import resnet101

        path = self.folder / "resnet101.pth"
        if not path.exists():
            torch.manual_seed(0)
            torch.save(resnet101(weights=None).state_dict(), path)
        return path
