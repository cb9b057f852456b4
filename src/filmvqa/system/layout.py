"""The paths of the files of a data set and of a run; no other module spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import is_litter, names_in

_PICTURE_ENDING = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
_NUMBER_IN_NAME = re.compile(r"(\d+)\.[A-Za-z]+")
#: Question files of CLEVR, CoGenT, Super-CLEVR and sets of sounds, of CLEVR-Humans, and of
#: CLEVR-Math.
_QUESTION_FILE = re.compile(
    r"(?:(?:(?:super)?CLEVR|SOUND)_(\w+)_questions|CLEVR-Humans-(\w+)|CLEVR-Math-(\w+))\.json(?:\.gz)?",
    re.IGNORECASE,
)
#: Question files of generators, whose names give no split.
_WITHOUT_SPLIT = re.compile(r"(?:super)?CLEVR_questions(?:_\w+)?\.json(?:\.gz)?", re.IGNORECASE)
#: The endings of a user's tables, and how to import one.
_TABLES = {".csv", ".tsv", ".jsonl", ".ndjson"}
_IMPORT = "make a set of it with scripts/import_questions.py source={}"


def image_number(name: str) -> int | None:
    """The number at the end of an image's name, which is the image's index: 7 for
    ``CLEVR_val_000007.png``. None if there is no number."""
    match = _NUMBER_IN_NAME.search(name)
    return int(match[1]) if match and match.end() == len(name) else None


def image_stem(name: str) -> str:
    """An image's name without its ending: many sets have JPEGs, and ``.png`` in their JSON."""
    return _PICTURE_ENDING.sub("", name)


def hint_at_deeper(root: Path, inner: str) -> str:
    """The remedy if a part of a set lies one folder below ``root``, as archives unpack it
    (``CLEVR_v1.0/images``); else empty."""
    roots = {str(root / path.relative_to(root).parts[0]) for path in root.glob(f"*/{inner}")}
    options = " or ".join(f"data.root={deeper}" for deeper in sorted(roots))
    return f"it is one folder deeper: give {options}" if options else ""


def refuse_table(path: Path) -> None:
    """Raise ``UserError`` if a file that must be question JSON is a user's table."""
    if path.suffix.lower() in _TABLES:
        raise UserError(f"{path}: is no question JSON; {_IMPORT.format(path)}")


class _Entry:
    """A file or folder in one of a layout's folders; its name may hold fields of the layout in
    braces."""

    def __init__(self, name: str, folder: str = "folder") -> None:
        self._name, self._folder = name, folder

    def __get__(self, layout: Any, owner: type) -> Path:
        folder: Path = getattr(layout, self._folder)
        return folder / self._name.format_map(vars(layout))


@dataclass(frozen=True)
class DatasetLayout:
    """The files of one data set, in the layout of CLEVR v1.0 below ``root``.

    The folders of images, question JSON, question HDF5 and feature HDF5 may be outside ``root``,
    so that several sets can share them (``DatasetLayout.under``). ``backbone`` is the name of the
    network that computed the features. ``prefix`` begins the names of generated JSON files.
    """

    root: Path
    images: Path
    questions: Path
    h5: Path
    features: Path
    backbone: str = ""
    prefix: str = "CLEVR"

    @classmethod
    def under(
        cls,
        root: str | Path,
        *,
        images: str | Path | None = None,
        questions: str | Path | None = None,
        h5: str | Path | None = None,
        features: str | Path | None = None,
        backbone: str = "",
        prefix: str = "CLEVR",
    ) -> DatasetLayout:
        """The layout of a set below ``root``; each folder that is not None replaces the default.

        The default of ``features`` is the folder of the question HDF5.
        """
        root = Path(root)
        questions = root / "questions" if questions is None else questions
        h5 = root / "h5" if h5 is None else h5
        features = h5 if features is None else features
        images = root / "images" if images is None else images
        return cls(
            root, Path(images), Path(questions), Path(h5), Path(features), backbone, prefix=prefix
        )

    def image_folder(self, split: str) -> Path:
        """The folder of a split's PNG files."""
        return self.images / split

    def image_splits(self) -> list[str]:
        """The names of the splits that have a folder of images, sorted."""
        return [
            name
            for name in names_in(self.images)
            if (self.images / name).is_dir() and not is_litter(name)
        ]

    def mask_folder(self, split: str) -> Path:
        """The folder of a split's object masks, one PNG per image."""
        return self.root / "masks" / split

    def scene_json(self, split: str) -> Path:
        """The scene JSON of a split."""
        return self.root / "scenes" / f"{self.prefix}_{split}_scenes.json"

    def question_json(self, split: str) -> Path:
        """The question JSON of a split under its usual name, such as CLEVR's."""
        return self.questions / f"{self.prefix}_{split}_questions.json"

    def question_json_by_split(self, train_split: str = "train") -> dict[str, Path]:
        """The question JSON by split, plain or compressed (``.gz``), under the names of CLEVR,
        CoGenT, CLEVR-Humans, CLEVR-Math or Super-CLEVR.

        The files are in ``questions``, or in ``root``, where CLEVR-Humans has them. A single file
        whose name gives no split, such as ``CLEVR_questions.json`` of CLEVR's generator, is read as
        that of ``train_split``.

        Raises
        ------
        UserError
            If there is no file, or two for a split.
        """
        by_split: dict[str, Path] = {}
        without_split, tables = [], []
        for path in self._files_of_questions():
            if match := _QUESTION_FILE.fullmatch(path.name):
                split = match[1] or match[2] or match[3]
                if split in by_split:
                    raise UserError(
                        f"{path}: is a second question file of the split {split!r}, beside "
                        f"{by_split[split]}; move one of them to another folder, and read it "
                        "with another data.root"
                    )
                by_split[split] = path
            elif _WITHOUT_SPLIT.fullmatch(path.name):
                without_split.append(path)
            elif path.suffix.lower() in _TABLES and path.parent != self.root:
                tables.append(path)
        for path in without_split:
            rename = "rename it to CLEVR_<split>_questions.json"
            if train_split not in by_split and len(without_split) == 1:
                warn(f"{path}: names no split and is read as {train_split!r}; if wrong, {rename}")
                by_split[train_split] = path
            elif train_split in by_split:
                warn(f"{path}: names no split and is ignored; {rename} to use it")
            else:
                others = ", ".join(p.name for p in without_split if p != path)
                raise UserError(f"{path}: names no split, as {others}; {rename}")
        for path in tables if by_split else []:
            warn(f"{path}: is no question JSON and is ignored; {_IMPORT.format(path)}")
        if not by_split:
            for path in self._files_of_questions():
                refuse_table(path)
            remedy = hint_at_deeper(self.root, "questions/*_questions.json*") or (
                "download the set (scripts/download_clevr.py), generate it "
                "(scripts/generate_clevr.py), or import your own (scripts/import_questions.py)"
            )
            raise UserError(f"{self.questions}: no CLEVR_<split>_questions.json in it; {remedy}")
        return by_split

    def _files_of_questions(self) -> list[Path]:
        folders = [self.questions]
        if self.questions == self.root / "questions":
            folders.append(self.root)
        return [
            path
            for folder in folders
            for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        ]

    #: ``vocab.json``, in the folder of the question HDF5.
    vocabulary = _Entry("vocab.json", "h5")

    def question_h5(self, split: str) -> Path:
        """The question HDF5 of a split."""
        return self.h5 / f"{split}_questions.h5"

    def program_targets_h5(self, split: str) -> Path:
        """The HDF5 of the objects that the programs of a split's questions name in its images."""
        return self.h5 / f"{split}_program_targets.h5"

    def feature_h5(self, split: str) -> Path:
        """The feature HDF5 of a split."""
        return self.features / f"{split}_features_{self.backbone.replace('/', '_')}.h5"

    def mask_h5(self, split: str) -> Path:
        """The HDF5 of the masks of the objects in a split's images."""
        return self.features / f"{split}_masks.h5"

    #: The settings of a generated set, and of a set of hints.
    generator_settings = _Entry("generation.json", "root")
    hint_settings = _Entry("hints.json", "root")

    #: The folder of a generated set's unfinished splits.
    partial = _Entry(".partial", "root")

    def partial_json(self, split: str, content: str, number: int) -> Path:
        """A finished chunk of an unfinished split. ``content`` is ``scenes`` or ``questions``."""
        return self.partial / split / f"{content}_{number:06d}.json"


@dataclass(frozen=True)
class RunLayout:
    """The files of one training run, in its ``folder``."""

    folder: Path

    config = _Entry("config.yaml")
    metrics = _Entry("metrics.jsonl")
    last_checkpoint = _Entry("last.pt")
    best_checkpoint = _Entry("best.pt")

    def kept_checkpoint(self, step: int) -> Path:
        """One of several best checkpoints."""
        return self.folder / f"step_{step:08d}.pt"

    def kept_checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    def inspection(self, split: str) -> Path:
        """The folder of ``inspect_film.py``'s figures for a split."""
        return self.folder / f"inspection_{split}"

    #: The folders of the loggers' files, and W&B's id of the run.
    tensorboard = _Entry("tensorboard")
    wandb = _Entry("wandb")
    wandb_run = _Entry("wandb_run.json")
    provenance = _Entry("provenance.json")
    #: The images that were trained on, unless they are the whole split.
    train_images = _Entry("train_images.json")
    #: The questions of the step in which the loss or a weight was not finite.
    not_finite = _Entry("not_finite.json")
    curves = _Entry("curves.png")
    #: The folder of reports and predictions.
    evaluation = _Entry("evaluation")


@dataclass(frozen=True)
class EvaluationLayout:
    """The result files of one split's evaluation, in ``folder``."""

    folder: Path
    split: str

    report = _Entry("{split}.json")
    predictions = _Entry("{split}_predictions.jsonl")
    #: One answer a line, for splits without published answers.
    answers = _Entry("{split}_answers.txt")


@dataclass(frozen=True)
class CorrectionLayout:
    """The files of ``correct.py``'s report for a split, in ``folder``."""

    folder: Path
    split: str

    report = _Entry("correction_{split}.json")
    table = _Entry("correction_{split}.md")
    #: Hints and scores, one image a line.
    hints = _Entry("correction_{split}.jsonl")
    #: The figure of scores by the number of hints.
    courses = _Entry("correction_{split}.png")
    #: Pictures of label maps before and after hints.
    examples = _Entry("correction_{split}_examples.png")
