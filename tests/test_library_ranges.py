"""Library functions refuse the same values in plain arguments as configurations do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.pretrain import pretrain
from filmvqa.backbones.settings import ExtractionSettings, PretrainSettings
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.features.store import open_feature_store
from filmvqa.models import build_model, check_model
from filmvqa.questions.sampler import EpochSampler
from filmvqa.questions.settings import DataSettings
from filmvqa.system.devices import choose_device
from filmvqa.system.errors import UserError
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings
from filmvqa.worlds.clevr.cell_labels import pretraining_examples
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_rules import SceneRules


@pytest.mark.parametrize("name", ["meta", "xpu", "cuda:99", "cuda:-1", "cuda:x", "gpu", "", "CPU"])
def test_devices_that_are_not_there_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"^device='?{re.escape(name)}"):
        choose_device(name)


def run(**options: Any) -> RunSettings:
    arguments = {
        "data": DataSettings(name="x", root=Path()), "model": {"name": "film"},
        "optim": OptimSettings(), "trainer": TrainerSettings(),
    }  # fmt: skip
    settings = RunSettings(**{**arguments, **options})
    settings.check_models()
    return settings


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        # One key of each type: tests/cli/test_settings.py tests all keys.
        (ExtractionSettings, {"threads": 0}, "threads="),
        (ExtractionSettings, {"precision": "bf16"}, "precision="),
        (OptimSettings, {"name": "sgd"}, r"optim\.name='sgd': must be one of adam, adamw"),
        (OptimSettings, {"lr": -1}, r"optim\.lr=-1: must be a finite number above 0"),
        (TrainerSettings, {"ema_decay": 1.0}, r"trainer\.ema_decay=1.0"),
        (SceneRules, {"cogent": "A", "shapes": ("cube",), "colors": ("red",)},
         r"data\.generator\.rules\.cogent"),
        (run, {"seed": 2**64}, "seed="),
        (run, {"device": "gpu"}, "device="),
        (run, {"optim": {}}, "optim[=:]"),
        (run, {"model": {"name": "flim"}}, r"model\.name[=:]"),
        (run, {"model": {}}, r"model\.name[=:]"),
        (run, {"model": {"name": "film", "vocab_size": 3}}, r"model\.vocab_size[=:]"),
        (run, {"model": {"name": "film", "channels": 0}}, r"model\.channels="),
    ],
)  # fmt: skip
def test_settings(make: Callable[..., Any], options: dict, message: str) -> None:
    make()
    with pytest.raises(UserError, match=f"^{message}"):
        make(**options)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda p: Extraction(p, p / "x.h5", "val", build_backbone("pixels"), (0, 0)),
         "image_size="),
        (lambda p: Extraction(p, p / "x.h5", "val", build_backbone("pixels"), (224,)),
         "image_size="),
        (lambda p: evaluate_checkpoint(
            EvaluateSettings(checkpoint=p, split="val", precision="bf16")),
         "precision='bf16': must be one of auto, float32, bfloat16"),
        (lambda p: open_feature_store(p / "x.h5", placement="disk"),
         "store='disk': must be one of auto, device, memory, stream"),
        (lambda p: generate(p, GeneratorSettings(images={"val": 1}), 0),
         "workers=0: must be a whole number from 1"),
        (lambda p: generate(p, GeneratorSettings(images={"val": 1}), -1),
         "workers=-1: must be a whole number from 1"),
        # It needs a batch of each size.
        (lambda p: pretrain(PretrainSettings(output=p / "x", images=10), pretraining_examples()),
         "images=10: must be at least 768"),
    ],
)  # fmt: skip
def test_functions(work: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        work(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_seed_may_be_a_time_in_nanoseconds() -> None:
    rows = torch.arange(9)
    for seed in (1764075000123456789, 2**63 - 1):
        sampler, again = EpochSampler(rows, 4, seed), EpochSampler(rows, 4, seed)
        assert torch.equal(sampler.rows(3, 0), again.rows(3, 0))
        assert sorted(torch.cat([sampler.rows(1, b) for b in range(3)]).tolist()) == rows.tolist()
    orders = {
        tuple(EpochSampler(rows, 9, s).rows(e, 0).tolist()) for s in (0, 2**62 + 5) for e in (0, 1)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("value", [[1, 0, 1, 0], [True, False, True, False]])
def test_film_blocks_may_be_numbers(value: list) -> None:
    model = {"name": "film", "film_blocks": value}
    check_model(model)
    with torch.device("meta"):
        built = build_model(vocab_size=5, num_answers=3, feature_shape=[3, 8, 8], **model)
    assert built.conditioned_blocks == [True, False, True, False]
