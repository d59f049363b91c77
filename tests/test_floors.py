"""Rooms import from lower floors only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src"
FLOORS = [
    ["types", "locks", "atomic"],
    [
        "losses",
        "metrics",
        "statistics",
        "machine",
        "optimiser",
        "data",
        "backbones",
        "explicit",
        "config",
        "policies",
        "states",
        "raw_lines",
        "graphs",
    ],
    ["recorded", "lesion_bootstrap"],
    ["episodes", "inner", "pixels"],
    ["gradients", "validation", "resident"],
    ["training", "meta_batch"],
    ["supervised"],
    ["methods"],
    ["run_record", "equal_parts"],
    ["checkpoint", "evaluation", "report", "pictures", "support_set", "trust"],
    ["scales", "trust_file"],
    ["bundle"],
    ["drawing", "tables_text"],
    ["figures", "paper_figures", "runs", "results", "model_card"],
    ["federated", "judging"],
    ["evaluated"],
    ["experiments", "gathered", "predict", "demo", "bench", "sharing"],
    ["predictions"],
    ["setting", "reporting", "curves", "estimator", "export_network", "explain", "sensitivity"],
    ["cells", "export", "answer_page"],
    ["web"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
"""The packages on a floor are rooms of one: their files may know each other."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))
MOST_LINES = 350


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file) for file in FILES}


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def imports_of(source: str) -> set[str]:
    """Modules of rareshot that a file imports, at its head or inside a function, but for type checking."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "rareshot"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_room_imports_from_lower_floors_only(file: Path) -> None:
    room = room_of(module_of(file))
    if not room:  # the package itself
        return
    assert room in FLOOR, f"{room} stands on no floor; add it to FLOORS"
    for name in imports_of(file.read_text()):
        other = room_of(name)
        if other and other != room:
            assert other in FLOOR, f"{other} stands on no floor; add it to FLOORS"
            assert FLOOR[other] < FLOOR[room], f"floor {FLOOR[room]} imports {name} of floor {FLOOR[other]}"


def test_types_needs_no_room_at_all() -> None:
    assert imports_of((ROOT / "rareshot" / "types.py").read_text()) == set()


def test_the_walk_sees_what_it_should() -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport rareshot.losses\nfrom rareshot import explicit\n"
        "if TYPE_CHECKING:\n    from rareshot.data import cards\ndef f():\n    from rareshot.data.store import load\n"
    )
    assert imports_of(source) == {"rareshot.losses", "rareshot.explicit", "rareshot.data.store"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_file_is_longer_than_350_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MOST_LINES
