"""Questions at the prompt and through a pipe, to a network of the package."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import filmvqa
from filmvqa.cli.conversation import Conversation, answer_lines
from filmvqa.cli.prompt import complete_text, run_prompt
from filmvqa.system.errors import Interrupted, UserError
from filmvqa.vqa import VQA
from tests.conftest import REPOSITORY, run_script, script_environment

COLOR = "What color is the large thing?"


@pytest.fixture(scope="module")
def vqa() -> VQA:
    return filmvqa.load("clevr_world", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def picture(tiny_world: Path) -> str:
    return str(sorted((tiny_world / "images/val").glob("*.png"))[0])


@pytest.fixture
def conversation(vqa: VQA, picture: str) -> Conversation:
    conversation = Conversation(vqa, top=3)
    conversation.choose_image(picture)
    return conversation


def test_a_reply_has_the_likeliest_answers(conversation: Conversation, picture: str) -> None:
    first, *rows = conversation.reply(COLOR).splitlines()
    expected = conversation.vqa.ask(picture, COLOR)
    assert first == expected.text
    assert [row.split()[0] for row in rows] == list(expected.probabilities)[:3]
    shares = [float(re.search(r"([0-9.]+)%", row)[1]) for row in rows]
    assert shares == pytest.approx([100 * p for p in list(expected.probabilities.values())[:3]],
                                   abs=0.06)  # fmt: skip


def test_a_file_that_holds_another_picture_is_another_picture(
    vqa: VQA, tiny_world: Path, tmp_path: Path
) -> None:
    """A camera writes its frames to one file, with a question about each."""
    frame, out = tmp_path / "frame.png", io.StringIO()
    pictures = sorted((tiny_world / "images/val").glob("*.png"))[:3]
    question = "How many things are there?"

    def lines() -> Iterator[str]:
        for picture in pictures:
            frame.write_bytes(picture.read_bytes())
            yield json.dumps({"image": str(frame), "question": question})

    answer_lines(Conversation(vqa, top=1), lines(), out)
    for line, picture in zip(out.getvalue().splitlines(), pictures, strict=True):
        expected = vqa.ask(picture, question).probabilities
        (share,) = json.loads(line)["probabilities"].values()
        assert share == pytest.approx(max(expected.values()), abs=1e-5)


def test_gamma_and_beta_of_the_last_question(conversation: Conversation) -> None:
    with pytest.raises(UserError, match="nothing was asked yet"):
        conversation.reply("/film")
    conversation.reply(COLOR)
    lines = conversation.reply("/film").splitlines()
    gamma = conversation.vqa.film(COLOR).gamma
    assert len(lines) == len(gamma)
    assert f"γ {gamma[0].mean():5.2f} ± {gamma[0].std(correction=0):4.2f}" in lines[0]
    assert "changed by" not in lines[0]
    conversation.reply("Is there a cube?")
    changed = conversation.reply("/film")
    difference = conversation.vqa.film("Is there a cube?").gamma[0] - gamma[0]
    assert f"changed by γ {difference.square().mean().sqrt():4.2f}" in changed.splitlines()[0]


def test_what_cannot_be_answered_leaves_the_conversation_as_it_was(
    conversation: Conversation, picture: str
) -> None:
    for line, message in (
        ("What is tehre?", "'tehre' is not in the vocabulary; the nearest known words are there"),
        ("What colour is it?", "'colour' is not in the vocabulary; the nearest known words are"),
        ("/imag x", "/imag: no such command; /help lists them"),
        ("/image", "/image: which"),
        ("/image nothing.png", "nothing.png: no such file"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            conversation.reply(line)
    assert conversation.image == picture
    assert conversation.reply(COLOR)
    assert conversation.reply("  ") == ""


def test_without_a_picture(vqa: VQA) -> None:
    with pytest.raises(UserError, match="no picture to ask about"):
        Conversation(vqa).reply(COLOR)


def test_a_picture_of_another_world_is_answered_with_a_warning(
    conversation: Conversation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 144, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    assert "warning" not in capsys.readouterr().err
    conversation.reply(f"/image {path}")
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {path}: looks unlike what the network was trained on")
    assert err.count("\n") == 1
    assert conversation.reply(COLOR)


def test_a_prompt_continues_after_errors_and_ctrl_c(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter([COLOR, "Which hue?", KeyboardInterrupt(), "/help", "/quit", "never read"])

    def read(prompt: str) -> str:
        assert prompt == f"{conversation.image}> "
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    run_prompt(conversation, read)
    out = capsys.readouterr().out
    assert "is not in the vocabulary; " in out
    assert "/image <path>" in out
    assert next(lines) == "never read"

    def at_its_end(prompt: str) -> str:
        raise EOFError

    run_prompt(Conversation(conversation.vqa), at_its_end)

    def at_a_signal(prompt: str) -> str:
        raise Interrupted("stopped by SIGTERM")

    with pytest.raises(Interrupted):
        run_prompt(Conversation(conversation.vqa), at_a_signal)


def test_completion_of_words_commands_and_paths(conversation: Conversation, tmp_path: Path) -> None:
    assert "cylinder" in complete_text(conversation, "Is there a cy", "cy")
    assert complete_text(conversation, "/fi", "/fi") == ["/film"]
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    start = f"{tmp_path}/a"
    assert complete_text(conversation, f"/image {start}", start) == [f"{tmp_path}/a.png"]


def test_lines_become_lines_of_json(vqa: VQA, picture: str, tiny_world: Path) -> None:
    other = str(sorted((tiny_world / "images/val").glob("*.png"))[1])
    conversation = Conversation(vqa, top=2)
    lines = [
        f"{COLOR}\n", "\n", json.dumps({"image": picture, "question": COLOR}), "How many cubes?",
        json.dumps({"image": other, "question": COLOR}), '{"image": 3, "question": "x"}', "{",
    ]  # fmt: skip
    out = io.StringIO()
    with pytest.raises(UserError, match="3 of 6 lines could not be answered"):
        answer_lines(conversation, lines, out)
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert "no picture" in records[0]["error"]
    assert records[1]["answer"] == vqa.ask(picture, COLOR).text
    assert len(records[1]["probabilities"]) == 2
    assert records[2]["image"] == picture
    assert records[3]["image"] == other
    assert "both texts" in records[4]["error"]
    assert "not JSON" in records[5]["error"]


def test_the_script_answers_one_question(picture: str) -> None:
    done = run_script("ask.py", f"image={picture}", f"question='{COLOR}'", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer, *rows = done.stdout.splitlines()
    assert len(rows) == 5
    assert rows[0].split()[0] == answer
    done = run_script("ask.py", f"image={picture}", "question='What hue?'")
    assert done.returncode == 1
    assert done.stderr.startswith("error: question: the word 'hue' is not in the vocabulary")


@pytest.mark.slow
def test_a_terminal_gets_a_prompt(picture: str) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts/ask.py"), f"image={picture}", "device=cpu"],
        stdin=child, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=script_environment(),
    )  # fmt: skip
    os.write(parent, f"{COLOR}\n/quit\n".encode())
    out, _ = process.communicate(timeout=120)
    os.close(child)
    os.close(parent)
    assert process.returncode == 0, out
    assert "Ask about the picture, or /help." in out.decode()
    assert re.search(r"[0-9.]+%  █", out.decode())
