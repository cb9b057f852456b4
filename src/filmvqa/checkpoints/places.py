"""Find checkpoints: files, runs' folders, and the networks that the package ships.

Nothing here imports torch, so that a missing checkpoint is reported immediately.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from filmvqa.settings.inputs import Input
from filmvqa.system.errors import UserError
from filmvqa.system.layout import RunLayout

#: The ending of exported networks.
SUFFIX = ".safetensors"


def shipped_networks() -> dict[str, Path]:
    """The networks that the package ships, by name."""
    folder = Path(str(files("filmvqa.checkpoints") / "weights"))
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def shipped_file(name: str | Path) -> Path | None:
    """The file of a shipped network; None if there is none, or a path of that name exists."""
    path = shipped_networks().get(str(name))
    return None if path is None or Path(name).exists() else path


def checkpoint_file(path: str | Path) -> Path:
    """Find the checkpoint that ``path`` names.

    A run's folder stands for its best checkpoint. The name of a shipped network stands for its
    file, unless a path of that name exists.

    Raises
    ------
    UserError
        If there is no such checkpoint.
    """
    if shipped := shipped_file(path):
        return shipped
    path = Path(path)
    if path.is_dir():
        best = RunLayout(path).best_checkpoint
        if not best.exists():
            raise UserError(
                f"{path}: is a folder without {best.name}; give a run's folder or a checkpoint"
            )
        return best
    if not path.exists():
        others = "".join(f", or give the shipped network {name}" for name in shipped_networks())
        raise UserError(f"{path}: no such checkpoint; train one with scripts/train.py{others}")
    return path


#: Annotation of a settings field that names a checkpoint.
CHECKPOINT = Input(lambda path, _: checkpoint_file(path))
