"""Convert checkpoints of the original FiLM code to checkpoints of this project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filmvqa.backbones.backbone import IMAGENET_MEAN, ORIGINAL_FILM_STD
from filmvqa.checkpoints.checkpoint import save_checkpoint
from filmvqa.checkpoints.original_film import read_original_film
from filmvqa.checkpoints.settings import ImportSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout


def import_original_film(settings: ImportSettings) -> Vocabulary:
    """Convert a checkpoint of the original code, FiLM or a baseline, to one of this project.

    The vocabulary is written beside it as ``vocab.json``; questions must be encoded with it. If the
    shape of the features identifies how the original made them (``backbone_of``), the checkpoint
    records it, so that pictures can be asked about.

    Returns
    -------
    Vocabulary
        The checkpoint's vocabulary.

    Raises
    ------
    UserError
        If the file cannot be loaded, the output exists, or another vocabulary is beside it.
    """
    target, data = Path(settings.output), settings.data
    if target.exists():
        raise UserError(f"{target}: exists already; choose another output")
    original = read_original_film(settings.source)
    vocabulary = original.vocabulary
    vocabulary_path = DatasetLayout.under(target.parent, h5=target.parent).vocabulary
    if vocabulary_path.exists() and Vocabulary.load(vocabulary_path) != vocabulary:
        raise UserError(
            f"{vocabulary_path}: is another vocabulary; choose an output in another folder"
        )
    # Batches of this project are padded no further than necessary.
    if original.kwargs.get("encoder", {}).get("bidirectional"):
        original.kwargs["encoder"]["padded_length"] = settings.padded_length
    target.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.save(vocabulary_path)
    save_checkpoint(
        target,
        {
            "model": {"name": original.name, "kwargs": original.kwargs},
            "weights": original.weights,
            "ema_weights": None,
            "config": {"imported_from": Path(settings.source).name},
            "vocabulary": vocabulary.to_dict(),
            "data": {
                "h5": str(data.layout.h5),
                "features": str(data.layout.features),
                "backbone": data.backbone.name,
                "train_split": data.train_split,
                "val_split": data.val_split,
            },
            "backbone": backbone_of(original.kwargs["feature_shape"]),
            "inputs": {"vocabulary": vocabulary.sha256()},
            "train_images": None,
            "progress": {"step": 0, "finished": True},
        },
    )
    return vocabulary


def backbone_of(feature_shape: Sequence[int]) -> dict[str, Any] | None:
    """How the original code makes features of a shape (C, H, W), as checkpoints record it.

    (1024, 14, 14) is the default of its scripts/extract_features.py: ResNet-101 through stage 3, of
    224×224 pixels, with torchvision's ImageNet weights of that time; the checkpoint does not name
    their file. (3, H, W) are pixels. None for any other shape.
    """
    recorded = {
        "weights": "", "weights_sha256": "", "mean": list(IMAGENET_MEAN),
        "std": list(ORIGINAL_FILM_STD), "precision": "float32",
    }  # fmt: skip
    channels, height, width = feature_shape
    if channels == 3:
        return {"backbone": "pixels", "stage": 0, "image_size": [height, width], **recorded}
    if (channels, height, width) == (1024, 14, 14):
        return {"backbone": "resnet101", "stage": 3, "image_size": [224, 224], **recorded}
    return None
