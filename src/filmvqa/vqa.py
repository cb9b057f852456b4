"""A trained network that answers questions about pictures: the door for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone
from filmvqa.backbones.build import backbone_from_spec
from filmvqa.backbones.extraction import compute_maps
from filmvqa.backbones.spectrograms import Spectrogram
from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint, remedy
from filmvqa.features.feature_range import FeatureRange
from filmvqa.features.images import PILLOW_ERRORS, resize_image
from filmvqa.models.fast.accelerate import accelerate as replace_modules
from filmvqa.models.fast.precision import choose_precision
from filmvqa.models.protocols import is_modulated
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.settings.typed import Accelerate, Positive, Precision, checked
from filmvqa.system.devices import autocast, choose_device, use_bfloat16
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.tasks.protocol import Answer, task_of

__all__ = ["VQA", "Answer", "FilmParameters", "Picture", "load"]

#: A path, a PIL image, a uint8 array (H, W, 3 or 4), or features (C, H, W) as a tensor or an array
#: of floating-point numbers.
Picture: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"

#: Pictures of a network's own world are within the range of its training set, or little outside.
FAR = 1.25


class FilmParameters(NamedTuple):
    """γ and β that a question gives each conditioned block, (blocks, channels) each."""

    gamma: Tensor
    beta: Tensor


class VQA:
    """A trained network with its vocabulary and the backbone that computes its features.

    Attributes
    ----------
    model : Module
        The network, in evaluation mode.
    task : Task
        What its answers are.
    vocabulary : Vocabulary
    feature_shape : tuple of int
        (C, H, W) of the features that the network takes.
    feature_range : FeatureRange or None
        Where the training set's features lie; None for checkpoints that do not record it.
    acceleration : Acceleration or None
        Which of the model's modules were replaced by faster forms of the same.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        feature_shape: tuple[int, int, int],
        backbone_spec: dict[str, Any] | None,
        *,
        feature_range: FeatureRange | None = None,
        name: str = "the checkpoint",
        device: torch.device | str = "cpu",
        precision: str = "auto",
        backbone_weights: str | Path | None = None,
        accelerate: Accelerate = "auto",
    ) -> None:
        self.device = torch.device(device)
        self.model, self.task = model.to(self.device).eval(), task_of(model)
        self.acceleration = replace_modules(self.model) if accelerate else None
        if self.acceleration is not None and self.acceleration.left:
            warn(f"{name}: {self.acceleration}")
        checked(precision, Precision, "precision")
        self.precision = choose_precision(self.model, self.device, precision)
        self.vocabulary, self.feature_shape = vocabulary, feature_shape
        self.feature_range = feature_range
        self._backbone_spec, self._backbone_weights = backbone_spec, backbone_weights
        self._backbone: Backbone | None = None
        self._name = name

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) to which pictures are brought before their features are computed; None if the
        checkpoint does not record it."""
        if self._backbone_spec is None:
            return None
        height, width = self._backbone_spec["image_size"]
        return height, width

    @property
    def draws(self) -> bool:
        """Whether it answers with a map of the picture."""
        return self.task.draws

    @torch.inference_mode()
    def features(self, picture: Picture) -> Tensor:
        """Features (C, H, W) of a picture, as the training set's were computed.

        Raises
        ------
        UserError
            For a picture that cannot be read, features of another shape, or a backbone whose
            weights are not available.
        """
        features = _as_features(picture)
        if features is not None:
            shape = tuple(features.shape)
            if shape != self.feature_shape:
                raise UserError(
                    f"features of shape {shape}; {self._name} takes {self.feature_shape}"
                )
            return features.to(self.device)
        backbone, image_size = self._prepared_backbone()
        loaded = (
            _as_spectrogram(picture, backbone, image_size)
            if isinstance(backbone, Spectrogram)
            else _as_image(picture, image_size)
        )
        return compute_maps(backbone, torch.from_numpy(loaded.copy())[None])[0]

    def ask(self, picture: Picture, question: str, *, allow_unknown: bool = False) -> Answer:
        """Answer a question about a picture.

        Parameters
        ----------
        allow_unknown
            Read unknown words as ``<UNK>``.

        Raises
        ------
        UserError
            For an unknown word, which is named with the nearest known ones, or as ``features``.
        """
        return self.ask_all([picture], [question], allow_unknown=allow_unknown)[0]

    @torch.inference_mode()
    def ask_all(
        self,
        pictures: Sequence[Picture],
        questions: Sequence[str],
        *,
        batch_size: int = 256,
        allow_unknown: bool = False,
    ) -> list[Answer]:
        """Answer many questions, each about the picture at the same position.

        The features of a picture that occurs several times are computed once.

        Raises
        ------
        UserError
            If the numbers differ, or as ``ask``.
        """
        checked(batch_size, Positive, "batch_size")
        if len(pictures) != len(questions):
            raise UserError(
                f"{len(pictures)} pictures for {len(questions)} questions; give one for each"
            )
        encoded = [self.vocabulary.encode(q, allow_unknown=allow_unknown) for q in questions]
        answers: list[Answer] = []
        for first in range(0, len(questions), batch_size):
            batch = slice(first, first + batch_size)
            features, image_of_question = self._batch_features(pictures[batch])
            with autocast(self.device, self.precision):
                output = self.model(features, padded(encoded[batch]), image_of_question)
            answers += self.task.answers(output, self.vocabulary)
        return answers

    @torch.inference_mode()
    def film(self, question: str, *, allow_unknown: bool = False) -> FilmParameters:
        """γ and β that the question gives each conditioned block.

        Raises
        ------
        UserError
            For a model without FiLM layers, or an unknown word.
        """
        if not is_modulated(self.model):
            raise UserError(f"{self._name}: its model has no FiLM layers; FiLM models have")
        tokens = padded([self.vocabulary.encode(question, allow_unknown=allow_unknown)])
        with autocast(self.device, self.precision):
            modulation = self.model.modulate(tokens)
        return FilmParameters(modulation.gamma[0].float().cpu(), modulation.beta[0].float().cpu())

    def warning_about(self, features: Tensor) -> str | None:
        """A word of warning about features (C, H, W) that lie far outside the training set's range;
        None for others, and if the range is not known."""
        if self.feature_range is None:
            return None
        distance = self.feature_range.distance(features)
        if distance <= FAR:
            return None
        return (
            f"looks unlike what the network was trained on ({distance:.1f} times as far from the "
            "average as the farthest of its pictures); do not rely on the answers"
        )

    def _batch_features(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Features (U, C, H, W) of the distinct pictures, and the index of each picture's."""
        index: dict[Any, int] = {}
        features: list[Tensor] = []
        image_of_question: list[int] = []
        for picture in pictures:
            key = picture if isinstance(picture, str | Path) else id(picture)
            if key not in index:
                index[key] = len(features)
                features.append(self.features(picture))
            image_of_question.append(index[key])
        return torch.stack(features), torch.tensor(image_of_question, device=self.device)

    def _prepared_backbone(self) -> tuple[Backbone, tuple[int, int]]:
        spec = self._backbone_spec
        if spec is None:
            raise UserError(
                f"{self._name}: does not record how its features were made; give features of shape "
                f"{self.feature_shape} instead of a picture"
            )
        if self._backbone is None:
            bfloat16 = use_bfloat16(self.device, spec["precision"])
            backbone = backbone_from_spec(spec, self._backbone_weights)
            self._backbone = backbone.prepared(self.device, bfloat16)
        height, width = spec["image_size"]
        return self._backbone, (height, width)


def load(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    backbone_weights: str | Path | None = None,
    accelerate: Accelerate = "auto",
) -> VQA:
    """A trained network from a checkpoint, ready to answer.

    Parameters
    ----------
    checkpoint
        Any checkpoint of this project.
    device
        ``auto`` is the GPU if there is one, else the CPU.
    precision
        ``auto`` (what is faster for the network on this hardware), ``bfloat16`` or ``float32``.
    backbone_weights
        The file of the backbone's weights; None: those shipped, or torchvision's download.
    accelerate
        ``auto`` replaces modules of the network by faster forms of the same; False does not.

    Raises
    ------
    UserError
        If the checkpoint is missing or broken. The backbone is built when it is first needed.
    """
    content = load_checkpoint(checkpoint)
    model, vocabulary = model_from_checkpoint(content, checkpoint)
    channels, height, width = content["model"]["kwargs"]["feature_shape"]
    return VQA(
        model,
        vocabulary,
        (channels, height, width),
        content["backbone"],
        feature_range=_range_of(content, checkpoint),
        name=str(checkpoint),
        device=choose_device(device),
        precision=precision,
        backbone_weights=backbone_weights,
        accelerate=accelerate,
    )


def _range_of(content: dict[str, Any], path: str | Path) -> FeatureRange | None:
    """The entry ``feature_range`` of a checkpoint, which earlier ones do not have."""
    entry = content.get("feature_range")
    try:
        return None if entry is None else msgspec.convert(entry, FeatureRange)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: its feature_range is broken ({error}); {remedy(path)}") from None


def _as_features(picture: Picture) -> Tensor | None:
    """The features that a tensor or an array of floating-point numbers is; None for a picture."""
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, np.ndarray) and picture.dtype.kind == "f":
        return torch.from_numpy(picture)
    return None


def _as_spectrogram(
    recording: Any, front_end: Spectrogram, size: tuple[int, int]
) -> NDArray[np.float32]:
    """The spectrogram (1, F, T) of a WAV file."""
    if not isinstance(recording, str | Path):
        raise UserError(
            f"a {type(recording).__name__} is no recording; give the path of a WAV file"
        )
    spectrogram: NDArray[np.float32] = front_end.load(Path(recording), size)
    return spectrogram


def _as_image(picture: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture as uint8 (3, H, W) of the given (H, W)."""
    if isinstance(picture, str | Path):
        try:
            with Image.open(picture) as image:
                return resize_image(image, size)
        except FileNotFoundError:
            raise UserError(f"{picture}: no such file; give the path of an image") from None
        except PILLOW_ERRORS as error:
            raise UserError(
                f"{picture}: cannot be read as an image ({one_line(error)}); give a PNG or JPEG"
            ) from None
    if isinstance(picture, Image.Image):
        return resize_image(picture, size)
    if (
        isinstance(picture, np.ndarray)
        and picture.dtype == np.uint8
        and picture.ndim == 3
        and picture.shape[2] in (3, 4)
    ):
        return resize_image(Image.fromarray(picture), size)
    shape = f" of {picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else ""
    raise UserError(
        f"a {type(picture).__name__}{shape} is no picture; give a path, a PIL image, a uint8 array "
        "(H, W, 3), or features (C, H, W)"
    )
