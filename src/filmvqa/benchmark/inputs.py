"""Generated inputs of realistic sizes, so that the benchmark needs no data set."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import h5py
import msgspec
import numpy as np
import torch

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scenes import image_filename
from filmvqa.worlds.engine.schema import Question, QuestionFile, read_questions

SPLIT = "train"


class Inputs:
    """The inputs of the benchmark, below ``folder``; each is made on first use.

    Parameters
    ----------
    images
        Number of images that are rendered, of CLEVR's size and with questions of all families.
    copies
        The questions are repeated for ``copies`` times as many images, so that the images of a
        batch are distinct, as in a whole data set.
    """

    def __init__(self, folder: Path, images: int, copies: int) -> None:
        self.folder, self.images, self.copies = folder, images, copies

    @cached_property
    def world(self) -> DatasetLayout:
        """The generated data set."""
        layout = DatasetLayout.under(self.folder / "world")
        generate(layout.root, GeneratorSettings(images={SPLIT: self.images}))
        return layout

    @cached_property
    def distinct_questions(self) -> list[Question]:
        """The questions of the generated data set."""
        return read_questions(self.world.question_json(SPLIT)).questions

    def question_folder(self, count: int) -> Path:
        """Write the JSON of ``count`` questions, the distinct ones repeated for more images;
        return its folder."""
        folder = self.folder / f"questions-{count}"
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        records = []
        for question_index in range(count):
            copy, index = divmod(question_index, len(self.distinct_questions))
            question = self.distinct_questions[index]
            image_index = copy * self.images + (question.image_index or 0)
            records.append(msgspec.structs.replace(
                question, question_index=question_index, image_index=image_index,
                image_filename=image_filename(SPLIT, image_index),
            ))  # fmt: skip
        target = DatasetLayout.under(folder, questions=folder).question_json(SPLIT)
        target.write_bytes(msgspec.json.encode(QuestionFile(records)))
        return folder

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the questions."""
        return Vocabulary.load(self._encoded.vocabulary)

    @cached_property
    def questions(self) -> QuestionDataset:
        """The training questions."""
        return QuestionDataset.load(self._encoded.question_h5(SPLIT), self.vocabulary)

    @cached_property
    def _encoded(self) -> DatasetLayout:
        source = self.question_folder(self.copies * len(self.distinct_questions))
        layout = DatasetLayout.under(self.folder, questions=source)
        preprocess_questions(layout)
        return layout

    def features(self, shape: tuple[int, int, int], dtype: str) -> Path:
        """Write a feature file with random features (C, H, W) for all images of the questions."""
        path = self.folder / f"features-{'x'.join(map(str, shape))}-{dtype}.h5"
        if path.exists():
            return path
        count, largest = self.copies * self.images, 255 if dtype == "uint8" else 4
        rng = np.random.default_rng(0)
        with h5py.File(path, "w", libver="latest") as file:
            dataset = file.create_dataset("features", (count, *shape), dtype, chunks=(1, *shape))
            for row in range(count):
                dataset[row] = (largest * rng.random(shape, np.float32)).astype(dtype)
        return path

    def resnet_weights(self) -> Path:
        """Write random weights of ResNet-101, which are as fast as ImageNet's."""
        from torchvision.models import resnet101

        path = self.folder / "resnet101.pth"
        if not path.exists():
            torch.manual_seed(0)
            torch.save(resnet101(weights=None).state_dict(), path)
        return path
