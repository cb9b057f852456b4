from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.questions.vocabulary import END, SPECIAL_TOKENS, START, Vocabulary, tokenize
from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.families import REFERRING, read_families
from filmvqa.worlds.engine.world import CLEVR, World
from filmvqa.worlds.sound.scenes import SOUND


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


def test_indices_start_with_the_special_tokens() -> None:
    vocabulary = Vocabulary.build({"b": 1, "a": 2}, ["count", "scene"], ["yes", "0"])
    assert list(vocabulary.question) == [*SPECIAL_TOKENS, "a", "b"]
    assert list(vocabulary.program) == [*SPECIAL_TOKENS, "count", "scene"]
    assert list(vocabulary.program.values()) == list(range(6))
    assert vocabulary.answer == {"0": 0, "yes": 1}
    assert vocabulary.answers() == ["0", "yes"]


def test_rare_words_are_left_out_and_a_base_keeps_its_indices() -> None:
    base = Vocabulary.build({"a": 1, "c": 1}, [], ["yes"])
    grown = Vocabulary.build({"b": 2, "a": 1, "z": 1}, [], ["no", "yes"], min_count=2, base=base)
    assert grown.question == {**base.question, "b": 6}
    assert grown.answer == {"yes": 0, "no": 1}


def test_a_saved_vocabulary_is_loaded_unchanged(tmp_path) -> None:
    vocabulary = Vocabulary.build({"é": 1, "": 1}, ["filter_color[red]"], ["10"])
    vocabulary.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert loaded == vocabulary
    assert loaded.sha256() == vocabulary.sha256()
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


def test_the_releases_vocabulary_loads(shared) -> None:
    vocabulary = Vocabulary.load(shared / "reference" / "clevr_vocab.json")
    assert [len(tokens) for tokens in vocabulary.to_dict().values()] == [93, 44, 32]


def test_a_missing_vocabulary_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"preprocess_questions\.py"):
        Vocabulary.load(tmp_path / "vocab.json")


#: Other ways to type a question.
TYPED = {
    "unchanged": str,
    "small letters": str.lower,
    "capitals": str.upper,
    "every word with a capital": str.title,
    "no mark": lambda text: text.rstrip("?."),
    "other marks": lambda text: text.replace("?", " ?!"),
    "full-width marks": lambda text: text.replace("?", "\uff1f").replace(";", "\uff1b"),
    "full-width letters": lambda text: "".join(
        chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text
    ),
    "spaces at the ends": "  {} ".format,
    "tabs and line ends": lambda text: text.replace(" ", "\t\n"),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "ideographic spaces": lambda text: text.replace(" ", "\u3000"),
    "quotation marks": "“{}”".format,
    "invisible characters": "\ufeff{}\u200b".format,
    "no space after a mark": lambda text: text.replace("; ", ";").replace(". ", "."),
}


def texts_of_templates(world: World, folder: str | None) -> list[str]:
    """The texts of all templates, which have all words but values, in all of their places."""
    families = read_families(folder, world=world)
    texts = [text for family in families for text in family.template.text]
    return [re.sub("<.*?>", "big", re.sub(r"[][]", "", text)) for text in texts]


@pytest.mark.parametrize("form", TYPED)
@pytest.mark.parametrize(
    ("world", "folder"),
    [(CLEVR, None), (CLEVR, REFERRING), (SOUND, None)],
    ids=["clevr", "referring", "sound"],
)
def test_a_typed_question_has_the_tokens_of_the_data_set(
    world: World, folder: str | None, form: str
) -> None:
    texts = texts_of_templates(world, folder)
    vocabulary = Vocabulary.build(Counter(word for t in texts for word in tokenize(t)), [], [])
    for text in texts:
        tokens = [vocabulary.question[word] for word in (START, *tokenize(text), END)]
        assert vocabulary.encode(TYPED[form](text)) == tokens, text


def test_double_spaces_are_words_if_the_vocabulary_has_them() -> None:
    released = Vocabulary.build({"": 1, "two": 1, "spaces": 1}, [], [])
    assert released.decode(released.encode("two  spaces?")) == "two  spaces"
    assert released.decode(released.encode(" two  spaces ? ")) == "two  spaces"
    ours = Vocabulary.build({"two": 1, "spaces": 1}, [], [])
    assert ours.decode(ours.encode(" two  spaces ")) == "two spaces"


@given(
    st.lists(st.from_regex(r"[abABé]+(['-][abABé]+)?", fullmatch=True), min_size=1),
    st.sampled_from(["", "?", ".", "!", " ?"]),
)
def test_only_the_position_of_a_word_decides_its_case(words: list[str], end: str) -> None:
    spellings = {form for word in words for form in (word.lower(), word.lower().capitalize())}
    vocabulary = Vocabulary.build(dict.fromkeys(spellings, 1), [], [])
    small = vocabulary.encode(" ".join(words).lower() + end)
    assert vocabulary.encode(" ".join(words) + end) == small
    first, *rest = [word.lower() for word in words]
    assert vocabulary.decode(small).split(" ") == [first.capitalize(), *rest]
