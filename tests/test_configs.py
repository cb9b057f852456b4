"""Every config can be composed and instantiated."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import shutil
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from filmvqa.cli import overrides
from filmvqa.cli.ablations import read_ablations
from filmvqa.cli.command import typed_settings
from filmvqa.cli.settings import ExtractSettings
from filmvqa.models import MODELS, build_model, targets_of
from filmvqa.models.vision import Stem
from filmvqa.questions.settings import CurriculumStage
from filmvqa.settings.nested import flatten
from filmvqa.settings.typed import settings_from
from filmvqa.studies.claims import belongs, read_claim
from filmvqa.studies.judging import find_setting, group_settings
from filmvqa.studies.raw_results import ScoredRun
from filmvqa.studies.sweeps import SweepRun
from filmvqa.system.errors import UserError
from filmvqa.training.optimizer import build_optimizer, build_schedule
from filmvqa.training.settings import RunSettings
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.engine.families import read_families
from tests.conftest import REPOSITORY, heavy_imports

CONFIGS = REPOSITORY / "configs"
#: Sets that scripts/import_questions.py writes.
OWN = {"own", "easy_vqa"}
PRIMARY = sorted(p.stem for p in CONFIGS.glob("[a-z]*.yaml"))


def options(group: str) -> list[str]:
    folder = CONFIGS / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def compose_config(name: str, *arguments: str, hydra: bool = False) -> DictConfig:
    return overrides.compose_config(CONFIGS, name, arguments, return_hydra_config=hydra)


def composed(name: str, *arguments: str) -> dict:
    return OmegaConf.to_container(compose_config(name, *arguments), resolve=True)


def build_on_meta(options: dict, feature_shape: list[int], **outputs: Any) -> torch.nn.Module:
    """A config's model without memory for its weights."""
    with torch.device("meta"):
        return build_model(vocab_size=9, feature_shape=feature_shape, **options, **outputs)


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configs_belong_to_scripts_and_compose(name: str) -> None:
    assert (REPOSITORY / f"scripts/{name}.py").is_file()
    assert "debug" in compose_config(name)


@pytest.mark.parametrize("name", options("data"))
def test_data_configs(name: str) -> None:
    data = composed("extract_features", f"data={name}")["data"]
    assert {"root", "images", "h5", "features", "train_split", "val_split", "backbone"} <= set(data)
    made = sum(data.get(how) is not None for how in ("generator", "sound", "download"))
    assert made == (name not in OWN)
    settings_from(composed("extract_features", f"data={name}"), ExtractSettings)
    if data["generator"] is not None:
        settings = msgspec.convert(data["generator"], GeneratorSettings)
        assert set(data["generator"]["rules"]) == {f.name for f in fields(SceneRules)}
        fewer = {
            "mini",
            "referring",
            "correction",
            "correction_hints",
            "lab",
            "debug",
            "cogent_both",
        }
        changed = {key: {"max_objects"} for key in fewer}
        changed["cogent_mini"] = {"max_objects", "cogent"}
        for field in fields(SceneRules):
            same = getattr(settings.rules, field.name) == getattr(SceneRules(), field.name)
            assert same != (field.name in changed.get(name, {})), field.name
        used = {split for split, count in settings.images.items() if count}
        assert {data["train_split"], data["val_split"]} <= used
        read_families(settings.templates, settings.families)


@pytest.mark.parametrize(
    "group",
    ["model", "optim", "trainer", "logger", "experiment", "experiment/ablation", "sweep"],
)
def test_every_training_config_composes(group: str) -> None:
    names = read_ablations() if group == "experiment/ablation" else options(group)
    for name in names:
        check_training(composed("train", f"{group}={name}", "run=x"))


def check_training(config: dict) -> None:
    outputs = {"answers": {"num_answers": 5}, "masks": {"mask_size": [112, 112]},
               "label_maps": {"mask_size": [112, 112], "num_maps": 7}}  # fmt: skip
    shape = [7, 56, 56]  # large enough for the four strides of a stem for pixels
    outputs = outputs[targets_of(config["model"]["name"])]
    model = build_on_meta(config["model"], shape, **outputs)
    settings = settings_from(config, RunSettings)
    build_schedule(build_optimizer(model, settings.optim), settings.optim, 10)


@pytest.mark.parametrize("name", MODELS)
def test_every_option_of_a_model_stands_in_its_config(name: str) -> None:
    """So users can find it, and give it on the command line."""
    config = composed("train", f"model={name}", "run=x")["model"]
    assert config.pop("name") == name
    assert set(config) == keyword_options(MODELS[name])
    for group, part in getattr(MODELS[name], "OPTION_GROUPS", {}).items():
        assert set(config[group]) == keyword_options(part), group


def keyword_options(module: type[torch.nn.Module]) -> set[str]:
    parameters = inspect.signature(module).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_coordinates_of_a_part_are_by_default_the_networks() -> None:
    for override, expected in (
        ("model.coordinates=inputs", 9), ("model.coordinates=none", 7),
        ("model.stem.coordinates=false", 7),
    ):  # fmt: skip
        config = composed("train", "model=film_small", override, "run=x")
        model = build_on_meta(config["model"], [7, 14, 14], num_answers=5)
        assert model.stem.layers[0].weight.shape[1] == expected, override


@pytest.mark.parametrize("override", ["experiment=film_clevr_pixels",
                                      "experiment/ablation=pixels"])  # fmt: skip
def test_the_stem_for_pixels_is_the_originals(override: str) -> None:
    """scripts/train/film_pixels.sh: four layers with 4×4 kernels, stride 2, padding 1, without
    coordinates."""
    stem = composed("train", override, "run=x")["model"]["stem"]
    assert stem == {"strides": [2, 2, 2, 2], "kernel_size": 4, "padding": 1, "norm": True,
                    "coordinates": False, "rows_as_channels": False}  # fmt: skip
    with torch.device("meta"):
        assert Stem(3, 128, **stem).output_size(224, 224) == (14, 14)


BASELINE = {
    "trainer.batch_size": 64, "optim.lr": 5e-4, "optim.weight_decay": 0,
    "model.embedding_dim": 300, "model.hidden_dim": 256, "model.num_layers": 2,
    "model.classifier_norm": "none", "model.classifier_dropout": 0,
}  # fmt: skip
#: The values of each experiment: the paper's; those of the original code's
#: scripts/train/film_humans.sh, preprocess_human.sh, and vr/embedding.py (new words); the defaults
#: of its scripts/train_model.py; and those of TRAINING.md for CNN+LSTM+SA.
RECIPES: dict[str, dict[str, Any]] = {
    "film_clevr": {
        "optim.name": "adam", "optim.lr": 3e-4, "optim.weight_decay": 1e-5,
        "optim.part_weight_decay.encoder": None, "optim.part_weight_decay.film_generator": None,
        "optim.decay_norms_and_biases": True, "optim.fused": True, "optim.schedule": "constant",
        "optim.warmup_steps": 0, "trainer.batch_size": 64,
        "model.encoder.embedding_dim": 200, "model.encoder.hidden_dim": 4096,
        "model.channels": 128, "model.num_blocks": 4,
        "model.classifier.projection_dim": 512, "model.classifier.hidden_dims": [1024],
        "data.backbone.name": "resnet101", "data.image_size": [224, 224],
    },
    "humans": {
        "optim.lr": 3e-4, "optim.weight_decay": 1e-5, "train.new_words_std": 0.01,
        "train.trainable": ["encoder", "film_generator"], "train.frozen_batch_norm": "train",
    },
    "lstm_clevr": BASELINE | {"trainer.max_steps": 100_000},
    "cnn_lstm_clevr": BASELINE | {"trainer.max_steps": 100_000},
    "cnn_lstm_sa_clevr": BASELINE | {"trainer.max_steps": 400_000},
}  # fmt: skip


@pytest.mark.parametrize("experiment", RECIPES)
def test_recipes_are_the_papers_and_the_originals(experiment: str) -> None:
    config = flatten(composed("train", f"experiment={experiment}", "run=x"))
    assert {key: config[key] for key in RECIPES[experiment]} == RECIPES[experiment]
    if experiment == "film_clevr":
        assert {k for k in config if k.startswith("optim.")} <= RECIPES[experiment].keys()
    if experiment == "humans":
        assert "min_count=5" in (REPOSITORY / "docs/guides/real_clevr.md").read_text()


def test_the_weight_decay_sweep_is_the_issues() -> None:
    config = compose_config("train", "sweep=weight_decay", hydra=True)
    assert config.hydra.sweeper.params["optim.weight_decay"] == "0,1e-6,1e-5,1e-4,1e-3"


@pytest.mark.parametrize("name", options("hydra/launcher"))
def test_the_launchers_are_instantiated(name: str) -> None:
    """For every script that runs sweeps."""
    for script in ("train", "generate_clevr"):
        config = compose_config(script, f"hydra/launcher={name}", hydra=True)
        launcher = instantiate(config.hydra.launcher, submitit_folder="x")
        assert type(launcher).__name__ == "SlurmLauncher"
        assert launcher.params["max_num_timeout"] > 0
        assert launcher.params["gpus_per_node"] == (1 if name == "submitit_gpu" else None)


def test_a_run_records_its_families_and_not_their_file(tmp_path: Path) -> None:
    """A changed file is a changed config, with which the run is not resumed."""
    path = tmp_path / "families.json"
    path.write_text("[5, 2]")
    config = compose_config("train", f"data.families={path}", "run=x")
    settings = typed_settings(config, RunSettings)
    assert settings.data.chosen_families == settings.config["data"]["families"] == [2, 5]
    assert settings.data.missing_images == "refuse"
    assert not {"run", "resume", "debug"} & settings.config.keys()


def test_a_curriculum_from_the_command_line() -> None:
    stages = "[{questions: 200, program_length: 8}, {questions: 100, families: [77, 78]}]"
    config = compose_config("train", f"data.curriculum={stages}", "run=x")
    assert typed_settings(config, RunSettings).data.curriculum == [
        CurriculumStage(questions=200, program_length=8),
        CurriculumStage(questions=100, families=[77, 78]),
    ]
    config = compose_config("train", "data.curriculum=[{program_length: 8}]", "run=x")
    with pytest.raises(UserError, match=r"data\.curriculum.*questions"):
        typed_settings(config, RunSettings)


def test_a_set_with_a_users_config_leaves_the_releases_folder_unchanged(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/guides/own_data.md").read_text()
    [config] = re.findall(r"```yaml\n# configs/data/mine.yaml\n(.*?)```", text, re.DOTALL)
    [block] = re.findall(r"```shell\n(.*?)```", text, re.DOTALL)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs/data/mine.yaml").write_text(config)
    for line in block.strip().splitlines():
        words = shlex.split(line, comments=True)
        if "data=mine" not in words:  # evaluate.py takes the data set from the checkpoint
            continue
        data = overrides.compose_config(tmp_path / "configs", Path(words[1]).stem, words[2:]).data
        assert (data.images, data.h5, data.features) == (
            "/datasets/CLEVR_v1.0/images", "data/mine/h5", "data/mine/h5",
        )  # fmt: skip
        assert (data.backbone.name, data.image_size) == ("clevr_places", [144, 144])


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("way", ["cores", "gpu"])
def test_the_stages_of_the_synthetic_run_compose(
    way: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    synthetic = importlib.import_module("synthetic")
    extracted = []
    for stage, lines in synthetic.stages(way, small).items():
        for line in lines:
            script, *arguments = line.split(" ")
            config = compose_config(script.removesuffix(".py"), *arguments)
            if stage.startswith(("extract", "train")):
                features = (config.data.root, config.data.backbone, config.data.image_size)
                if stage.startswith("extract"):
                    extracted.append(features)
                assert features in extracted


def test_training_and_evaluation_import_nothing_that_only_some_runs_need() -> None:
    """So runs start at once."""
    rooms = ["training.prepare", "training.trainer", "evaluation.predictions", "models"]
    heavy = {"torchvision", "torch._dynamo", "scipy.signal", "matplotlib", "wandb"}
    assert heavy_imports([f"filmvqa.{room}" for room in rooms], heavy) == ""


def test_asking_about_a_picture_imports_nothing_that_only_others_need() -> None:
    heavy = {"h5py", "filelock", "numba", "torchvision", "torch._dynamo", "scipy.signal"}
    ask = (
        "import numpy; vqa = importlib.import_module('filmvqa').load('clevr_world', accelerate=False); "
        "vqa.ask(numpy.zeros((144, 144, 3), 'uint8'), 'How many things are there?')"
    )
    assert heavy_imports(["filmvqa.cli.conversation"], heavy, then=ask) == ""


def test_scripts_start_without_the_heavy_imports() -> None:
    """So ``--help`` and errors in overrides come at once."""
    names = [path.stem for path in (REPOSITORY / "scripts").glob("[a-z]*.py")]
    assert "train" in names
    heavy = {"torch", "numba", "h5py", "matplotlib", "wandb"}
    assert heavy_imports(names, heavy, REPOSITORY / "scripts") == ""


def jobs_of(line: str) -> list[list[str]]:
    """The overrides of each job of ``train.py -m <line>``, with the first seed only."""
    given = dict(override.split("=", 1) for override in line.split(" "))
    if "sweep" in given:
        sweep = yaml.safe_load((CONFIGS / f"sweep/{given.pop('sweep')}.yaml").read_text())
        given = sweep["hydra"]["sweeper"]["params"] | given
    values = {k: re.sub(r"\s", "", str(v)) for k, v in given.items()} | {"seed": "0"}
    choices = [[v] if v.startswith("[") else v.split(",") for v in values.values()]
    return [[f"{k}={v}" for k, v in zip(values, c, strict=True)] for c in product(*choices)]


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "claim").rglob("*.yaml")), ids=lambda path: path.stem
)
def test_the_claims_have_the_runs_that_they_name(path: Path) -> None:
    claim = read_claim(path)
    jobs = [job for lines in claim.sweeps.values() for line in lines for job in jobs_of(line)]
    configs = [flatten(composed("train", "run=x", *job)) for job in jobs]
    for config in configs:
        config["model"] = config["model.name"]  # reports call it so
    nothing = np.array([])
    runs = [
        ScoredRun(
            SweepRun(Path(str(i)), config | flatten({"film": film}), 0, 0.0, 0.0, {}, []), str(i),
            str(film), "", "", nothing, nothing, "", "",
        )
        for i, config in enumerate(configs)
        for film in claim.film or [{}]
    ]  # fmt: skip
    own = [run for run in runs if belongs(run.run, claim)]
    assert claim.runs == 3 * len({run.run.folder for run in own})
    settings = group_settings(claim, own)
    assert len(settings) == len(own)  # no two jobs are the same
    for contrast in claim.contrasts:
        assert find_setting(settings, contrast.first) is not None, contrast.text
        assert find_setting(settings, contrast.second) is not None, contrast.text
