"""Starting from another run's weights, training parts of a model, and parts of the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.models import build_model
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.training.transfer import count_weights, freeze_except, training_mode, warm_start
from tests.models.small_models import small
from tests.training.tiny_runs import Runs, evaluate, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """A run of a small FiLM."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, tiny_set, max_steps=8)
    return folder / "best.pt"


def test_a_runs_folder_means_its_best_checkpoint(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weight_decay=0,lr=1e-3"
    folder.mkdir()
    shutil.copy(trained, folder)
    model, new = grown(folder)
    assert warm_start(model, "film", folder, new) == (len(new.question) - 2, 2)
    files, _ = evaluate(folder)
    assert files.folder == folder / "evaluation"
    report = json.loads(files.report.read_text())
    assert report["checkpoint"] == str(folder / "best.pt")
    with pytest.raises(UserError, match=f"{tmp_path}: is a folder without best.pt; give"):
        load_checkpoint(tmp_path)


def grown(path: Path, **changes: object) -> tuple[torch.nn.Module, Vocabulary]:
    """A model for the checkpoint's vocabulary, reordered, with two more words and an answer."""
    content = load_checkpoint(path)
    old = Vocabulary.from_dict(content["vocabulary"])
    words = [*list(old.question)[:4], "zebra", *list(old.question)[4:], "yonder"]
    answers = ["eleven", *reversed(list(old.answer))]
    new = Vocabulary(
        {w: i for i, w in enumerate(words)}, old.program, {a: i for i, a in enumerate(answers)}
    )
    sizes = {"vocab_size": len(words), "num_answers": len(answers)}
    torch.manual_seed(7)
    return build_model("film", **content["model"]["kwargs"] | sizes | changes), new


def test_weights_are_copied_by_word_and_by_answer(trained: Path) -> None:
    model, new = grown(trained)
    fresh, _ = grown(trained)
    assert warm_start(model, "film", trained, new) == (len(new.question) - 2, 2)
    content = load_checkpoint(trained)
    old, theirs = Vocabulary.from_dict(content["vocabulary"]), content["weights"]
    mine, initial = model.state_dict(), fresh.state_dict()
    last = max(k for k in mine if k.startswith("classifier.mlp") and k.endswith("weight"))
    for name, rows, old_rows in (
        ("encoder.embedding.weight", new.question, old.question),
        (last, new.answer, old.answer),
    ):
        for token, i in rows.items():
            is_old = token in old_rows
            expected = theirs[name][old_rows[token]] if is_old else initial[name][i]
            assert torch.equal(mine[name][i], expected), token
    assert torch.equal(mine["blocks.0.conv.weight"], theirs["blocks.0.conv.weight"])


def test_checkpoints_that_do_not_fit_are_refused(trained: Path, tmp_path: Path) -> None:
    for changes, name, path, message in (
        ({"channels": 13}, "film", trained, "do not fit this model"),
        ({"num_blocks": 3}, "film", trained, r"only one has blocks\.2"),
        ({}, "mac", trained, "is a film, not a mac"),
        ({}, "film", tmp_path / "none.pt", "no such checkpoint"),
    ):
        model, new = grown(trained, **changes)
        with pytest.raises(UserError, match=message):
            warm_start(model, name, path, new)


@pytest.mark.parametrize("part", ["film_generator", "encoder", "film_generator.task_offset"])
def test_only_the_named_part_changes(
    runs: Runs, part: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = {"generator": {"task_offset": True}} if "offset" in part else {}
    runs.train(max_steps=8, model=generator, run={"init_from": trained, "trainable": [part]})
    before = load_checkpoint(trained)["weights"]
    after = runs.last()["weights"]
    changed = {k for k, v in after.items() if k not in before or not torch.equal(v, before[k])}
    assert changed
    assert all(name.startswith(part) for name in changed), changed  # batch norm's statistics too
    trained_weights = sum(v.numel() for k, v in after.items() if k.startswith(part))
    assert f"{trained_weights:,} of them trained" in capsys.readouterr().out


def test_frozen_parts_are_in_evaluation_mode() -> None:
    model = small("film")
    freeze_except(model, ["film_generator"])
    training_mode(model)
    parts = (model, model.film_generator, model.stem, model.encoder)
    assert [part.training for part in parts] == [True, True, False, False]
    total, trained_weights = count_weights(model)
    assert trained_weights == sum(w.numel() for w in model.film_generator.parameters()) < total
    with pytest.raises(UserError, match="no part 'film'; it has encoder, stem, blocks"):
        freeze_except(model, ["film"])


def test_batch_norms_of_frozen_parts_can_update_their_statistics() -> None:
    """As in the original code."""
    model = small("film", block={"dropout": 0.5, "norm_affine": True})
    freeze_except(model, ["film_generator"])
    for frozen in ("train", "eval"):
        training_mode(model, frozen)
        for part in (model.stem, model.blocks, model.classifier):
            norms = [
                m for m in part.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
            ]
            assert norms
            assert all(norm.training == (frozen == "train") for norm in norms)
        assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.Dropout2d))


def test_the_rest_of_a_trained_parts_module_stays_frozen() -> None:
    block = {"conditioning": "spatial_film", "norm_affine": True, "dropout": 0.5}
    model = small("film", block=block)
    freeze_except(model, ["film_generator", "blocks.0.condition"])
    training_mode(model)
    first = model.blocks[0]
    assert first.condition.training
    assert not any(part.training for part in (first.norm, first.conv, model.blocks[1]))


@pytest.mark.parametrize(
    ("conditioning", "generator"),
    [("film", {"decoder": "gru"}), ("guide", {"word_attention": True}), ("film", {})],
)
def test_a_new_generator_of_a_network_without_language_first_changes_nothing(
    runs: Runs, conditioning: str, generator: dict
) -> None:
    base = runs.folder / "base/best.pt"
    plain_model = {"film_blocks": [False, False], "block": {"norm_affine": True}}
    runs.train("base", max_steps=8, model=plain_model)
    content = load_checkpoint(base)
    model = {
        "film_blocks": [True, True], "generator": generator,
        "block": {"norm_affine": True, "conditioning": conditioning},
    }  # fmt: skip
    conditioned = build_model("film", **content["model"]["kwargs"] | model).eval()
    vocabulary = Vocabulary.from_dict(content["vocabulary"])
    with pytest.raises(UserError, match=r"only one has film_generator\.decoder"):
        warm_start(conditioned, "film", base, vocabulary)
    warm_start(conditioned, "film", base, vocabulary, new_parts=["encoder", "film_generator"])
    plain, _ = model_from_checkpoint(content, base)
    features, words = torch.randn(3, *content["model"]["kwargs"]["feature_shape"]), torch.ones(3, 4)
    assert torch.equal(conditioned(features, words.long()), plain.eval()(features, words.long()))
    run = {"init_from": base, "trainable": ["encoder", "film_generator"]}
    runs.train(max_steps=8, model=model, run=run)
    before, after = content["weights"], runs.last()["weights"]
    changed = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before.get(k, v))}
    assert changed == {"encoder"}
    assert after["film_generator.decoder.0.weight" if not generator.get("decoder") else
                 "film_generator.decoder.linear.weight"].abs().sum() > 0  # fmt: skip


def test_frozen_batch_norms_change_only_their_statistics(runs: Runs) -> None:
    weights = {}
    for frozen in ("eval", "train"):
        run = {"trainable": ["film_generator"], "frozen_batch_norm": frozen}
        runs.train(frozen, max_steps=8, run=run)
        weights[frozen] = runs.last(frozen)["weights"]
    changed = {k for k, v in weights["eval"].items() if not torch.equal(v, weights["train"][k])}
    outside = {name for name in changed if not name.startswith("film_generator.")}
    assert "stem.layers.1.running_mean" in outside
    assert all("running_" in name or "num_batches" in name for name in outside)


@given(st.floats(0.02, 1.0), st.integers(0, 1000))
def test_a_fraction_is_whole_images_and_nested(tiny_set: Path, fraction: float, seed: int) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    questions = QuestionDataset.load(tiny_set / "train_questions.h5", vocabulary)
    part = questions.image_subset(fraction, seed)
    assert len(part.images) == round(60 * fraction)
    assert set(questions.images[part.rows].tolist()) == set(part.images.tolist())
    assert not set(questions.images[part.other_rows].tolist()) & set(part.images.tolist())
    assert sorted(part.rows.tolist() + part.other_rows.tolist()) == list(range(len(questions)))
    smaller = questions.image_subset(fraction / 2 + 0.01, seed)
    assert set(smaller.images.tolist()) <= set(part.images.tolist()) or fraction < 0.02


def test_a_split_can_train_and_validate_on_different_images(runs: Runs) -> None:
    best = runs.train(splits=("val", "val"), run={"fraction": 0.4}, max_steps=8)
    assert len(runs.best()["train_images"]) == 8
    other = shutil.copytree(runs.data, runs.folder / "other_set")  # counts as other images
    for split, h5, left_out in (("train", None, 0), ("val", other, 0), ("val", None, 8)):
        files, report = evaluate(runs.folder / "run", split, h5=h5)
        assert report["images_left_out"] == left_out
    assert report["overall"]["questions"] == 12 * 10
    assert report["overall"]["accuracy"] == pytest.approx(best)
    assert len(files.predictions.read_text().splitlines()) == 120


def test_the_same_fraction_and_seed_is_the_same_part(runs: Runs) -> None:
    images = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        runs.train(name, seed=seed, run={"fraction": 0.3}, max_steps=8)
        images.append(runs.last(name)["train_images"].tolist())
        record = json.loads((runs.folder / name / "train_images.json").read_text())
        assert record == {"split": "train", "fraction": 0.3, "seed": seed, "images": images[-1]}
    assert images[0] == images[1] != images[2]
