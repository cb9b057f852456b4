"""Runs of scripts as processes, and the stages of a tiny generated set."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import run_script

DATA = [
    "data=mini",
    "data.root=data/tiny",
    "data.image_size=[48,48]",
]
GENERATOR = [
    "data.generator.images={train:150,val:12,test:3}",
    "data.generator.width=48",
    "data.generator.height=48",
    "data.generator.rays=1",
]
SMALL = [
    "model.encoder.embedding_dim=8", "model.encoder.hidden_dim=12", "model.channels=8",
    "model.num_blocks=2", "model.classifier.hidden_dims=[12]",
]  # fmt: skip
SHORT = [
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.log_every=2",
    "trainer.batch_size=16",
    "trainer.train_sample=96",
]
TRAIN = ["experiment=demo", *DATA, *SMALL, *SHORT]


def succeed(script: str, *arguments: str, cwd: Path) -> str:
    done = run_script(script, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def fail(script: str, *arguments: str, cwd: Path) -> str:
    """The one line that a failing script prints on standard error, apart from progress bars."""
    done = run_script(script, *arguments, cwd=cwd)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.strip() and "/s]" not in line]
    assert len(lines) == 1, done.stderr[-2000:]
    assert lines[0].startswith("error: ")
    return lines[0]


def every_stage(cwd: Path) -> None:
    """Run every stage up to a trained FiLM network in a folder."""
    succeed("generate_clevr.py", *DATA, *GENERATOR, "workers=2", cwd=cwd)
    succeed("preprocess_questions.py", *DATA, cwd=cwd)
    succeed("extract_features.py", *DATA, cwd=cwd)
    succeed("train.py", *TRAIN, "run=film", cwd=cwd)
