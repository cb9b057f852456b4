"""Concepts, episodes and the ideal learner."""

from __future__ import annotations

import json

import numpy as np
import pytest

from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.uses.few_shot.concepts import CONCEPTS, MEMBERS, hold_out, present_classes
from filmvqa.uses.few_shot.episodes import Episodes, answer_ideally
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES, read_scenes


@pytest.fixture(scope="module")
def scenes(picture_set: DatasetLayout) -> list[dict]:
    return json.loads(picture_set.scene_json("train").read_text())["scenes"]


@pytest.fixture(scope="module")
def episodes(picture_set: DatasetLayout) -> Episodes:
    present = present_classes(read_scenes(picture_set.scene_json("train")).scenes)
    return Episodes(present, np.arange(len(CONCEPTS)), "train")


def has_x(scene: dict, concept: dict[str, str]) -> bool:
    return any(concept.items() <= thing.items() for thing in scene["objects"])


def test_there_are_15_values_and_72_pairs_of_which_24_are_held_out() -> None:
    assert [len(c) for c in CONCEPTS] == [1] * 15 + [2] * 72
    assert len({frozenset(c.items()) for c in CONCEPTS}) == 87
    held = hold_out()
    assert held[:15].sum() == 4 and held[15:].sum() == 20
    assert (held == hold_out()).all()
    assert MEMBERS.sum(1)[:8].max() == 48  # half of all classes are large


def test_labels_are_those_of_the_scenes(scenes: list[dict], episodes: Episodes) -> None:
    for c in range(len(CONCEPTS)):
        assert [has_x(scene, CONCEPTS[c]) for scene in scenes] == episodes.labels[:, c].tolist()


def is_near(thing: dict, other: dict, concept: dict[str, str]) -> bool:
    differing = [name for name in ATTRIBUTES if thing[name] != other[name]]
    return len(differing) == 1 and differing[0] in concept


def test_half_of_the_pictures_without_an_x_are_near_misses(
    scenes: list[dict], episodes: Episodes
) -> None:
    shares = []
    for episode in episodes.draw_many(np.random.default_rng(3), 174):
        concept = CONCEPTS[episode.concept]
        assert len(set(episode.pictures.tolist())) == 20
        assert [has_x(scenes[p], concept) for p in episode.pictures] == episode.labels.tolist()
        assert episode.labels[:10].sum() == episode.labels[10:].sum() == 5
        xs = [thing for p in episode.pictures[episode.labels] for thing in scenes[p]["objects"]
              if concept.items() <= thing.items()]  # fmt: skip
        near = [
            any(is_near(thing, x, concept) for thing in scenes[p]["objects"] for x in xs)
            for p in episode.pictures[~episode.labels]
        ]
        shares.append(np.mean(near))
    assert np.mean(np.array(shares) == 0.5) > 0.9  # few pictures may lack "metal"


def test_an_episode_is_drawn_alike_from_a_seed(episodes: Episodes) -> None:
    one, other = (episodes.draw(np.random.default_rng(5), 20) for _ in range(2))
    assert (one.pictures == other.pictures).all()


def test_small_batches_take_all_concepts(episodes: Episodes) -> None:
    generator = np.random.default_rng(6)
    drawn = {e.concept for _ in range(40) for e in episodes.draw_many(generator, 16)}
    assert drawn == {*range(len(CONCEPTS))}


def test_pictures_without_enough_of_a_concept_are_refused(episodes: Episodes) -> None:
    with pytest.raises(UserError, match=r"val: .* of 20 pictures .* generate more"):
        Episodes(episodes.present[:20], np.arange(len(CONCEPTS)), "val")


def test_the_ideal_learner_weighs_all_concepts_that_fit(
    scenes: list[dict], episodes: Episodes
) -> None:
    """Compare with loops over scenes and concepts."""
    right = []
    for episode in episodes.draw_many(np.random.default_rng(7), 87):
        shown = list(zip(episode.pictures[:10], episode.labels[:10], strict=True))
        fitting = [c for c in CONCEPTS if all(has_x(scenes[p], c) == label for p, label in shown)]
        assert CONCEPTS[episode.concept] in fitting
        weight = {id(c): sum(has_x(scene, c) for scene in scenes) ** -5.0 for c in fitting}
        total = sum(weight.values())
        answers = [
            sum(weight[id(c)] for c in fitting if has_x(scenes[p], c)) > total / 2
            for p in episode.pictures[10:]
        ]
        assert answer_ideally(episodes.labels, episode).tolist() == answers
        right.append(np.mean(answers == episode.labels[10:]))
    assert np.mean(right) > 0.95
