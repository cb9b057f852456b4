"""What a run ran in and what it read, so that a result can be traced and repeated."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import filmvqa
from filmvqa.data.batches import Loader
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.devices import hardware

_PACKAGES = ("torchvision", "numpy", "h5py")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, the commit of the code (None outside a git repository), and whether the
    working tree was clean."""
    return {
        **hardware(device),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "filmvqa": filmvqa.__version__,
        "torch": str(torch.__version__),
        **{name: version(name) for name in _PACKAGES},
        **_commit(Path(filmvqa.__file__).parent),
    }


def _commit(folder: Path) -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        top = Path(git("rev-parse", "--show-toplevel"))
        if not (top / "src/filmvqa").is_dir():  # installed below somebody else's repository
            return {"commit": None, "clean": None}
        changes = git("-C", str(top), "status", "--porcelain")
        return {"commit": git("rev-parse", "HEAD"), "clean": not changes}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


def record_inputs(vocabulary: Vocabulary, loaders: Mapping[str, Loader]) -> dict[str, Any]:
    """Hashes of the vocabulary and of each split's questions and features; ``feature_spec`` is how
    the features were made (None for files that do not say)."""
    inputs: dict[str, Any] = {"vocabulary": vocabulary.sha256()}
    for split, loader in loaders.items():
        inputs[split] = {
            "questions": loader.questions.sha256,
            "features": loader.store.sha256,
            "feature_spec": loader.store.feature_spec,
        }
    return inputs


def changed_inputs(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Which inputs differ from those recorded under the same name; for a split that was not
    recorded, whether its features were made otherwise than those that were."""
    changes = []
    splits = [name for name in recorded if name != "vocabulary"]
    for name, now in current.items():
        if name == "vocabulary":
            if now != recorded["vocabulary"]:
                changes.append("the vocabulary")
        elif name in splits:
            changes += [
                f"the {content} of {name}"
                for content in ("questions", "features")
                if now[content] != recorded[name][content]
            ]
        elif splits and now["feature_spec"] != recorded[splits[0]]["feature_spec"]:
            changes.append(f"how the features of {name} were made")
    return changes
