"""The order of the package's rooms: which may import which."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "src/filmvqa"
#: Rooms from the ground up, floor by floor: a file imports only from its own room and from those
#: that stand before it.
FLOORS = (
    ("errors", "settings", "renamed_keys", "nested", "tables", "disk", "files", "lock_markers", "processes", "locks",
     "memory", "cores", "devices", "determinism", "layout", "film"),
    ("worlds",),
    ("clevr", "segmentation", "sound"),
    ("data", "models"),
    ("exported", "checkpoint", "interop", "evaluation"),
    ("training",),
    ("vqa", "reports", "inspection", "search", "correction"),
    ("page", "benchmark"),
    ("cli",),
)  # fmt: skip
ROOMS = [room for floor in FLOORS for room in floor]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """All modules that a file imports, wherever in it, also for type checking alone."""
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
    """The room of a module of the package; None for the package's face and other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "filmvqa" and len(parts) > 1 else None


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} - {None} == set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"filmvqa"}))
def test_a_file_imports_only_from_rooms_below(module: str) -> None:
    room = ROOMS.index(str(room_of(module)))
    rooms = {room_of(other) for other in imports_of(MODULES[module])} - {None}
    above = {other for other in rooms if ROOMS.index(str(other)) > room}
    assert not above


def test_data_and_models_do_not_know_each_other() -> None:
    for module, path in MODULES.items():
        rooms = {room_of(module), *(room_of(other) for other in imports_of(path))}
        assert not (room_of(module) in ("data", "models") and {"data", "models"} <= rooms), module


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: imports_of(path) & MODULES.keys() for module, path in MODULES.items()}
    del graph["filmvqa"]  # its face imports lazily what imports its version
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_worlds_need_no_torch() -> None:
    for module, path in MODULES.items():
        if room_of(module) in ("worlds", "clevr", "segmentation", "sound"):
            assert not any(name.split(".")[0] == "torch" for name in imports_of(path)), module


def test_hydra_stays_in_the_command_line() -> None:
    for module, path in MODULES.items():
        names = {name.split(".")[0] for name in imports_of(path)}
        assert room_of(module) == "cli" or not names & {"hydra", "omegaconf"}, module
