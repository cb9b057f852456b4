"""Arithmetic on γ and β, and on encodings, in evaluated networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.models.protocols import record_modulation
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError
from filmvqa.uses.zero_shot.arithmetic import apply_sums, build_change
from tests.conftest import run_script
from tests.models.small_models import small
from tests.training.tiny_runs import train

OWN, FIRST, SECOND, THIRD, PLAIN = [1, 7, 9, 2], [1, 7, 5, 2], [1, 6, 9, 4, 2], [1, 6, 5, 2], [1, 3]
SUMS = {tuple(OWN): [(1.0, FIRST), (1.0, SECOND), (-1.0, THIRD)]}


def tokens(*questions: list[int]) -> Tensor:
    return torch.tensor([[*q, *[0] * (5 - len(q))] for q in questions])


def network(decoder: str, **options: Any) -> torch.nn.Module:
    generator = {"decoder": decoder, **options}
    return small("film", reads=True, generator=generator).eval().double()


def changed(model: torch.nn.Module, *, of_encodings: bool) -> tuple[Tensor, ...]:
    """Answer two questions; return γ before, γ, β and keys after, and the logits."""
    features = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    with (
        torch.no_grad(), record_modulation(model) as before,
        apply_sums(model, SUMS, of_encodings=of_encodings), record_modulation(model) as after,
    ):  # fmt: skip
        logits = model(features, tokens(OWN, PLAIN))
    used = after[-1]
    return before[0].gamma, used.gamma, used.beta, used.key, logits


@pytest.mark.parametrize("fast", [False, True])
def test_each_of_gamma_beta_and_keys_is_the_sum(fast: bool) -> None:
    model = network("mlp")
    if fast:
        accelerate(model)
    _, *used, logits = changed(model, of_encodings=False)
    with torch.no_grad():
        parts = model.modulate(tokens(FIRST, SECOND, THIRD, PLAIN))
        for got, of_parts in zip(used, (parts.gamma, parts.beta, parts.key), strict=True):
            torch.testing.assert_close(got[0], of_parts[0] + of_parts[1] - of_parts[2])
            torch.testing.assert_close(got[1], of_parts[3])
        features = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(1)).double()
        plain = model(features, tokens(OWN, PLAIN))  # the change has ended
    torch.testing.assert_close(plain[1], logits[1])
    assert not torch.allclose(plain[0], logits[0])


@pytest.mark.parametrize(("decoder", "same"), [("linear", True), ("mlp", False), ("gru", False)])
def test_only_with_a_linear_decoder_it_is_arithmetic_on_the_encoding(
    decoder: str, same: bool
) -> None:
    """The weights add up to 1, which keeps biases and γ's baseline."""
    of_film = changed(network(decoder), of_encodings=False)[1:]
    of_encodings = changed(network(decoder), of_encodings=True)[1:]
    for one, other in zip(of_film, of_encodings, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5) == same


def test_an_encoding_that_is_not_all_is_refused() -> None:
    with pytest.raises(UserError, match=r"^film\.arithmetic_on=encoding: this network's γ and β"):
        apply_sums(network("linear", word_attention=True), SUMS, of_encodings=True)
    with pytest.raises(UserError, match=r"^film\.arithmetic: this model has no γ and β"):
        apply_sums(small("mac"), SUMS)


@pytest.fixture(scope="module")
def run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero_shot") / "run"
    train(folder, tiny_set, precision="float32", max_steps=48)
    return folder


def evaluated(run: Path, output: Path, h5: Path | None = None, **film: Any) -> dict[int, str]:
    """The answers of an evaluation by question."""
    settings = EvaluateSettings(
        checkpoint=run, split="val", output=output, device="cpu", precision="float32", h5=h5
    )
    files, _ = evaluate_checkpoint(settings, build_change(FilmSettings(**film)))
    records = map(json.loads, files.predictions.read_text().splitlines())
    return {record["question_index"]: record["answer"] for record in records}


def test_only_questions_that_it_concerns_are_asked(run: Path, tmp_path: Path) -> None:
    plain = evaluated(run, tmp_path)
    direct = evaluated(run, tmp_path, arithmetic="direct")
    assert 0 < len(direct) < len(plain)
    assert direct.items() <= plain.items()
    of_cogent = evaluated(run, tmp_path, arithmetic="cogent")
    assert of_cogent.keys() == direct.keys()
    assert of_cogent != direct
    on_encodings = evaluated(run, tmp_path, arithmetic="cogent", arithmetic_on="encoding")
    assert on_encodings == of_cogent  # the decoder is linear
    assert evaluated(run, tmp_path, arithmetic="cogent", pairs="has").keys() != direct.keys()
    names = {path.name for path in tmp_path.glob("arithmetic_*")}
    assert names == {
        f"arithmetic_{name}" for name in ("direct", "cogent", "cogent_encoding", "cogent_has")
    }


def test_what_cannot_be_rewritten_is_one_line(run: Path, tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^film\.arithmetic=cogent: is given without other"):
        FilmSettings(arithmetic="cogent", scale=2.0)
    h5 = shutil.copytree(tiny_set, tmp_path / "h5")
    with h5py.File(h5 / "val_questions.h5", "r+") as file:
        del file["programs"], file.attrs["sha256"]
    with pytest.raises(UserError, match=r"^film\.arithmetic: .*val_questions\.h5 has no programs"):
        evaluated(run, tmp_path, h5, arithmetic="cogent")


@pytest.mark.slow
def test_it_is_an_option_of_the_script(run: Path, tmp_path: Path) -> None:
    done = run_script(
        "evaluate.py", f"checkpoint={run}", f"output={tmp_path}", "device=cpu",
        "film.arithmetic=cogent", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "questions have a phrase that is rewritten" in done.stdout
    assert (tmp_path / "arithmetic_cogent/val.json").exists()
