from __future__ import annotations

import json
from collections import Counter

import pytest

from filmvqa.clevr.families import read_families
from filmvqa.clevr.programs import ANSWER_FUNCTIONS
from filmvqa.errors import UserError
from tests.clevr.official_template import OFFICIAL_TEMPLATES

FAMILIES_PER_GROUP = {
    "compare_integer": 9,
    "comparison": 16,
    "one_hop": 6,
    "same_relate": 28,
    "single_and": 5,
    "single_or": 8,
    "three_hop": 6,
    "two_hop": 6,
    "zero_hop": 6,
}


def test_ninety_families_in_nine_groups() -> None:
    families = read_families()
    assert Counter(f.group for f in families) == FAMILIES_PER_GROUP
    assert [f.index for f in families] == list(range(90))


def test_every_family_has_several_wordings_and_every_function_is_used() -> None:
    families = read_families()
    assert all(len(set(f.template.text)) >= 3 for f in families)
    last_functions = {f.template.nodes[-1].type.rpartition("filter_")[2] for f in families}
    assert last_functions == set(ANSWER_FUNCTIONS)


def test_every_text_contains_every_parameter() -> None:
    for family in read_families():
        for text in family.template.text:
            for parameter in family.template.params:
                if parameter.name not in family.template.null_parameters:
                    assert parameter.name in text, (family.index, text, parameter.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["nodes"][1].update(type="filter_all"), "unknown type 'filter_all'"),
        (lambda t: t["nodes"][1].update(inputs=[1]), "not an earlier node"),
        (lambda t: t["nodes"][1].update(inputs=[]), r"inputs of the types \[\], not \['set'\]"),
        (
            lambda t: t["nodes"][2].update(inputs=[0]),
            r"inputs of the types \['set'\], not \['object'\]",
        ),
        (lambda t: t["nodes"][1].update(side_inputs=["<Q>"]), r"side inputs of the types \[None\]"),
        (
            lambda t: t["nodes"][1].update(side_inputs=["<Z>"]),
            r"side inputs of the types \['Size'\]",
        ),
        (lambda t: t["nodes"].pop(), r"last node \(filter_unique\) does not give an answer"),
        (lambda t: t["params"].append({"type": "Size", "name": "<Z>"}), "two parameters"),
        (lambda t: t["constraints"].append({"type": "NULL", "params": []}), "constraint NULL"),
        (lambda t: t["constraints"].append({"type": "OUT_NEQ", "params": [0, 3]}), "OUT_NEQ"),
        (lambda t: t["constraints"].append({"type": "SOME", "params": []}), "constraint 'SOME'"),
        (lambda t: t.update(text=[]), "no text"),
        (lambda t: t.pop("nodes"), "nodes"),
    ],
)
def test_broken_templates_are_named(tmp_path, change, message: str) -> None:
    templates = json.loads(json.dumps(OFFICIAL_TEMPLATES))
    change(templates[0])
    (tmp_path / "broken.json").write_text(json.dumps(templates))
    with pytest.raises(UserError, match=message) as error_info:
        read_families(tmp_path)
    assert "broken.json" in str(error_info.value)


def test_unknown_families_and_folders_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match="four_hop"):
        read_families(selection=["zero_hop", "four_hop"])
    with pytest.raises(UserError, match="no such folder"):
        read_families(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no template files"):
        read_families(tmp_path)


def test_chosen_families_keep_their_numbers() -> None:
    assert [f.index for f in read_families(selection=["zero_hop", 0, 9])] == [0, 9, *range(84, 90)]
