"""Provenance: the software, hardware and inputs of a run, to trace and reproduce its results."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import filmvqa
from filmvqa.evaluation.batches import Loader
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system import processes
from filmvqa.system.devices import hardware

_PACKAGES = ("torchvision", "numpy", "h5py")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, a hash of the package's code, its commit, and whether the repository's
    files are those of the commit.

    The last two are None outside the project's git repository.
    """
    return {
        **hardware(device),
        **({"processes": processes.count()} if processes.count() > 1 else {}),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "filmvqa": filmvqa.__version__,
        "torch": str(torch.__version__),
        **{name: version(name) for name in _PACKAGES},
        "code": _hash_code(Path(filmvqa.__file__).parent),
        **_commit(Path(filmvqa.__file__).parent),
    }


def _hash_code(folder: Path) -> str:
    """The first 12 digits of a SHA-256 hash of a folder's Python files, so that a run that is
    resumed with edited code says so."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit(folder: Path) -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        repository = Path(git("rev-parse", "--show-toplevel"))
        if not (repository / "src/filmvqa").is_dir():  # installed inside another repository
            return {"commit": None, "clean": None}
        # Files that git does not know, such as your own modules, are no change of the code.
        changes = git("-C", str(repository), "status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "clean": not changes}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


def record_inputs(vocabulary: Vocabulary, loaders: Mapping[str, Loader]) -> dict[str, Any]:
    """SHA-256 hashes of the vocabulary and of each split's questions, features and targets.

    Each split also has its ``feature_spec``, None if the feature file does not record it.
    """
    inputs: dict[str, Any] = {"vocabulary": vocabulary.sha256()}
    for split, loader in loaders.items():
        inputs[split] = {
            "questions": loader.questions.sha256,
            "features": loader.store.sha256,
            "feature_spec": loader.store.feature_spec,
            **loader.targets.inputs(),
            **({} if loader.programs is None else {"program_targets": loader.programs.sha256}),
        }
    return inputs


def changed_inputs(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Describe the inputs that differ from the recorded ones; both are from ``record_inputs``.

    A recorded split is compared by its hashes. Another split is compared by its ``feature_spec``
    with the first recorded split.
    """
    changes = []
    recorded_splits = [name for name in recorded if name != "vocabulary"]
    for name, current_input in current.items():
        if name == "vocabulary":
            if current_input != recorded["vocabulary"]:
                changes.append("the vocabulary")
        elif name in recorded_splits:
            changes += [
                f"the {content} of {name}"
                for content in current_input
                if content != "feature_spec"
                and current_input[content] != recorded[name].get(content)
            ]
        elif (
            recorded_splits
            and current_input["feature_spec"] != recorded[recorded_splits[0]]["feature_spec"]
        ):
            changes.append(f"how the features of {name} were made")
    return changes
