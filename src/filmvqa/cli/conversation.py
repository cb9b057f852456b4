"""Questions to a trained network, from a prompt or a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.cli.messages import explain
from filmvqa.system.errors import UserError, warn
from filmvqa.tasks.masks import run_lengths
from filmvqa.vqa import VQA, Answer, FilmParameters, hash_content

HELP = """\
<question>       ask about the picture
/image <path>    choose another picture
/film            γ and β of each block for the last question
/words           the words that the network knows
/help            this list
/quit            end (also Ctrl-D)"""


class Conversation:
    """A network, the present picture, and the last question.

    Parameters
    ----------
    top
        The number of answers in a reply.
    allow_unknown
        As for ``VQA.ask``.
    """

    def __init__(self, vqa: VQA, top: int = 5, *, allow_unknown: bool = False) -> None:
        self.vqa, self.top, self.allow_unknown = vqa, top, allow_unknown
        self.image: str | None = None
        self.ended = False
        self._features: Tensor | None = None
        self._content = b""  # the same file may hold another picture later
        self._question: str | None = None
        self._film: FilmParameters | None = None

    def choose_image(self, path: str) -> None:
        """Make a file's present content the picture. Warn if it looks unlike the training set.

        Raises
        ------
        UserError
            If the file cannot be read.
        """
        content = hash_content(path)
        if content == self._content:
            self.image = path
            return
        features = self.vqa.features(path)
        self.image, self._features, self._content = path, features, content
        if warning := self.vqa.warning_about(features):
            warn(f"{path}: {warning}")

    def ask(self, question: str) -> Answer:
        """Answer a question about the picture.

        Raises
        ------
        UserError
            Without a picture, or for an unknown word.
        """
        if self._features is None:
            raise UserError("no picture to ask about; choose one with image=<path>")
        return self.vqa.ask(self._features, question, allow_unknown=self.allow_unknown)

    def reply(self, line: str) -> str:
        """The prompt's reply to a line, which is a question or a command.

        Raises
        ------
        UserError
            For an unknown word or command, or a picture that cannot be read.
        """
        line = line.strip()
        if line.startswith("/"):
            return self._obey(*line[1:].partition(" ")[::2])
        if not line:
            return ""
        answer = self.ask(line)
        self._question = line
        return format_answer(answer, self.top)

    def _obey(self, name: str, argument: str) -> str:
        argument = argument.strip()
        if name == "quit":
            self.ended = True
            return ""
        if name == "help":
            return HELP
        if name == "words":
            return ", ".join(sorted(self.vqa.vocabulary.words(), key=str.lower))
        if name == "image":
            if not argument:
                raise UserError("/image: which? give a path, /image picture.png")
            self.choose_image(argument)
            return ""
        if name == "film":
            if self._question is None:
                raise UserError("/film: nothing was asked yet; ask a question first")
            before = self._film
            self._film = self.vqa.film(self._question, allow_unknown=self.allow_unknown)
            return format_film(self._film, before)
        raise UserError(f"/{name}: no such command; /help lists them")


def format_answer(answer: Answer, top: int) -> str:
    """The answer, then the mask, or the likeliest answers with their probabilities as bars."""
    if answer.mask is not None:
        return "\n".join([answer.text, *_draw(answer.mask)])
    likeliest = list(answer.probabilities.items())[:top]
    width = max(len(text) for text, _ in likeliest)
    rows = [
        f"  {text.ljust(width)}  {100 * p:5.1f}%  {'█' * round(30 * p)}".rstrip()
        for text, p in likeliest
    ]
    return "\n".join([answer.text, *rows])


def _draw(mask: NDArray[np.bool_]) -> list[str]:
    """A mask (h, w) as text; each line shows two rows."""
    upper, lower = mask[::2], mask[1::2]
    if len(lower) < len(upper):
        lower = np.concatenate([lower, np.zeros_like(upper[:1])])
    signs = np.array(["·", "▄", "▀", "█"])[2 * upper.astype(int) + lower]
    return ["  " + "".join(row) for row in signs.tolist()]


def format_film(film: FilmParameters, before: FilmParameters | None = None) -> str:
    """The mean, standard deviation and range of each block's γ and β, and their change from the
    previous question's (root mean square over channels)."""
    lines = []
    for i, (gamma, beta) in enumerate(zip(film.gamma, film.beta, strict=True)):
        line = f"  block {i + 1}"
        for name, values in (("γ", gamma), ("β", beta)):
            line += f"   {name} {values.mean():5.2f} ± {values.std(correction=0):4.2f}"
            line += f" ({values.min():5.2f} to {values.max():5.2f})"
        if before is not None:
            changes = (film.gamma[i] - before.gamma[i], film.beta[i] - before.beta[i])
            gamma_change, beta_change = (change.square().mean().sqrt() for change in changes)
            line += f"   changed by γ {gamma_change:4.2f}, β {beta_change:4.2f}"
        lines.append(line)
    return "\n".join(lines)


def answer_lines(conversation: Conversation, lines: Iterable[str], out: TextIO) -> None:
    """Answer each line with a line of JSON: ``image``, ``question``, ``answer``, the
    ``probabilities`` of the likeliest answers and, for a network that predicts masks, the ``mask``
    (as ``run_lengths`` writes it); or ``error``.

    A line is a question about the present picture, or JSON with ``question`` and, for another
    picture, ``image``.

    Raises
    ------
    UserError
        At the end, if lines could not be answered.
    """
    count = failed = 0
    for line in lines:
        if not line.strip():
            continue
        count += 1
        record: dict[str, Any] = {"question": line.strip()}
        try:
            record = _read_line(line)
            if (image := record.get("image")) is not None:
                conversation.choose_image(image)
            record = {"image": conversation.image, **record}
            answer = conversation.ask(record["question"])
            likeliest = list(answer.probabilities.items())[: conversation.top]
            record |= {
                "answer": answer.text,
                "probabilities": {text: round(p, 6) for text, p in likeliest},
            }
            if answer.mask is not None:
                record["mask"] = run_lengths(torch.from_numpy(answer.mask))
        except (UserError, OSError) as error:
            failed += 1
            record["error"] = explain(error)
        print(json.dumps(record, ensure_ascii=False), file=out, flush=True)
    if failed:
        raise UserError(
            f"{failed} of {count} lines could not be answered; see their entries 'error'"
        )


def _read_line(line: str) -> dict[str, Any]:
    """A line's entries ``question`` and ``image``."""
    if not line.lstrip().startswith("{"):
        return {"question": line.strip()}
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"the line is not JSON ({error}); correct it") from None
    entries = {key: record[key] for key in ("image", "question") if record.get(key) is not None}
    if "question" not in entries or not all(isinstance(value, str) for value in entries.values()):
        raise UserError('the line needs "question", and may have "image", both texts')
    return entries
