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

#: What ends a sentence, and is no word: ``?`` and ``.`` in data sets, the others where people type.
_SENTENCE_END = "?.!。؟¡¿"
#: Of a typed piece of text: a word, a mark that may be a word, or the end of a sentence.
_TYPED = re.compile(rf"[^\W_]+(?:['-][^\W_]+)*|[;,]|[{_SENTENCE_END}]")
#: Apostrophes and hyphens of word processors, as the keyboard has them.
_AS_ON_KEYBOARD = str.maketrans("‘’ʼ‐‑–—", "'''----")


def tokenize(question: str) -> list[str]:
    """Words of a question; ``;`` and ``,`` are words, ``?`` and ``.`` are dropped.

    Splits at every single space, as film does: two spaces give an empty token, which CLEVR's
    released questions contain.
    """
    return [_without_ends(piece) for piece in _split(question)]


def _split(question: str) -> list[str]:
    for mark in (";", ","):
        question = question.replace(mark, f" {mark}")
    return question.split(" ")


def _without_ends(piece: str) -> str:
    return piece.replace("?", "").replace(".", "")


def _typed(piece: str) -> str:
    """Text in the characters of a keyboard, without invisible ones."""
    plain = unicodedata.normalize("NFKC", piece).translate(_AS_ON_KEYBOARD)
    return "".join(sign for sign in plain if unicodedata.category(sign) != "Cf")


class Vocabulary(msgspec.Struct, frozen=True, rename=lambda name: f"{name}_token_to_idx"):
    """Three maps from token to index.

    Those of questions and programs begin with the special tokens; that of answers has them only in
    vocabularies that film wrote.
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
        """A vocabulary of the given tokens in alphabetical order.

        ``words`` counts how often each occurs; those rarer than ``min_count`` are left out. With
        ``base``, its indices stay and new tokens follow them (CLEVR-Humans extends CLEVR's).
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
        """Plain data, as a checkpoint holds it."""
        return msgspec.structs.asdict(self)

    def check(self, path: str | Path) -> None:
        """Raise ``UserError`` unless every map counts from 0 and has its special tokens first."""
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
        """Identifies the vocabulary in question files and checkpoints."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def encode(self, question: str, *, allow_unknown: bool = False, remedy: str = "") -> list[int]:
        """Token indices of a question, between those of START and END.

        A question of a data set gives its ``tokenize``d words. A typed one is read as it was meant:
        the place of a word, not its case, decides between ``What``, which begins a sentence, and
        ``what`` within one, if both are known; spaces of all kinds, sentences' ends, quotation
        marks and full-width forms (Unicode's NFKC) are read as plain ones, and a mark that the
        vocabulary does not have is left out.

        Parameters
        ----------
        allow_unknown
            Encode unknown words as ``<UNK>``.
        remedy
            With what the message about an unknown word ends where that can be chosen.

        Raises
        ------
        UserError
            For an unknown word, which it names with the nearest known ones, or no words at all.
        """
        words = self._words(question)
        if not words:
            raise UserError(f"question {question!r}: has no words; ask with words")
        if not allow_unknown and (unknown := [word for word in words if word not in self.question]):
            nearest = get_close_matches(unknown[0].lower(), self.words(), n=3, cutoff=0.5)
            hint = "no known word is near it"
            if nearest:
                words_are = "words are" if len(nearest) > 1 else "word is"
                hint = f"the nearest known {words_are} {', '.join(nearest)}"
            raise UserError(
                f"question: the word {unknown[0]!r} is not in the vocabulary; {hint}{remedy}"
            )
        indices = [self.question.get(word, self.question[UNK]) for word in words]
        return [self.question[START], *indices, self.question[END]]

    def _words(self, question: str) -> list[str]:
        """The words of a question as the vocabulary spells them; unknown ones as they are."""
        words: list[str] = []
        begins = True
        for piece in _split(question.strip(" ")):
            word = _without_ends(piece)
            known = self._spelling(word, begins)
            if known is not None and (word or not piece):
                words.append(known)
                begins = (begins and not word) or piece.endswith(("?", "."))
                continue
            for part in _TYPED.findall(_typed(piece)):
                known = self._spelling(part, begins)
                if part in _SENTENCE_END:
                    begins = True
                elif known is not None or part not in ";,":
                    words.append(known or part)
                    begins = False
        while words and not words[-1]:
            words.pop()
        return words

    def _spelling(self, word: str, begins: bool) -> str | None:
        """The known spelling of a word at the beginning of a sentence, or within one."""
        capitals = (word[:1].upper() + word[1:], word.capitalize())
        small = (word[:1].lower() + word[1:], word.lower())
        first, then = (capitals, small) if begins else (small, capitals)
        spellings = (first[0], word, first[1], *then)
        return next((spelling for spelling in spellings if spelling in self.question), None)

    def words(self) -> list[str]:
        """The words of questions, without special tokens."""
        return [word for word in self.question if word and word not in SPECIAL_TOKENS]

    def decode(self, indices: Iterable[int]) -> str:
        """The words of token indices up to the first END, joined with spaces; other special tokens
        but ``<UNK>`` are left out.

        Raises
        ------
        UserError
            For an index that the vocabulary does not have.
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
        """Answers by index."""
        return sorted(self.answer, key=self.answer.__getitem__)


def _extend(base: dict[str, int], tokens: set[str]) -> dict[str, int]:
    fresh = sorted(tokens - base.keys())
    return base | {token: len(base) + i for i, token in enumerate(fresh)}
