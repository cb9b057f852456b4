"""The Python interface for notebooks: a trained network that answers questions about pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, compute_maps
from filmvqa.backbones.build import backbone_from_spec
from filmvqa.backbones.pixels import PIXELS
from filmvqa.backbones.spectrograms import Spectrogram
from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint, remedy
from filmvqa.features.feature_range import FeatureRange
from filmvqa.features.images import as_shown, read_picture, resize_picture
from filmvqa.models.protocols import is_modulated
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import UNK, Vocabulary
from filmvqa.settings.typed import Accelerate, Positive, Precision, checked
from filmvqa.system.devices import autocast, choose_device, use_bfloat16
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import read_bytes
from filmvqa.tasks.protocol import Answer, task_of

if TYPE_CHECKING:
    from filmvqa.models.fast.accelerate import Acceleration

__all__ = ["VQA", "Answer", "FilmParameters", "Picture", "load"]

#: A path, a PIL image, a uint8 array (H, W, 3 or 4), or features (C, H, W) as a tensor or a
#: floating-point array. Pictures are read as viewers show them (``features.images.as_shown``).
Picture: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"

#: ``warning_about`` warns above this distance, in units of the training set's range. Pictures like
#: the training set's are below it.
FAR = 1.25


class FilmParameters(NamedTuple):
    """γ and β of one question for each conditioned block, (blocks, channels) each."""

    gamma: Tensor
    beta: Tensor


class VQA:
    """A trained network with its vocabulary and the backbone that computes its features.

    Attributes
    ----------
    model : Module
        The network, in evaluation mode.
    task : Task
        What the network is trained on, such as words or masks.
    vocabulary : Vocabulary
    feature_shape : tuple of int
        (C, H, W) of the network's input features.
    feature_range : FeatureRange or None
        The range of the training set's features. None if the checkpoint does not record it.
    backbone_spec : dict or None
        How the features were computed, as recorded in feature files. None if the checkpoint does
        not record it.
    acceleration : Acceleration or None
        Which modules were replaced by faster equivalents.
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
        self.precision: str = checked(precision, Precision, "precision")
        self.acceleration: Acceleration | None = None
        if accelerate:
            # Importing the compiled kernels takes a second.
            from filmvqa.models.fast.accelerate import accelerate as replace_modules
            from filmvqa.models.fast.precision import choose_precision

            self.acceleration = replace_modules(self.model)
            if self.acceleration.left:
                warn(f"{name}: {self.acceleration}")
            self.precision = choose_precision(self.model, self.device, precision)
        self.vocabulary, self.feature_shape = vocabulary, feature_shape
        self.feature_range = feature_range
        self.backbone_spec, self._backbone_weights = backbone_spec, backbone_weights
        self._backbone: Backbone | None = None
        self._name = name

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) to which pictures are resized. None if the checkpoint does not record it."""
        if self.backbone_spec is None:
            return None
        height, width = self.backbone_spec["image_size"]
        return height, width

    @property
    def draws(self) -> bool:
        """Whether an answer is a map of the picture."""
        return self.task.draws

    @torch.inference_mode()
    def features(self, picture: Picture) -> Tensor:
        """Compute the features (C, H, W) of a picture as those of the training set were computed.

        Raises
        ------
        UserError
            If the picture cannot be read, the features have a wrong shape or dtype, or the
            backbone's weights are not available.
        """
        features = _as_features(picture)
        if features is not None:
            shape, dtype = tuple(features.shape), features.dtype
            # The network scales pixels, which must be uint8, and does not scale other features.
            name = None if self.backbone_spec is None else self.backbone_spec["backbone"]
            fits = dtype == torch.uint8 if name == PIXELS else dtype.is_floating_point
            if shape != self.feature_shape or not (fits or (name is None and dtype == torch.uint8)):
                expected = "uint8" if name == PIXELS else "floating point"
                raise UserError(
                    f"features of shape {shape} and {dtype}; {self._name} takes {expected} of "
                    f"{self.feature_shape}, or pictures: uint8 arrays (H, W, 3)"
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
            If a word is unknown (the message names similar words), or as ``features``.
        """
        return self.ask_all([picture], [question], allow_unknown=allow_unknown)[0]

    @torch.inference_mode()
    def ask_all(
        self,
        pictures: Iterable[Picture],
        questions: Iterable[str],
        *,
        batch_size: int = 256,
        allow_unknown: bool = False,
    ) -> list[Answer]:
        """Answer many questions, each about the picture at the same position.

        ``pictures`` may be a generator or open pictures lazily: it is iterated once. If pictures of
        a batch have the same content, their features are computed once.

        Raises
        ------
        UserError
            If there are not as many pictures as questions, or as ``ask``.
        """
        checked(batch_size, Positive, "batch_size")
        questions = list(questions)
        if (is_sized := isinstance(pictures, Sized)) and len(pictures) != len(questions):
            raise _wrong_number(len(pictures), questions)
        remaining = iter(pictures)
        encoded = [self._encode(q, allow_unknown) for q in questions]
        answers: list[Answer] = []
        for first in range(0, len(questions), batch_size):
            batch = slice(first, first + batch_size)
            features, places = self._batch_features(islice(remaining, len(encoded[batch])))
            if len(places) < len(encoded[batch]):
                raise _wrong_number(first + len(places), questions)
            # Outside autocast, which does not handle integers.
            maps, image_of_question = torch.stack(features), torch.tensor(places).to(self.device)
            with autocast(self.device, self.precision):
                output = self.model(maps, padded(encoded[batch]), image_of_question)
            answers += self.task.answers(output, self.vocabulary)
        if not is_sized and next(remaining, None) is not None:
            raise _wrong_number(f"more than {len(questions)}", questions)
        return answers

    def _encode(self, question: str, allow_unknown: bool) -> list[int]:
        remedy = f"; allow_unknown=true (in Python True) reads it as {UNK}"
        return self.vocabulary.encode(question, allow_unknown=allow_unknown, remedy=remedy)

    @torch.inference_mode()
    def film(self, question: str, *, allow_unknown: bool = False) -> FilmParameters:
        """Compute γ and β of a question for each conditioned block.

        Raises
        ------
        UserError
            If the model has no FiLM layers or they use no γ and β, or a word is unknown.
        """
        if not is_modulated(self.model):
            raise UserError(f"{self._name}: its model has no FiLM layers; FiLM models have")
        if not self.model.has_film_penalty:
            raise UserError(f"{self._name}: its layers use no γ and β of questions")
        tokens = padded([self._encode(question, allow_unknown)])
        with autocast(self.device, self.precision):
            modulation = self.model.modulate(tokens)
        return FilmParameters(modulation.gamma[0].float().cpu(), modulation.beta[0].float().cpu())

    def warning_about(self, features: Tensor) -> str | None:
        """A warning if features (C, H, W) lie far outside the training set's range, else None.

        None also if the range is not recorded.
        """
        if self.feature_range is None:
            return None
        distance = self.feature_range.distance(features)
        if distance <= FAR:
            return None
        return (
            f"looks unlike what the network was trained on ({distance:.1f} times as far from the "
            "average as the farthest of its pictures); do not rely on the answers"
        )

    def _batch_features(self, pictures: Iterable[Picture]) -> tuple[list[Tensor], list[int]]:
        """Features (C, H, W) of the distinct pictures, and each picture's index into them.

        Pictures are distinct if their hashes differ.
        """
        index: dict[bytes, int] = {}
        features: list[Tensor] = []
        image_of_question: list[int] = []
        for original in pictures:
            picture = original
            if isinstance(original, Image.Image):
                picture = np.asarray(as_shown(original, "the picture"))
            key = hash_content(picture)
            if key not in index:
                index[key] = len(features)
                features.append(self.features(picture))
            image_of_question.append(index[key])
        return features, image_of_question

    def _prepared_backbone(self) -> tuple[Backbone, tuple[int, int]]:
        spec = self.backbone_spec
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
    """Load a trained network from a checkpoint.

    Parameters
    ----------
    checkpoint
        Any checkpoint of this project.
    device
        ``auto`` is the GPU if there is one, else the CPU.
    precision
        ``bfloat16``, ``float32`` or ``auto``, which is the faster one for the network on this
        hardware.
    backbone_weights
        File of the backbone's weights. None: the shipped ones, or torchvision's download.
    accelerate
        ``auto`` replaces modules of the network by faster equivalents; False does not.

    Raises
    ------
    UserError
        If the checkpoint is missing or broken. The backbone is built on first use.
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
    """A checkpoint's ``feature_range``; None for checkpoints of earlier versions."""
    entry = content.get("feature_range")
    try:
        return None if entry is None else msgspec.convert(entry, FeatureRange)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: its feature_range is broken ({error}); {remedy(path)}") from None


def _wrong_number(count: int | str, questions: list[str]) -> UserError:
    return UserError(f"{count} pictures for {len(questions)} questions; give one for each")


def hash_content(picture: Any) -> bytes:
    """Hash the content of a file, an array or a tensor."""
    if isinstance(picture, str | Path):
        return hashlib.sha256(read_bytes(picture, "check the path")).digest()
    if isinstance(picture, Tensor):
        values = picture.detach().cpu().flatten().view(torch.uint8).numpy()
    else:
        values = np.asarray(picture)
    head = f"{type(picture)} {getattr(picture, 'dtype', '')} {np.shape(values)} "
    return hashlib.sha256(head.encode() + values.tobytes()).digest()


def _as_features(picture: Picture) -> Tensor | None:
    """A tensor or a floating-point array as features of at most single precision, else None."""
    if isinstance(picture, np.ndarray) and picture.dtype.kind == "f":
        # torch supports neither foreign byte orders nor negative strides.
        picture = torch.from_numpy(np.array(picture, f"=f{min(4, picture.dtype.itemsize)}"))
    if not isinstance(picture, Tensor):
        return None
    return picture.float() if picture.dtype == torch.float64 else picture


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
    """A picture as uint8 (3, H, W), resized to ``size`` (H, W)."""
    if isinstance(picture, str | Path):
        picture = read_picture(picture)
    is_pixels = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    if is_pixels and picture.ndim == 3 and picture.shape[2] in (3, 4):
        picture = Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        return resize_picture(as_shown(picture, "the picture"), size)
    shape = f" of {picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else ""
    raise UserError(
        f"a {type(picture).__name__}{shape} is no picture; give a path, a PIL image, a uint8 array "
        "(H, W, 3), or features (C, H, W)"
    )
