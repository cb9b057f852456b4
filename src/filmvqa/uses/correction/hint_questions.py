"""A data set of hints about a network's mistakes: question JSON with hints as questions."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from filmvqa.checkpoints.places import checkpoint_file
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes, sha256_of_file, write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.uses.correction.hints import Mistake, join_hints, mistakes, word_hint
from filmvqa.uses.correction.segmented_images import SegmentedImages, open_segmented_images
from filmvqa.uses.correction.settings import MakeHintsSettings
from filmvqa.worlds.clevr.scene_file import read_scenes
from filmvqa.worlds.engine.schema import Info, Question, QuestionFile, decode_json, encode_json

_REMEDY = "delete the folder and run make_hints.py again"


def make_hints(settings: MakeHintsSettings) -> dict[str, int] | None:
    """Write a data set below ``output`` whose questions are hints about a network's mistakes.

    The network segments images and was trained without language. An image with m distinct
    mistakes has min(m, ``hints``) questions: about the largest mistake, about the two largest, and
    so on. The set has its own copy of the scenes; images, features and masks are those of the
    network's data.

    Returns
    -------
    dict or None
        The number of texts of each split; None if the set is already complete.

    Raises
    ------
    UserError
        If the set was made with other settings, or a split has no mistakes.
    """
    layout = DatasetLayout.under(settings.output)
    record = {
        "checkpoint_sha256": sha256_of_file(checkpoint_file(settings.checkpoint)),
        "splits": settings.splits, "hints": settings.hints, "seed": settings.seed,
    }  # fmt: skip
    with folder_lock(settings.output, "hints"):
        if is_complete(layout, record):
            return None
        counts = {}
        for split in settings.splits:
            with open_segmented_images(settings, split) as segmented:
                counts[split] = _write_split(layout, split, segmented, settings)
        write_file(layout.hint_settings, msgspec.json.format(encode_json(record)) + b"\n")
    return counts


def is_complete(layout: DatasetLayout, record: dict[str, Any]) -> bool:
    """Whether the set was made with these settings; raise ``UserError`` for other settings."""
    path = layout.hint_settings
    if not path.exists():
        return False
    previous = decode_json(read_bytes(path, _REMEDY), dict[str, Any], path, _REMEDY)
    if changed := sorted(key for key in record if previous.get(key) != record[key]):
        raise UserError(
            f"{path}: the hints were made with other settings ({', '.join(changed)}); use the "
            "same, or another output"
        )
    files = [file for split in record["splits"]
             for file in (layout.question_json(split), layout.scene_json(split))]  # fmt: skip
    return all(file.exists() for file in files)


def _write_split(
    layout: DatasetLayout, split: str, segmented: SegmentedImages, settings: MakeHintsSettings
) -> int:
    source = segmented.asked.layout.scene_json(split)
    names = {scene.image_index: scene.image_filename for scene in read_scenes(source).scenes}
    questions: list[Question] = []
    for place, image in enumerate(segmented.images.tolist()):
        rng = random.Random(f"{settings.seed} {split} {image}")
        distinct: dict[object, Mistake] = {}
        for mistake in mistakes(
            segmented.predictions[place], segmented.truths[place], segmented.objects[place]
        ):
            distinct.setdefault(mistake.content, mistake)
        texts = [word_hint(mistake, rng) for mistake in [*distinct.values()][: settings.hints]]
        questions += [
            Question(
                names[image], join_hints(texts[:count]), image_index=image, split=split,
                question_index=len(questions) + count - 1,
            )
            for count in range(1, len(texts) + 1)
        ]  # fmt: skip
    if not questions:
        raise UserError(
            f"{segmented.asked.checkpoint}: makes no mistakes on {split}, so that there is nothing "
            "to correct; give a network that was trained for a shorter time or on fewer images"
        )
    write_file(layout.scene_json(split), source.read_bytes())
    content = QuestionFile(questions, Info(split=split))
    write_file(layout.question_json(split), encode_json(content))
    return len(questions)
