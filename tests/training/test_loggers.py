from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import filmvqa
from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.system.errors import UserError
from filmvqa.system.layout import RunLayout
from filmvqa.training.loggers import JsonlLogger, build_loggers
from filmvqa.training.part_norms import PartNorms
from filmvqa.training.settings import LoggerSettings
from filmvqa.training.snapshots import SnapshotTaker
from tests.training.tiny_runs import Runs, loader_of, same

TENSORBOARD = {"logger": LoggerSettings(tensorboard=True)}


def events_of(runs: Runs) -> EventAccumulator:
    """All events that TensorBoard shows of a run."""
    kinds = dict.fromkeys(("tensors", "scalars", "histograms", "images"), 0)
    events = EventAccumulator(str(runs.folder / "run/tensorboard"), kinds)
    events.Reload()
    return events


def test_jsonl_forgets_what_comes_after_the_checkpoint(tmp_path: Path, capsys) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    logger = JsonlLogger(path, records=2)
    logger.log({"step": 3, "loss": 1.0})
    logger.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert capsys.readouterr().err == ""
    path.write_text('{"step": 1}\n{"step')  # another program truncated it
    JsonlLogger(path, records=2).close()
    assert path.read_text() == '{"step": 1}\n'
    assert "has 1 of the 2 records" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are listed in /proc")
def test_a_dropped_logger_leaves_no_descriptor(tmp_path: Path) -> None:
    count = lambda: len(list(Path("/proc/self/fd").iterdir()))  # noqa: E731
    gc.collect()  # closes files of other tests
    before = count()
    for _ in range(10):
        logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.close()
    logger.close()
    gc.collect()
    assert count() == before


def test_tensorboard_has_curves_histograms_and_examples(runs: Runs) -> None:
    """An interrupted run has no event twice."""
    runs.stop(13, run=TENSORBOARD)
    runs.train(run=TENSORBOARD)
    events = events_of(runs)
    losses = {r["step"]: r["loss"] for r in runs.metrics() if "loss" in r}
    scalars = events.Scalars("loss")
    assert [e.step for e in scalars] == list(losses) == [4, 8, 12, 16, 20, 24]
    assert [e.value for e in scalars] == pytest.approx(list(losses.values()))
    assert {"val_by_type/count", "gradient_norm/film_generator"} <= set(events.Tags()["scalars"])
    assert {"gamma/block_1", "beta/block_2"} <= set(events.Tags()["histograms"])
    assert [e.step for e in events.Histograms("gamma/block_1")] == [8, 16, 24]
    assert [e.step for e in events.Tensors("examples/text_summary")] == [8, 16, 24]
    table = events.Tensors("examples/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert table.startswith("|  | question | truth | answer | probability |")
    assert len(table.splitlines()) == 2 + 8


def test_loggers_do_not_change_what_is_trained(runs: Runs) -> None:
    runs.train("plain")
    runs.train("logged", run=TENSORBOARD)
    runs.assert_same("plain", "logged", "weights", "random", "optimizer", "sampler")
    assert runs.metrics("plain") == runs.metrics("logged")


def test_a_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="logger=tensorboard: needs the package tensorboard"):
        build_loggers(LoggerSettings(tensorboard=True), RunLayout(tmp_path), {})


@pytest.mark.parametrize("error", [TypeError("descriptors are too old"), RuntimeError("np.x")])
def test_a_broken_tensorboard_is_a_warning(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys, error: Exception
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> None:
            raise error

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Broken())
    runs.train(run=TENSORBOARD, max_steps=8)
    warning = f"TensorBoard does not start ({error}); continuing without it"
    assert capsys.readouterr().err.count(warning) == 1


@pytest.mark.parametrize("error", [ConnectionError, UserError])
@pytest.mark.parametrize("method", ["log", "show", "flush", "close"])
def test_any_error_of_a_logger_is_one_warning_and_ends_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys, method: str, error: type[Exception]
) -> None:
    """The run is trained to its end, also if a picture can no longer be read."""
    failing = Mock(**{f"{method}.side_effect": error("gone")})
    monkeypatch.setattr("filmvqa.training.loggers.TensorBoardLogger", lambda *_: failing)
    runs.train(run=TENSORBOARD)
    assert capsys.readouterr().err.count("TensorBoard stopped (gone); continuing without it") == 1
    assert failing.close.call_count == (2 if method == "close" else 1)
    assert getattr(failing, method).call_count == (2 if method == "close" else 1)
    assert runs.last()["progress"]["finished"]


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b"", None])
def test_pictures_that_cannot_be_read_are_not_shown(
    runs: Runs, tiny_world: Path, monkeypatch: pytest.MonkeyPatch, capsys, content: bytes | None
) -> None:
    """None stands for a folder that cannot be listed."""
    pictures = {i: runs.folder / f"{i}.png" for i in range(60)}
    for path in pictures.values() if content is not None else ():
        path.write_bytes(content or b"")
    find = Mock(return_value=pictures) if content is not None else Mock(side_effect=PermissionError)
    monkeypatch.setattr("filmvqa.training.snapshots.find_pictures", find)
    runs.train(run=TENSORBOARD)
    (warning,) = [x for x in capsys.readouterr().err.splitlines() if "warning: " in x]
    assert ("pictures for loggers" if content is None else "cannot be read as an image") in warning
    tags = events_of(runs).Tags()
    assert not tags["images"]
    assert "loss" in tags["scalars"]


def test_a_snapshot_that_fails_is_one_warning(runs: Runs, monkeypatch, capsys) -> None:
    monkeypatch.setattr(SnapshotTaker, "_take", Mock(side_effect=RuntimeError("no memory")))
    runs.train(run=TENSORBOARD)
    assert capsys.readouterr().err.count("warning: ") == 1
    assert runs.last()["progress"]["finished"]


def test_a_snapshot_has_what_the_network_answers(runs: Runs, tiny_world: Path) -> None:
    runs.train(precision="float32")
    vqa = filmvqa.load(runs.folder / "run", device="cpu", precision="float32")
    loader = loader_of(runs.data, "val")
    images = tiny_world / "images/val"
    taker = SnapshotTaker(loader, torch.arange(40), vqa.vocabulary, images, "float32")
    vqa.model.train()
    snapshot = taker.take(vqa.model)
    assert vqa.model.training
    vqa.model.eval()
    assert len(snapshot.examples) == 8
    for example, gamma, beta in zip(snapshot.examples, snapshot.gamma, snapshot.beta, strict=False):
        answer = vqa.ask(example.picture, example.question)
        assert example.answer == answer.text
        assert example.probability == pytest.approx(answer.probabilities[answer.text], abs=1e-3)
        film = vqa.film(example.question)
        torch.testing.assert_close(gamma, film.gamma)
        torch.testing.assert_close(beta, film.beta)
    taker = SnapshotTaker(loader, torch.arange(3), vqa.vocabulary, runs.folder / "no", "float32")
    assert [e.picture for e in taker.take(vqa.model).examples] == [None] * 3


def test_norms_by_part() -> None:
    """They are norms of each part as one vector; SGD's updates are lr times the gradients."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].bias.requires_grad = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    norms = PartNorms(model)
    assert norms.take() == {}
    model(torch.randn(5, 3)).square().sum().backward()
    expected = {
        name: float(
            torch.cat([w.grad.flatten() for w in part.parameters() if w.grad is not None]).norm()
        )
        for name, part in (("0", model[0]), ("2", model[2]))
    }
    norms.before_update()
    for weight in model.parameters():
        if weight.grad is not None:
            weight.grad *= 0.1  # like clipping
    optimizer.step()
    norms.after_update()
    record = norms.take()
    assert record["gradient_norm"] == pytest.approx(expected, rel=1e-5)
    assert record["update_norm"] == pytest.approx(
        {k: 0.05 * v for k, v in expected.items()}, rel=1e-4
    )
    assert norms.take() == {}


def test_the_best_checkpoints_are_kept(runs: Runs) -> None:
    runs.train(keep_best=2, eval_every=4)
    records = [r for r in runs.metrics() if "val_accuracy" in r]
    best = sorted(records, key=lambda r: -r["val_accuracy"])[:2]
    kept = sorted((runs.folder / "run").glob("step_*.pt"))
    assert [p.name for p in kept] == sorted(f"step_{r['step']:08d}.pt" for r in best)
    for path in kept:
        assert load_checkpoint(path)["progress"]["step"] == int(path.stem[5:])
    first = runs.folder / f"run/step_{best[0]['step']:08d}.pt"
    assert same(load_checkpoint(first)["weights"], runs.best()["weights"])
    runs.train("one")
    assert not list((runs.folder / "one").glob("step_*.pt"))
