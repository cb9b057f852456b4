from __future__ import annotations

import json

import pytest

from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.families import read_families
from tests.worlds.clevr.official_template import OFFICIAL_TEMPLATES

ATTRIBUTES = ("size", "color", "material", "shape")
#: The last functions of the families in the release's order, and how many relations each has.
RELEASE = {
    "compare_integer": [
        (f, n) for n in (0, 1, 2) for f in ("equal_integer", "less_than", "greater_than")
    ],
    "comparison": [(f"equal_{a}", 0) for a in ATTRIBUTES]
    + [(f"equal_{a}", n) for a in ATTRIBUTES for n in (1, 1, 2)],
    "three_hop": [
        (f, 3) for f in ("count", "exist", "query_size", "query_shape", "query_color",
                         "query_material")
    ],
    "single_and": [(f, 2) for f in ("count", *(f"query_{a}" for a in ATTRIBUTES))],
    "same_relate": [(f, 0) for f in ("exist", "count", "exist", "count") for _ in ATTRIBUTES]
    + [(f"query_{asked}", 0) for a in ATTRIBUTES for asked in ATTRIBUTES if asked != a],
    "single_or": [("count", n) for n in (0, 0, 0, 2, 0, 0, 1, 1)],
    "one_hop": [(f, 1) for f in ("count", "exist", *(f"query_{a}" for a in ATTRIBUTES))],
    "two_hop": [(f, 2) for f in ("count", "exist", *(f"query_{a}" for a in ATTRIBUTES))],
    "zero_hop": [
        (f, 0) for f in ("count", "exist", "query_shape", "query_material", "query_color",
                         "query_size")
    ],
}  # fmt: skip


def test_families_have_the_releases_numbers() -> None:
    families = read_families()
    assert [f.index for f in families] == list(range(90))
    groups: dict[str, list[tuple[str, int]]] = {}
    for family in families:
        nodes = family.template.nodes
        relations = sum(node.type.startswith("relate") for node in nodes)
        groups.setdefault(family.group, []).append((nodes[-1].last_function, relations))
    assert list(groups.items()) == list(RELEASE.items())
    assert [f.index for f in read_families(selection=["zero_hop", 0, 9])] == [0, 9, *range(84, 90)]


def test_other_files_are_numbered_after_those_of_the_release(tmp_path) -> None:
    for name in ("a", "zero_hop", "comparison"):
        (tmp_path / f"{name}.json").write_text(json.dumps(OFFICIAL_TEMPLATES))
    assert [f.group for f in read_families(tmp_path)] == ["comparison", "zero_hop", "a"]


def test_every_family_has_several_wordings_with_all_parameters() -> None:
    for family in read_families():
        wordings = family.template.text
        assert len(set(wordings)) == len(wordings) >= 2, (family.index, wordings)
        names = {p.name for p in family.template.params} - family.template.null_parameters
        assert all(name in text for name in names for text in wordings), family.index


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
    for folder, message in (
        (None, "four_hop"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "no template files"),
    ):
        with pytest.raises(UserError, match=message):
            read_families(folder, ["zero_hop", "four_hop"])
