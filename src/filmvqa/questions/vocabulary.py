"""Tokens and vocabularies, in the format of film and clevr-iep."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

import msgspec

from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes, write_file
from filmvqa.worlds.engine.schema import decode_json

NULL, START, END, UNK = "<NULL>", "<START>", "<END>", "<UNK>"
SPECIAL_TOKENS = (NULL, START, END, UNK)

#: Marks that end a sentence and are no words. Data sets have only ``?`` and ``.``; users type all.
_SENTENCE_END = "?.!。؟¡¿"
#: A part of typed text: a word, a mark that may be a token, or the end of a sentence.
_TYPED = re.compile(rf"[^\W_]+(?:['-][^\W_]+)*|[;,]|[{_SENTENCE_END}]")
#: Apostrophes and hyphens of word processors, to those of the keyboard.
_TO_KEYBOARD = str.maketrans("‘’ʼ‐‑–—", "'''----")


def tokenize(question: str) -> list[str]:
    """Split a question into words. ``;`` and ``,`` are words; ``?`` and ``.`` are dropped.

    Like film, split at each single space. Two spaces give an empty token; CLEVR's released
    questions contain some.
    """
    return [_without_ends(piece) for piece in _split(question)]


def _split(question: str) -> list[str]:
    for mark in (";", ","):
        question = question.replace(mark, f" {mark}")
    return question.split(" ")


def _without_ends(piece: str) -> str:
    return piece.replace("?", "").replace(".", "")


def _as_on_keyboard(text: str) -> str:
    """Normalise text to characters of a keyboard, without invisible ones."""
    plain = unicodedata.normalize("NFKC", text).translate(_TO_KEYBOARD)
    return "".join(char for char in plain if unicodedata.category(char) != "Cf")


class Vocabulary(msgspec.Struct, frozen=True, rename=lambda name: f"{name}_token_to_idx"):
    """Three maps from token to index: of question words, program steps and answers.

    The maps of questions and programs begin with the special tokens. The map of answers has them
    only in film's own files.
    """

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
        """Build a vocabulary with its tokens in alphabetical order.

        Parameters
        ----------
        words
            The count of each question word. Words rarer than ``min_count`` are left out.
        base
            A vocabulary to extend: its indices stay, and new tokens follow (CLEVR-Humans extends
            CLEVR's vocabulary).
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
            If the file is missing or malformed, or its indices are not 0 to n-1.
        """
        make = "with scripts/preprocess_questions.py"
        content = read_bytes(path, f"make it {make}")
        vocabulary = decode_json(content, cls, path, f"make it again {make}")
        vocabulary.check(path)
        return vocabulary

    @classmethod
    def from_dict(cls, maps: dict[str, dict[str, int]]) -> Vocabulary:
        """The inverse of ``to_dict``."""
        return cls(maps["question"], maps["program"], maps["answer"])

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Plain data for a checkpoint."""
        return msgspec.structs.asdict(self)

    def check(self, path: str | Path) -> None:
        """Raise ``UserError`` unless indices count from 0 and special tokens come first."""
        for name, tokens in self.to_dict().items():
            if sorted(tokens.values()) != list(range(len(tokens))):
                raise UserError(f"{path}: indices of {name} tokens are not 0 to {len(tokens) - 1}")
            if name != "answer" and any(tokens.get(t) != i for i, t in enumerate(SPECIAL_TOKENS)):
                raise UserError(f"{path}: {name} tokens do not begin with {SPECIAL_TOKENS}")

    def encoded(self) -> bytes:
        """The bytes of ``vocab.json``."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def save(self, path: str | Path) -> None:
        """Write ``vocab.json``."""
        write_file(path, self.encoded())

    def sha256(self) -> str:
        """Hash that identifies the vocabulary in question files and checkpoints."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def encode(self, question: str, *, allow_unknown: bool = False, remedy: str = "") -> list[int]:
        """Encode a question as token indices, between START and END.

        A question of a data set is encoded exactly as ``tokenize`` splits it. A typed question is
        normalised: if the vocabulary has both ``What`` and ``what``, the position in the sentence
        decides, not the typed case. All spaces, sentence ends, quotation marks and full-width forms
        (Unicode's NFKC) count as plain ones. Marks that the vocabulary lacks are dropped.

        Parameters
        ----------
        allow_unknown
            Encode unknown words as ``<UNK>``.
        remedy
            The end of the error message about an unknown word.

        Raises
        ------
        UserError
            If a word is unknown (the message names the nearest known words), or there are no words.
        """
        words = self._words(question)
        if not words:
            raise UserError(f"question {question!r}: has no words; ask with words")
        if not allow_unknown and (unknown := [word for word in words if word not in self.question]):
            nearest = get_close_matches(unknown[0].lower(), self.words(), n=3, cutoff=0.5)
            hint = "no known word is similar"
            if nearest:
                words_are = "words are" if len(nearest) > 1 else "word is"
                hint = f"the nearest known {words_are} {', '.join(nearest)}"
            raise UserError(
                f"question: the word {unknown[0]!r} is not in the vocabulary; {hint}{remedy}"
            )
        indices = [self.question.get(word, self.question[UNK]) for word in words]
        return [self.question[START], *indices, self.question[END]]

    def _words(self, question: str) -> list[str]:
        """Split a question into words, spelled as in the vocabulary if it has them."""
        words: list[str] = []
        at_start = True
        for piece in _split(question.strip(" ")):
            word = _without_ends(piece)
            spelling = self._spelling(word, at_start)
            if spelling is not None and (word or not piece):
                words.append(spelling)
                at_start = (at_start and not word) or piece.endswith(("?", "."))
                continue
            for part in _TYPED.findall(_as_on_keyboard(piece)):
                spelling = self._spelling(part, at_start)
                if part in _SENTENCE_END:
                    at_start = True
                elif spelling is not None or part not in ";,":
                    words.append(spelling or part)
                    at_start = False
        while words and not words[-1]:
            words.pop()
        return words

    def _spelling(self, word: str, at_start: bool) -> str | None:
        """The vocabulary's spelling of a word, at the start of a sentence or within it."""
        capitals = (word[:1].upper() + word[1:], word.capitalize())
        small = (word[:1].lower() + word[1:], word.lower())
        first, then = (capitals, small) if at_start else (small, capitals)
        spellings = (first[0], word, first[1], *then)
        return next((spelling for spelling in spellings if spelling in self.question), None)

    def words(self) -> list[str]:
        """Question words, without special tokens."""
        return [word for word in self.question if word and word not in SPECIAL_TOKENS]

    def decode(self, indices: Iterable[int]) -> str:
        """Join the words of token indices with spaces, up to the first END.

        NULL and START are left out; ``<UNK>`` stays.

        Raises
        ------
        UserError
            For an index outside the vocabulary.
        """
        by_index = {index: word for word, index in self.question.items()}
        words = []
        for index in map(int, indices):
            if (word := by_index.get(index)) is None:
                raise UserError(
                    f"question: index {index} is not one of the vocabulary's {len(by_index)}"
                )
            if word == END:
                break
            if word not in (NULL, START):
                words.append(word)
        return " ".join(words)

    def answers(self) -> list[str]:
        """Answers, ordered by index."""
        return sorted(self.answer, key=self.answer.__getitem__)


def _extend(base: dict[str, int], tokens: set[str]) -> dict[str, int]:
    new_tokens = sorted(tokens - base.keys())
    return base | {token: len(base) + i for i, token in enumerate(new_tokens)}
