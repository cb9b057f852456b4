"""The order of the package's rooms: which rooms may import which."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "src/filmvqa"
#: The floors of rooms from the ground up. A file imports only from its own floor and lower ones,
#: and rooms of one floor never import each other both ways.
FLOORS = (
    ("system", "settings", "film"),
    ("worlds.engine", "models"),
    ("worlds.clevr", "worlds.sound", "questions", "features", "backbones"),
    ("tasks", "checkpoints"),
    ("evaluation",),
    ("training",),
    ("vqa",),
    ("studies", "uses"),
    ("page", "benchmark"),
    ("cli",),
)
FLOOR_OF = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
#: The rooms outside of the core, which the core never imports.
NOT_CORE = ("worlds.clevr", "worlds.sound", "studies", "uses", "page", "benchmark", "cli")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """All modules that a file imports at any place, also those only for type checking."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= (names & MODULES.keys()) or {str(node.module)}
    return modules


def room_of(module: str) -> str | None:
    """A module's room; None for the package itself and for other packages."""
    path = module.removeprefix("filmvqa.")
    rooms = (room for room in FLOOR_OF if path == room or path.startswith(f"{room}."))
    return next(rooms, None) if module.startswith("filmvqa.") else None


def imported_rooms(module: str) -> set[str]:
    return {str(room_of(other)) for other in imports_of(MODULES[module])} - {"None"}


ALL = sorted(MODULES.keys() - {"filmvqa", "filmvqa.__main__", "filmvqa.worlds"})


def test_every_file_has_its_room() -> None:
    assert {str(room_of(module)) for module in ALL} == FLOOR_OF.keys()


@pytest.mark.parametrize("module", ALL)
def test_a_file_imports_only_from_its_floor_and_below(module: str) -> None:
    floor = FLOOR_OF[str(room_of(module))]
    assert not {room for room in imported_rooms(module) if FLOOR_OF[room] > floor}


def test_rooms_of_one_floor_do_not_import_each_other_both_ways() -> None:
    graph: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
    for module in ALL:
        room = str(room_of(module))
        graph[room] |= imported_rooms(module) - {room}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_core_imports_nothing_else() -> None:
    for module in ALL:
        if room_of(module) not in NOT_CORE:
            assert not imported_rooms(module) & set(NOT_CORE), module


def test_models_and_the_rooms_of_the_data_do_not_know_each_other() -> None:
    data = {"questions", "features", "backbones"}
    for module in ALL:
        room = room_of(module)
        if room == "models":
            assert not imported_rooms(module) & data, module
        elif room in data:
            assert "models" not in imported_rooms(module), module


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: imports_of(path) & MODULES.keys() for module, path in MODULES.items()}
    del graph["filmvqa"]  # it lazily imports modules that import its version
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_worlds_need_no_torch() -> None:
    for module, path in MODULES.items():
        if module.startswith("filmvqa.worlds"):
            assert not any(name.split(".")[0] == "torch" for name in imports_of(path)), module


def test_hydra_stays_in_the_command_line() -> None:
    for module, path in MODULES.items():
        names = {name.split(".")[0] for name in imports_of(path)}
        assert room_of(module) == "cli" or not names & {"hydra", "omegaconf"}, module
