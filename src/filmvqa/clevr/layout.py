"""Where the files of a CLEVR-format set lie."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SetFolder:
    """Where the files of a CLEVR-format set lie."""

    root: Path

    def image_folder(self, split: str) -> Path:
        return self.root / "images" / split

    def mask_folder(self, split: str) -> Path:
        return self.root / "masks" / split

    def scenes(self, split: str) -> Path:
        return self.root / "scenes" / f"CLEVR_{split}_scenes.json"

    def questions(self, split: str) -> Path:
        return self.root / "questions" / f"CLEVR_{split}_questions.json"

    def partial(self, split: str, kind: str, number: int) -> Path:
        return self.root / ".partial" / split / f"{kind}_{number:06d}.json"

    def remove_partial(self) -> None:
        shutil.rmtree(self.root / ".partial", ignore_errors=True)

    @property
    def settings(self) -> Path:
        return self.root / "generation.json"
