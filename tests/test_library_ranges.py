"""What configurations refuse, library functions with plain arguments refuse too."""

from __future__ import annotations

import re
from pathlib import Path

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
from filmvqa.system.devices import choose_device
from filmvqa.system.errors import UserError
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings
from filmvqa.worlds.clevr.cell_labels import pretraining_examples
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_rules import SceneRules
from tests.conftest import set_in


@pytest.mark.parametrize("name", ["meta", "xpu", "cuda:99", "cuda:-1", "cuda:x", "gpu", "", "CPU"])
def test_devices_that_are_not_there_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"^device='?{re.escape(name)}"):
        choose_device(name)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"batch_size": 0}, "batch_size"), ({"threads": -1}, "threads"), ({"threads": 0}, "threads"),
     ({"precision": "bf16"}, "precision")],
)  # fmt: skip
def test_extraction(options: dict, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}="):
        ExtractionSettings(**options)


@pytest.mark.parametrize("size", [(0, 0), (224,)])
def test_sizes_of_images(size: tuple, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^image_size="):
        Extraction(tmp_path, tmp_path / "x.h5", "val", build_backbone("pixels"), size)


def test_evaluation(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^precision='bf16': must be one of auto, float32, bfloat16"
    ):
        evaluate_checkpoint(
            EvaluateSettings(checkpoint=tmp_path / "best.pt", split="val", precision="bf16")
        )


def test_store(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^store='disk': must be one of auto, device, memory, stream"
    ):
        open_feature_store(tmp_path / "x.h5", placement="disk")


def test_workers_of_the_generator(tmp_path: Path) -> None:
    for workers in (0, -1):
        with pytest.raises(UserError, match=f"^workers={workers}: must be a whole number from 1"):
            generate(tmp_path, GeneratorSettings(images={"val": 1}), workers)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "key"),
    [({"seed": -1}, "seed"), ({"seed": 2**64}, "seed"), ({"device": "gpu"}, "device"),
     ({"store": "disk"}, "store"), ({"optim": {}}, "optim"),
     ({"model": {"name": "flim"}}, "model.name"), ({"model": {}}, "model.name"),
     ({"model": {"name": "film", "vocab_size": 3}}, "model.vocab_size"),
     ({"model": {"name": "film", "channels": 0}}, "model.channels")],
)  # fmt: skip
def test_runs(options: dict, key: str, tmp_path: Path) -> None:
    arguments = {
        "data": set_in(tmp_path), "model": {"name": "film"}, "optim": OptimSettings(),
        "trainer": TrainerSettings(),
    }  # fmt: skip
    RunSettings(**arguments)
    with pytest.raises(UserError, match=rf"^{re.escape(key)}[=:]"):
        RunSettings(**{**arguments, **options})


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


def test_pretraining_needs_a_batch_of_each_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^images=10: must be at least 768"):
        settings = PretrainSettings(output=tmp_path / "x.safetensors", images=10)
        pretrain(settings, pretraining_examples())


def test_rules_that_no_scene_can_follow() -> None:
    with pytest.raises(UserError, match=r"^data\.generator\.rules\.cogent"):
        SceneRules(cogent="A", shapes=("cube",), colors=("red",))


@pytest.mark.parametrize("value", [[1, 0, 1, 0], [True, False, True, False]])
def test_film_blocks_may_be_numbers(value: list) -> None:
    model = {"name": "film", "film_blocks": value}
    check_model(model)
    with torch.device("meta"):
        built = build_model(vocab_size=5, num_answers=3, feature_shape=[3, 8, 8], **model)
    assert built.conditioned_blocks == [True, False, True, False]
