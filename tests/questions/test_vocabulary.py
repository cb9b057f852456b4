from __future__ import annotations

import pytest

from filmvqa.questions.vocabulary import SPECIAL_TOKENS, Vocabulary, tokenize
from filmvqa.system.errors import UserError


@pytest.mark.parametrize(
    ("question", "tokens"),
    [
        ("Is it red?", ["Is", "it", "red"]),
        ("There is a cube; what is it?", ["There", "is", "a", "cube", ";", "what", "is", "it"]),
        ("Red, blue. Green?", ["Red", ",", "blue", "Green"]),
        ("two  spaces?", ["two", "", "spaces"]),  # as in the release's questions
    ],
)
def test_tokens_are_split_as_film_splits_them(question: str, tokens: list[str]) -> None:
    assert tokenize(question) == tokens


def test_vocabulary_counts_from_the_special_tokens() -> None:
    vocabulary = Vocabulary.build({"b": 1, "a": 2}, ["count", "scene"], ["yes", "0"])
    assert list(vocabulary.question) == [*SPECIAL_TOKENS, "a", "b"]
    assert vocabulary.program == {
        **{t: i for i, t in enumerate(SPECIAL_TOKENS)},
        "count": 4,
        "scene": 5,
    }
    assert vocabulary.answer == {"0": 0, "yes": 1}
    assert vocabulary.answers() == ["0", "yes"]


def test_rare_words_stay_out_and_a_base_keeps_its_indices() -> None:
    base = Vocabulary.build({"a": 1, "c": 1}, [], ["yes"])
    grown = Vocabulary.build({"b": 2, "a": 1, "z": 1}, [], ["no", "yes"], min_count=2, base=base)
    assert grown.question == {**base.question, "b": 6}
    assert grown.answer == {"yes": 0, "no": 1}


def test_a_vocabulary_survives_its_file(tmp_path) -> None:
    vocabulary = Vocabulary.build({"é": 1, "": 1}, ["filter_color[red]"], ["10"])
    vocabulary.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert loaded == vocabulary
    assert loaded.sha256() == vocabulary.sha256()
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


def test_the_releases_vocabulary_loads(shared) -> None:
    vocabulary = Vocabulary.load(shared / "reference" / "clevr_vocab.json")
    assert (len(vocabulary.question), len(vocabulary.program), len(vocabulary.answer)) == (
        93,
        44,
        32,
    )


def test_a_missing_vocabulary_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(UserError, match=r"preprocess_questions\.py"):
        Vocabulary.load(tmp_path / "vocab.json")
