"""Every stage on a small set of sounds: generation, preprocessing, extraction, training."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import filmvqa
from filmvqa.backbones.build import backbone_from_spec
from filmvqa.backbones.spectrograms import Spectrogram
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.settings import BackboneSettings, DataSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.sound_sheet import draw_scenes
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.words import WordTask, format_comparison
from filmvqa.worlds.sound.generate import MAKER, generate, layout_under
from filmvqa.worlds.sound.scenes import SOUND
from filmvqa.worlds.sound.settings import SoundRules, SoundSettings
from tests.training.tiny_runs import check_interrupted, metrics, train
from tests.worlds.clevr.file_hashes import file_hashes
from tests.worlds.sound.small_sets import FRONT_END, SIZE, read

#: A small version of film_sound.
MODEL = {
    "reads": True, "coordinate_axes": "x",
    "stem": {"rows_as_channels": True, "strides": [[1, 2], [1, 2]]},
    "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [14]},
}  # fmt: skip


def test_parts_and_lost_files_give_the_same_set(tmp_path: Path) -> None:
    settings = SoundSettings(
        images={"train": 252, "val": 1}, sample_rate=20_000, questions_per_image=1,
        rules=SoundRules(min_sounds=1, max_sounds=1, seconds=1.0, variants=1),
    )  # fmt: skip
    generate(tmp_path / "whole", settings, 1)
    for number in (1, 0):
        MAKER.generate_part(tmp_path / "parts", settings, number, 2, 2)
    whole = file_hashes(tmp_path / "whole")
    assert whole == file_hashes(tmp_path / "parts")
    assert not generate(tmp_path / "whole", settings, 1)
    lost = layout_under(tmp_path / "whole").image_folder("train") / "SOUND_train_000251.wav"
    lost.unlink()
    assert generate(tmp_path / "whole", settings, 1)
    assert file_hashes(tmp_path / "whole") == whole
    with pytest.raises(UserError, match=r"variants was 1, now 2|rules.variants"):
        generate(tmp_path / "whole", SoundSettings(**{**vars(settings), "rules": SoundRules()}), 1)


def test_question_files_have_the_worlds_types(sounds: DatasetLayout) -> None:
    vocabulary = Vocabulary.load(sounds.vocabulary)
    questions = QuestionDataset.load(sounds.question_h5("train"), vocabulary)
    assert questions.type_names == SOUND.answer_functions
    assert dict(questions.question_types) == SOUND.question_types
    source = json.loads(sounds.question_json("train").read_text())["questions"]
    for row, question in enumerate(source):
        last = question["program"][-1]["function"]
        assert questions.type_names[questions.types[row]] == last
    report = WordTask().report(questions.answers, questions.answers, questions)
    assert list(report["by_type"]) == list(SOUND.question_types)
    assert list(report["by_function"]) == list(SOUND.answer_functions)
    assert "query position" in format_comparison({"x": report})


def test_features_are_spectrograms_with_their_settings(sounds: DatasetLayout) -> None:
    with h5py.File(sounds.feature_h5("train")) as file:
        assert file["features"].shape == (6, 1, 64, 256)
        assert file["features"].dtype == np.float16
        assert file.attrs["backbone"] == "spectrogram"
        front_end = json.loads(file.attrs["front_end"])
    assert front_end == vars(FRONT_END)


def test_an_interrupted_training_gives_the_same_bits(tmp_path: Path, sounds: DatasetLayout) -> None:
    data = DataSettings(
        name="sounds", root=sounds.root, images=sounds.images, h5=sounds.h5, spectrogram=FRONT_END,
        backbone=BackboneSettings("spectrogram"), generated={"sound": SoundSettings(images={})},
    )  # fmt: skip
    options = {
        "model": MODEL, "checkpoint_steps": 3, "batch_size": 16, "questions_per_image": 4,
        "precision": "float32", "run": {"data": data},
    }  # fmt: skip
    whole = check_interrupted(
        lambda folder: train(folder, sounds.root, **options), tmp_path, (5, 14)
    )
    saved = torch.load(whole / "best.pt", weights_only=True)
    front_end = backbone_from_spec(saved["backbone"])
    assert isinstance(front_end, Spectrogram)
    assert front_end.settings == FRONT_END
    vqa = filmvqa.load(whole / "best.pt", device="cpu")
    recording = sounds.image_folder("val") / "SOUND_val_000001.wav"
    assert vqa.features(recording).shape == (1, *SIZE)
    question = read(sounds, "val")["questions"][0]["question"]
    answer = vqa.ask(recording, question, allow_unknown=True)
    assert answer.text in Vocabulary.load(sounds.vocabulary).answers()
    with pytest.raises(UserError, match="give the path of a WAV file"):
        vqa.ask(np.zeros((4, 4, 3), np.uint8), question, allow_unknown=True)
    types = [r["val_by_type"] for r in metrics(whole) if "val_by_type" in r]
    assert types and set(types[0]) <= set(SOUND.question_types)


def test_a_sheet_shows_the_first_scenes(sounds: DatasetLayout, tmp_path: Path) -> None:
    paths = (sounds.question_json("train"), sounds.scene_json("train"))
    folder, target = sounds.image_folder("train"), tmp_path / "sheet.png"
    draw_scenes(*paths, folder, target, FRONT_END, SIZE, rows=2, columns=1)
    assert target.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="fewer than 9 recordings"):
        draw_scenes(*paths, folder, target, FRONT_END, SIZE, rows=3, columns=3)
