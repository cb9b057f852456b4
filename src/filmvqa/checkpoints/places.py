"""Where checkpoints lie: files, runs' folders, and the networks that the package ships.

Nothing here imports torch, so that one that is not there is told at once.
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
    """The networks that are part of the package, by name."""
    folder = Path(str(files("filmvqa.checkpoints") / "weights"))
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def shipped_file(name: str | Path) -> Path | None:
    """The file of the package's network of that name, if there is one, and no file or folder of
    that name here."""
    path = shipped_networks().get(str(name))
    return None if path is None or Path(name).exists() else path


def checkpoint_file(path: str | Path) -> Path:
    """The file that ``path`` means: of a run's folder its best checkpoint, and of the name of a
    network that the package ships its file, unless there is such a file or folder here.

    Raises
    ------
    UserError
        If there is none.
    """
    if shipped := shipped_file(path):
        return shipped
    path = Path(path)
    if path.is_dir():
        best = RunLayout(path).best_checkpoint
        if not best.exists():
            raise UserError(
                f"{path}: is a folder without {best.name}; give a run's, or a checkpoint"
            )
        return best
    if not path.exists():
        others = "".join(f", or give {name}, which is shipped" for name in shipped_networks())
        raise UserError(f"{path}: no such checkpoint; train one with scripts/train.py{others}")
    return path


#: Notes a field that names a checkpoint.
CHECKPOINT = Input(lambda path, _: checkpoint_file(path))
