"""Tokens and vocabularies, in the format that film and clevr-iep write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from filmvqa.errors import UserError
from filmvqa.files import read_bytes, write_file

NULL, START, END, UNK = "<NULL>", "<START>", "<END>", "<UNK>"
SPECIAL_TOKENS = (NULL, START, END, UNK)


def tokenize(question: str) -> list[str]:
    """Words of a question; ``;`` and ``,`` are words of their own, ``?`` and ``.`` go.

    Splits at every single space, as film does: two spaces give an empty token, which CLEVR's
    released questions contain.
    """
    for mark in (";", ","):
        question = question.replace(mark, f" {mark}")
    return question.replace("?", "").replace(".", "").split(" ")


class _VocabularyFile(msgspec.Struct):
    question_token_to_idx: dict[str, int]
    program_token_to_idx: dict[str, int]
    answer_token_to_idx: dict[str, int]


@dataclass(frozen=True)
class Vocabulary:
    """Three maps from token to index. Questions and programs begin with the special tokens;
    answers have none, but for vocabularies that film wrote."""

    question: dict[str, int]
    program: dict[str, int]
    answer: dict[str, int]

    @classmethod
    def build(
        cls,
        words: Mapping[str, int],
        steps: Iterable[str],
        answers: Iterable[str],
        min_count: int = 1,
        base: Vocabulary | None = None,
    ) -> Vocabulary:
        """A vocabulary of the given tokens in alphabetical order.

        ``words`` counts how often each came; those that came fewer than ``min_count`` times are
        left out. With ``base``, its indices stay and new tokens follow them (CLEVR-Humans grows
        CLEVR's).
        """
        frequent = {word for word, n in words.items() if n >= min_count}
        special = {t: i for i, t in enumerate(SPECIAL_TOKENS)}
        return cls(
            _extend(base.question if base else special, frequent),
            _extend(base.program if base else special, set(steps)),
            _extend(base.answer if base else {}, set(answers)),
        )

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read ``vocab.json``.

        Raises
        ------
        UserError
            If it is missing, malformed, or its indices are not 0 to n-1.
        """
        content = read_bytes(path, "make it with scripts/preprocess_questions.py")
        try:
            found = msgspec.json.decode(content, type=_VocabularyFile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: {error}; make it again with scripts/preprocess_questions.py"
            ) from None
        vocabulary = cls(
            found.question_token_to_idx, found.program_token_to_idx, found.answer_token_to_idx
        )
        vocabulary.check(str(path))
        return vocabulary

    @classmethod
    def from_dict(cls, maps: dict[str, dict[str, int]]) -> Vocabulary:
        """The inverse of ``to_dict``."""
        return cls(maps["question"], maps["program"], maps["answer"])

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Plain data, as a checkpoint holds it."""
        return {"question": self.question, "program": self.program, "answer": self.answer}

    def check(self, place: str) -> None:
        """Raise ``UserError`` unless every map counts from 0 and has its special tokens first."""
        for name, tokens in self.to_dict().items():
            if sorted(tokens.values()) != list(range(len(tokens))):
                raise UserError(f"{place}: indices of {name} tokens are not 0 to {len(tokens) - 1}")
            if name != "answer" and any(tokens.get(t) != i for i, t in enumerate(SPECIAL_TOKENS)):
                raise UserError(f"{place}: {name} tokens do not begin with {SPECIAL_TOKENS}")

    def encoded(self) -> bytes:
        """The bytes of ``vocab.json``."""
        record = _VocabularyFile(self.question, self.program, self.answer)
        return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"

    def save(self, path: str | Path) -> None:
        """Write ``vocab.json``."""
        write_file(path, self.encoded())

    def sha256(self) -> str:
        """What question files and checkpoints record of the vocabulary they were made with."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def answers(self) -> list[str]:
        """Answers by index."""
        return sorted(self.answer, key=self.answer.__getitem__)


def _extend(base: dict[str, int], tokens: set[str]) -> dict[str, int]:
    fresh = sorted(tokens - base.keys())
    return base | {token: len(base) + i for i, token in enumerate(fresh)}
