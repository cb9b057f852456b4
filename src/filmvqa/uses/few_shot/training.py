"""Training of a network on known words and of a learner on episodes, and a learner's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from tqdm import tqdm

from filmvqa.uses.few_shot.concepts import Bools
from filmvqa.uses.few_shot.episodes import SHOTS, Episode, Episodes
from filmvqa.uses.few_shot.learners import Learner
from filmvqa.uses.few_shot.network import LAYERS, ConceptNetwork

#: Number of episodes in a step.
BATCH = 16
_SHOWN = 2 * SHOTS


def read_batch(features: Tensor, episodes: Sequence[Episode]) -> tuple[Tensor, Tensor]:
    """Read features (E, 20, P, C) and labels (E, 20) of episodes from features (N, P, C)."""
    rows = torch.from_numpy(np.stack([episode.pictures for episode in episodes]))
    labels = torch.from_numpy(np.stack([episode.labels for episode in episodes]))
    return features[rows].float(), labels.float()


def train_words(
    network: ConceptNetwork, features: Tensor, episodes: Episodes, *, steps: int, seed: int
) -> None:
    """Train a network on the known words, as question answering does: each word has its own γ, β.

    All learners begin from this network; without it, meta-learning stays on a plateau for long. As
    in TADAM's auxiliary task, a linear layer also predicts all words from embeddings with γ = 1
    and β = 0. The words' γ and β and this layer are discarded.
    """
    words = torch.from_numpy(episodes.concepts)
    place = {int(word): i for i, word in enumerate(words)}
    table = nn.Parameter(torch.zeros(len(words), 2, LAYERS, network.width))
    head = nn.Linear(network.width, len(words))
    weights = [*network.parameters(), table, *head.parameters()]
    optimizer = torch.optim.Adam(weights)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    generator = np.random.default_rng(seed)
    all_labels = torch.from_numpy(episodes.labels[:, episodes.concepts]).float()  # (N, 63)
    for _ in tqdm(range(steps), desc="known words", leave=False, unit="step"):
        drawn = episodes.draw_many(generator, BATCH)
        x, labels = read_batch(features, drawn)
        change = table[[place[episode.concept] for episode in drawn]]  # (E, 2, L, W)
        logits = vmap(lambda x, d: network(x, 1 + d[0], d[1])[0])(x, change)
        embeddings = network(x.flatten(0, 1), **network.unmodulated())[1]
        rows = np.concatenate([episode.pictures for episode in drawn])
        of_all = cross_entropy(head(embeddings), all_labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(logits, labels) + 0.3 * of_all)
        optimizer.step()
        schedule.step()


def answer(learner: Learner, weights: Mapping[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Logits (E, 10) for a batch of episodes."""

    def one(x: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = functional_call(
            learner, dict(weights), (x[:_SHOWN], labels[:_SHOWN], x[_SHOWN:])
        )
        return logits

    logits: Tensor = vmap(one)(x, labels)
    return logits


def train(
    learner: Learner, features: Tensor, episodes: Episodes, *, steps: int, rate: float, seed: int,
    name: str = "",
) -> None:  # fmt: skip
    """Train a learner on episodes by Adam, with a cosine schedule.

    Parameters
    ----------
    features
        (N, P, C) features of the pictures of ``episodes``.
    """
    weights = dict(learner.named_parameters())
    if not weights:
        return
    optimizer = torch.optim.Adam(weights.values(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = np.random.default_rng(seed)
    for _ in tqdm(range(steps), desc=name, leave=False, unit="step"):
        x, labels = read_batch(features, episodes.draw_many(generator, BATCH))
        loss = cross_entropy(answer(learner, weights, x, labels), labels[:, _SHOWN:])
        optimizer.zero_grad()
        torch.autograd.backward(loss + learner.penalty())
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        schedule.step()


def answer_all(learner: Learner, features: Tensor, episodes: Sequence[Episode]) -> Bools:
    """(E, 10) a learner's answers to episodes."""
    weights = {name: value.detach() for name, value in learner.named_parameters()}
    answers = []
    for first in range(0, len(episodes), BATCH):
        x, labels = read_batch(features, episodes[first : first + BATCH])
        answers.append(answer(learner, weights, x, labels).detach() > 0)
    answered: Bools = torch.cat(answers).numpy()
    return answered
