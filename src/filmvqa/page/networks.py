"""The page's networks, which all visitors share, and how they compute an answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from filmvqa.backbones.clevr_slots import on_picture
from filmvqa.models.protocols import (
    Attentive,
    as_modulated,
    can_record,
    is_modulated,
    looks_at_images,
    record_activations,
)
from filmvqa.studies.inspection.interventions import build_intervention
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError
from filmvqa.vqa import VQA, Answer, FilmParameters, Picture, load

#: The name of the map that shows a predicted mask.
MASK = "predicted mask"


@dataclass(frozen=True)
class Look:
    """An answer, and how it was computed.

    Attributes
    ----------
    film
        γ and β of each block; None for a network without FiLM layers.
    unchanged
        The answer with the original γ and β, if they were changed.
    maps
        Non-negative maps (H, W), by name.
    words
        The question's words, with its start and end, and the attention (S, T) of each step of a MAC
        network to each word; None for other networks.
    """

    answer: Answer
    film: FilmParameters | None = None
    unchanged: Answer | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)
    words: tuple[list[str], Tensor] | None = None


class Network:
    """A trained network that several threads may ask in turn."""

    def __init__(self, vqa: VQA, name: str) -> None:
        self.vqa, self.name = vqa, name
        self._turn = threading.Lock()

    @classmethod
    def load(cls, checkpoint: str, device: str, weights: str | None) -> Network:
        """A network from a checkpoint, named after the run's folder or the file.

        Raises
        ------
        UserError
            As ``vqa.load``.
        """
        vqa = load(
            checkpoint,
            device=device,
            precision="float32",
            backbone_weights=weights,
            accelerate=False,  # no gain for a visitor's few questions, and a slower start
        )
        path = Path(checkpoint)
        return cls(vqa, path.parent.name if path.suffix == ".pt" else path.name)

    def knows(self, question: str) -> bool:
        """Whether it knows all words of a question."""
        try:
            self.vqa.vocabulary.encode(question)
        except UserError:
            return False
        return True

    @property
    def num_layers(self) -> int:
        """The number of its FiLM layers."""
        model = self.vqa.model
        return model.num_modulated if is_modulated(model) else 0

    def check_change(self, change: FilmSettings | None) -> None:
        """Raise ``UserError`` for a change of γ and β with an unknown word, or a layer that a
        network with FiLM layers lacks."""
        with self._turn:
            self._changed(change)  # the context is not entered, so nothing is changed

    def features(self, picture: Picture) -> Tensor:
        """As ``VQA.features``."""
        with self._turn:
            return self.vqa.features(picture)

    def answers(
        self, pictures: Sequence[Picture], question: str, change: FilmSettings | None = None
    ) -> list[Answer]:
        """The answers to one question about many pictures; ``change`` as for ``look``."""
        with self._turn, self._changed(change):
            return self.vqa.ask_all(pictures, [question] * len(pictures))

    def _changed(self, change: FilmSettings | None) -> AbstractContextManager[None]:
        if change is None or not self.num_layers:
            return nullcontext()
        intervention = build_intervention(change, self.vqa.model, self.vqa.vocabulary)
        return as_modulated(self.vqa.model).intervene(intervention)

    def look(self, features: Tensor, question: str, change: FilmSettings | None = None) -> Look:
        """The answer to a question about a picture's features (C, H, W), and its explanation: γ and
        β, the norm over channels before and after each FiLM layer, the places that the global
        maximum pool selects, the attention of a MAC network's steps, and the gradient of the
        answer's score.

        ``change`` changes γ and β, if the network has them.

        Raises
        ------
        UserError
            For an unknown word, or a layer that the network lacks.
        """
        with self._turn:
            unchanged = None
            if change is not None and self.num_layers:
                unchanged = self.vqa.ask(features, question)
            with self._changed(change):
                return self._look(features, question, unchanged)

    def _look(self, features: Tensor, question: str, unchanged: Answer | None) -> Look:
        maps: dict[str, Tensor] = {}
        film = words = None
        if can_record(self.vqa.model):
            with record_activations(self.vqa.model) as inside:
                answer = self.vqa.ask(features, question)
            layers = zip(inside.before, inside.after, strict=True)
            for i, (before, after) in enumerate(layers, 1):
                maps[f"block {i}, before FiLM"] = before[0].float().norm(dim=0).cpu()
                maps[f"block {i}, after FiLM"] = after[0].float().norm(dim=0).cpu()
            if inside.pooled is not None:
                maps["places of the maximum pool"] = inside.places()[0]
            film = self.vqa.film(question)
        elif isinstance(self.vqa.model, Attentive):
            with self.vqa.model.record_attention() as attention:
                answer = self.vqa.ask(features, question)
            for step, places in enumerate(attention.places()[0], 1):
                maps[f"step {step}, attention"] = places
            tokens = self.vqa.vocabulary.encode(question)
            texts = self.vqa.vocabulary.decode(tokens).split(" ")
            words = (["start", *texts, "end"], attention.words()[0])
        else:
            answer = self.vqa.ask(features, question)
        gradient = self._gradient(features, question, answer.text)
        if gradient is not None:
            maps["gradient of the answer"] = gradient
        spec = self.vqa.backbone_spec
        maps = {name: on_picture(spec, features, values) for name, values in maps.items()}
        if answer.mask is not None:
            maps = {MASK: torch.from_numpy(answer.mask).float(), **maps}
        return Look(answer, film, unchanged, maps, words)

    def _gradient(self, features: Tensor, question: str, answer: str) -> Tensor | None:
        """The absolute gradient (H, W) of an answer's score by the features, summed over channels;
        None for a network that ignores the features, or predicts masks."""
        if not looks_at_images(self.vqa.model) or self.vqa.draws:
            return None
        from captum.attr import Saliency

        vocabulary = self.vqa.vocabulary
        tokens = torch.tensor([vocabulary.encode(question)])
        saliency = Saliency(lambda maps: self.vqa.model(maps, tokens).float())
        # A clone outside of inference mode can have gradients.
        inputs = features.clone()[None].float().requires_grad_()
        target = vocabulary.answers().index(answer)
        gradient: Tensor = saliency.attribute(inputs, target=target)[0].sum(0)
        return gradient.detach().cpu()
