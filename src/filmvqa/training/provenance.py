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
from filmvqa.data.loader import Loader
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.devices import hardware

_PACKAGES = ("torchvision", "numpy", "h5py")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, and the commit of the code (None outside a git repository), with whether
    the tree was as committed."""
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


def inputs(vocabulary: Vocabulary, loaders: Mapping[str, Loader]) -> dict[str, Any]:
    """Hashes of what a run reads, of each split by its name; ``made`` is how its features were
    made (None for files that do not say)."""
    found: dict[str, Any] = {"vocabulary": vocabulary.sha256()}
    for split, loader in loaders.items():
        found[split] = {
            "questions": loader.questions.sha256,
            "features": loader.store.sha256,
            "made": loader.store.made,
        }
    return found


def changed_inputs(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What of ``found`` is not what was recorded under the same name; for a split that was not
    recorded, whether its features were made as those that were."""
    changes = []
    splits = [name for name in recorded if name != "vocabulary"]
    for name, now in found.items():
        if name == "vocabulary":
            if now != recorded["vocabulary"]:
                changes.append("the vocabulary")
        elif name in splits:
            changes += [
                f"the {kind} of {name}"
                for kind in ("questions", "features")
                if now[kind] != recorded[name][kind]
            ]
        elif splits and now["made"] != recorded[splits[0]]["made"]:
            changes.append(f"how the features of {name} were made")
    return changes
