"""Two short training runs whose results are stored, to detect unintended changes.

After an intended change, ``python -m tests.training.pinned_run`` stores the new results.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.settings import ExtractionSettings
from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.layout import DatasetLayout
from filmvqa.training.run import train_run
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_rules import SceneRules
from tests.conftest import set_in

FIGURES = Path(__file__).with_name("pinned_run.json")
STEPS = 60
IMAGES = {"train": 64, "val": 8}
#: The networks of ``experiment=demo`` and ``experiment=lab_mac`` when the results were stored.
MODELS: dict[str, dict[str, Any]] = {
    "film": {
        "channels": 64,
        "encoder": {"embedding_dim": 64, "hidden_dim": 128, "orthogonal": True},
        "stem": {"strides": [2]},
        "classifier": {"projection_dim": 128, "hidden_dims": [256]},
    },
    "mac": {"dim": 96, "num_steps": 3, "embedding_dim": 64, "stem_strides": [2]},
}
#: A small learning rate: with the demo's, γ differs by 0.9 between processors after 60 steps.
OPTIM = {"name": "adam", "lr": 1e-4, "weight_decay": 1e-5, "schedule": "cosine", "warmup_steps": 10}


def make_set(root: Path) -> Path:
    """Generate a set with float32 features; return its ``h5`` folder."""
    settings = GeneratorSettings(
        images=IMAGES, width=48, height=48, rays=1, rules=SceneRules(max_objects=4)
    )
    generate(root, settings, workers=2)
    layout = DatasetLayout.under(root, backbone="clevr_cnn")
    preprocess_questions(layout)
    for split in IMAGES:
        images, target = layout.image_folder(split), layout.feature_h5(split)
        backbone = build_backbone("clevr_cnn")
        Extraction(
            images, target, split, backbone, (48, 48), ExtractionSettings(precision="float32")
        ).run()
    return layout.h5


def run_figures(name: str, h5: Path, folder: Path) -> dict[str, Any]:
    """Train a network on one thread in float32; return losses, γ and β, and norms of weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = TrainerSettings(
            batch_size=32, max_steps=STEPS, eval_every=STEPS, log_every=5, patience=None,
            grad_clip=1.0, precision="float32",
        )  # fmt: skip
        settings = RunSettings(
            data=set_in(h5), model={"name": name, **MODELS[name]}, optim=OptimSettings(**OPTIM),
            trainer=trainer, device="cpu",
        )  # fmt: skip
        train_run(folder, settings)
        records = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        path = folder / "last.pt"
        model, vocabulary = model_from_checkpoint(load_checkpoint(path), path)
        figures = {
            "losses": [r["loss"] for r in records if "loss" in r],
            "val_accuracy": records[-1]["val_accuracy"],
            "norms": {k: float(v.detach().double().norm()) for k, v in model.named_parameters()},
        }
        if name == "film":
            figures |= _modulation(model, h5, vocabulary)
        return figures
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _modulation(model: Any, h5: Path, vocabulary: Vocabulary) -> dict[str, list[list[float]]]:
    """γ and β of the first 8 channels of each block for the first validation question."""
    questions = QuestionDataset.load(h5 / "val_questions.h5", vocabulary)
    question = questions.questions[:1, : int(questions.lengths[0])].long()
    modulation = model.modulate(question)
    return {
        "gamma": modulation.gamma[0, :, :8].tolist(),
        "beta": modulation.beta[0, :, :8].tolist(),
    }


def all_figures(folder: Path) -> dict[str, Any]:
    """The results of both networks."""
    h5 = make_set(folder / "set")
    return {name: run_figures(name, h5, folder / name) for name in MODELS}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        FIGURES.write_text(json.dumps(all_figures(Path(temporary)), indent=1) + "\n")
