"""A checkpoint that answers questions, as in a notebook."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import filmvqa
from filmvqa.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from filmvqa.evaluation.batches import open_loader
from filmvqa.evaluation.predictions import predict
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.vqa import VQA
from filmvqa.worlds.engine.schema import read_questions
from tests.conftest import data_in
from tests.training.tiny_runs import train


@pytest.fixture(scope="module")
def checkpoint(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqa") / "run"
    train(folder, tiny_set, precision="float32")
    return folder / "best.pt"


@pytest.fixture(scope="module")
def vqa(checkpoint: Path) -> VQA:
    return filmvqa.load(checkpoint, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def questions(tiny_world: Path) -> list[tuple[Path, str]]:
    """The pictures and texts of the validation questions."""
    records = read_questions(tiny_world / "questions/CLEVR_val_questions.json").questions
    return [(tiny_world / "images/val" / q.image_filename, q.question) for q in records]


def test_answers_are_those_of_an_evaluation(
    vqa: VQA, questions: list[tuple[Path, str]], tiny_set: Path
) -> None:
    loader = open_loader(data_in(tiny_set), "val", vqa.vocabulary, 32, torch.device("cpu"))
    indices = predict(vqa.model, loader, precision="float32", progress=False)
    expected = [vqa.vocabulary.answers()[i] for i in indices.tolist()]
    answers = vqa.ask_all(*zip(*questions, strict=True), batch_size=50)
    assert [answer.text for answer in answers] == expected
    for answer in answers[:3]:
        assert set(answer.probabilities) == set(vqa.vocabulary.answer)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert list(answer.probabilities.values()) == sorted(answer.probabilities.values())[::-1]
        assert answer.text == next(iter(answer.probabilities))


def test_every_form_of_a_picture_gives_the_same(
    vqa: VQA, questions: list[tuple[Path, str]], tiny_set: Path
) -> None:
    path, question = questions[-1]
    image = Image.open(path)
    index = int(path.stem[-6:])
    with h5py.File(tiny_set / "val_features_clevr_cnn.h5") as file:
        stored = file["features"][index]
        precision = file.attrs["precision"]
    features = vqa.features(path)
    assert features.shape == stored.shape
    tolerance = 1e-3 if precision == "float32" else 2e-2  # rounding of other batch sizes
    np.testing.assert_allclose(features.float().numpy(), stored, rtol=tolerance, atol=tolerance)
    first = vqa.ask(str(path), question)
    for picture in (path, image, np.asarray(image), features, features.float().numpy()):
        answer = vqa.ask(picture, question)
        assert answer.text == first.text
        assert answer.probabilities == pytest.approx(first.probabilities, abs=1e-5)


COUNT = "Are there any large cubes?"


class OpenedLazily:
    """Pictures that are opened again at each access, and that only an index identifies."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> np.ndarray:
        return np.asarray(Image.open(self._paths[number]).convert("RGB"))


def one_buffer(paths: list[Path]) -> Iterator[np.ndarray]:
    """All pictures in the same memory, one after another, as from a camera."""
    buffer = np.empty_like(np.asarray(Image.open(paths[0]).convert("RGB")))
    for path in paths:
        buffer[:] = np.asarray(Image.open(path).convert("RGB"))
        yield buffer


def one_file(paths: list[Path], folder: Path) -> Iterator[str]:
    for path in paths:
        Image.open(path).convert("RGB").save(folder / "frame.bmp")
        yield str(folder / "frame.bmp")


@pytest.mark.parametrize(
    "make",
    [
        lambda paths, _: list(paths),
        lambda paths, _: [Image.open(path) for path in paths],
        lambda paths, _: np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths]),
        lambda paths, _: np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths])[::-1][::-1],
        lambda paths, _: (Image.open(path) for path in paths),
        lambda paths, _: OpenedLazily(paths),
        lambda paths, _: one_buffer(paths),
        one_file,
    ],
    ids=["paths", "opened", "stack", "views", "generator", "lazily", "one buffer", "one file"],
)  # fmt: skip
@pytest.mark.parametrize("batch_size", [256, 3])
def test_each_question_is_about_its_own_picture(
    vqa: VQA, questions: list[tuple[Path, str]], tmp_path: Path, make, batch_size: int
) -> None:
    paths = [*dict.fromkeys(path for path, _ in questions)][:5]
    paths += paths[:2]
    alone = [vqa.ask(path, COUNT).probabilities for path in paths]
    assert alone[0] != pytest.approx(alone[1], abs=1e-4)
    together = vqa.ask_all(make(paths, tmp_path), [COUNT] * len(paths), batch_size=batch_size)
    for answer, expected in zip(together, alone, strict=True):
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)


def test_features_in_one_tensor_are_distinct(vqa: VQA, questions) -> None:
    paths = [*dict.fromkeys(path for path, _ in questions)][:4]
    alone = [vqa.ask(path, COUNT).probabilities for path in paths]
    stack = torch.stack([vqa.features(path) for path in paths]).float()
    for features in (stack, stack.double(), stack.double().numpy()[::-1][::-1],
                     stack.numpy().astype(">f4"), iter(stack), stack.half()):  # fmt: skip
        for answer, expected in zip(vqa.ask_all(features, [COUNT] * 4), alone, strict=True):
            assert answer.probabilities == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("spec", "pixels", "floats"), [(None, True, True), ({"backbone": "pixels"}, True, False),
                                   ({"backbone": "clevr_cnn"}, False, True)],
)  # fmt: skip
def test_pixels_are_whole_numbers(vqa: VQA, monkeypatch, spec, pixels: bool, floats: bool) -> None:
    """A network scales them, unlike numbers from 0 to 1."""
    monkeypatch.setattr(vqa, "backbone_spec", spec)
    for dtype, accepted in ((torch.uint8, pixels), (torch.float32, floats), (torch.int64, False)):
        features = torch.zeros(vqa.feature_shape, dtype=dtype)
        if accepted:
            assert vqa.features(features).dtype == dtype
        else:
            with pytest.raises(UserError, match=r"features of shape .* takes"):
                vqa.features(features)


def test_a_picture_that_occurs_again_is_computed_once(vqa: VQA, questions, monkeypatch) -> None:
    calls = []
    features = vqa.features
    monkeypatch.setattr(vqa, "features", lambda picture: calls.append(1) or features(picture))
    paths = [*dict.fromkeys(path for path, _ in questions)][:2]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    vqa.ask_all([*paths, *paths, *arrays, *(a.copy() for a in arrays)], [COUNT] * 8)
    assert len(calls) == 4


@pytest.mark.parametrize("count", [0, 2, 4])
def test_other_numbers_of_pictures_are_refused(vqa: VQA, questions, count: int) -> None:
    pictures = [questions[0][0]] * count
    for argument in (pictures, iter(pictures)):
        with pytest.raises(UserError, match=r"\d pictures for 3 questions; give one for each"):
            vqa.ask_all(argument, [COUNT] * 3)


def test_pictures_are_read_as_viewers_show_them(vqa: VQA, questions, tmp_path: Path) -> None:
    upright = Image.open(questions[0][0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=exif)
    expected = vqa.features(upright)
    for picture in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert torch.equal(vqa.features(picture), expected)
    grey = np.asarray(upright.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert torch.equal(vqa.features(tmp_path / "deep.png"), vqa.features(Image.fromarray(grey)))
    visible = np.dstack([np.asarray(upright), np.full(grey.shape, 255, np.uint8)])
    visible[:9, :, 3] = 0
    hidden = visible.copy()
    hidden[:9, :, 0] = 77
    assert torch.equal(vqa.features(visible), vqa.features(hidden))
    assert not torch.equal(vqa.features(visible), expected)


def test_film_gives_gamma_and_beta_of_the_question(vqa: VQA) -> None:
    gamma, beta = vqa.film("Are there any large cubes?")
    model = vqa.model
    assert gamma.shape == beta.shape == (2, 12)
    tokens = torch.tensor([vqa.vocabulary.encode("Are there any large cubes?")])
    with torch.inference_mode():
        modulation = model.modulate(tokens)
    torch.testing.assert_close(gamma, modulation.gamma[0])
    torch.testing.assert_close(beta, modulation.beta[0])


def test_the_checkpoint_alone_suffices(checkpoint: Path, questions, tmp_path: Path) -> None:
    """In another folder and process, and nothing is printed."""
    path, question = questions[0]
    (tmp_path / "alone.pt").write_bytes(checkpoint.read_bytes())
    code = (
        "import filmvqa\n"
        "vqa = filmvqa.load('alone.pt', device='cpu')\n"
        f"answer = vqa.ask({str(path)!r}, {question!r})\n"
        "assert answer.text in answer.probabilities"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_cannot_be_asked_is_one_line(vqa: VQA, questions, tmp_path: Path) -> None:
    path, question = questions[0]
    (tmp_path / "text.png").write_text("hello")
    for picture, asked, message in (
        (
            path,
            "Are there any cubbe?",
            r"'cubbe' is not in the vocabulary.*cube.*allow_unknown=true",
        ),
        (path, " ? ", "has no words"),
        ("nothing.png", question, r"nothing\.png: no such file"),
        (tmp_path / "text.png", question, r"text\.png: cannot be read as an image"),
        (np.zeros((4, 4), np.uint8), question, r"of uint8 \(4, 4\) is no picture"),
        (torch.zeros(2, 3, 3), question, r"features of shape \(2, 3, 3\)"),
        (torch.zeros(vqa.feature_shape).long(), question, r"int64; .* takes floating point"),
        (np.zeros((8, 9, 3)), question, r"features of shape \(8, 9, 3\).*uint8 arrays"),
        (np.zeros((8, 9, 3), np.uint16), question, r"of uint16 \(8, 9, 3\) is no picture"),
        (np.zeros((3, 8, 9), np.uint8), question, r"of uint8 \(3, 8, 9\) is no picture"),
        (np.zeros((0, 9, 3), np.uint8), question, "no p"),
        (Image.new("F", (9, 9)), question, "the picture: .*mode F"),
    ):
        with pytest.raises(UserError, match=message):
            vqa.ask(picture, asked)
    assert vqa.ask(path, "Are there any cubbe?", allow_unknown=True).text
    with pytest.raises(UserError, match="1 pictures for 2 questions"):
        vqa.ask_all([path], [question, question])


def test_an_unavailable_backbone_is_named(
    checkpoint: Path, questions: list[tuple[Path, str]], tmp_path: Path
) -> None:
    content, path = load_checkpoint(checkpoint), tmp_path / "other.pt"
    spec = content["backbone"] | {"weights_sha256": "0" * 64}
    mine = spec | {"backbone": "resnet18", "weights": "mine.pth"}
    for backbone, weights, message in (
        (spec, None, r"clevr_cnn\.safetensors.*has other content"),
        (mine, tmp_path / "none.pth", r"resnet18 with the weights 'mine\.pth'"),
        (None, None, "does not record how its features were made"),
    ):
        save_checkpoint(path, content | {"backbone": backbone})
        with pytest.raises(UserError, match=message):
            filmvqa.load(path, backbone_weights=weights).ask(*questions[0])


def test_models_without_film_layers_say_so(tiny_set: Path, tmp_path: Path) -> None:
    train(tmp_path / "lstm", tiny_set, "lstm", max_steps=8)
    vqa = filmvqa.load(tmp_path / "lstm/best.pt")
    with pytest.raises(UserError, match="no FiLM layers"):
        vqa.film("Are there any cubes?")


def test_layers_that_use_no_gamma_and_beta_say_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqa = filmvqa.load(checkpoint)
    monkeypatch.setattr(type(vqa.model), "has_film_penalty", False)
    with pytest.raises(UserError, match="its layers use no γ and β of questions"):
        vqa.film("Are there any cubes?")


def test_questions_are_encoded_as_preprocessing_does(tiny_world: Path, tiny_set: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    records = read_questions(tiny_world / "questions/CLEVR_train_questions.json").questions
    with h5py.File(tiny_set / "train_questions.h5") as file:
        stored = file["questions"][:]
    for record, row in zip(records, stored, strict=True):
        indices = vocabulary.encode(record.question)
        assert indices == row[row > 0].tolist()
        assert vocabulary.decode(row) == record.question.removesuffix("?").replace(
            ";", " ;"
        ).replace(",", " ,")
    with pytest.raises(UserError, match="index 9999"):
        vocabulary.decode([1, 9999])
