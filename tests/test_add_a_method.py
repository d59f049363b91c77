"""The worked example of docs/add-a-method.md keeps the contract, as printed."""

import inspect
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_methods
from made_sets import make_isic

from rareshot import run_record
from rareshot.cli import main
from rareshot.methods import KINDS, LABELS, METHODS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def colour() -> Iterator[str]:
    """The example's method, by the one line that the page gives it."""
    page = PAGE.read_text()
    (source,) = re.findall(r"<!-- methods/colour\.py -->\n```python\n(.*?)```", page, re.DOTALL)
    (line,) = re.findall(r"<!-- methods/__init__\.py -->\n```python\n(.*?)```", page, re.DOTALL)
    module = types.ModuleType("rareshot.methods.colour")
    sys.modules[module.__name__] = module  # a dataclass asks for its module
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    ((name, (label, method)),) = eval(f"{{{line.strip()}}}", {"Colour": module.Colour}).items()
    KINDS[type(method).__name__], METHODS[name], LABELS[name] = type(method), method, label
    yield name
    del KINDS[type(method).__name__], METHODS[name], LABELS[name], sys.modules[module.__name__]


def contract() -> list[Any]:
    """Every test of the contract, once for each of its other parameters."""
    found = []
    for name, function in vars(test_methods).items():
        marks = [mark.args for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
        if not any(names == "name" for names, _ in marks):
            continue
        others = [[(names, value) for value in values] for names, values in marks if names != "name"]
        for chosen in itertools.product(*others):
            found.append(pytest.param(function, dict(chosen), id="-".join([name, *(str(v) for _, v in chosen)])))
    return found


@pytest.mark.parametrize(("promise", "given"), contract())
def test_the_example_keeps_the_contract(
    colour: str, promise: Callable[..., None], given: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    asked = inspect.signature(promise).parameters.keys() - given.keys() - {"name"}
    promise(name=colour, **given, **{name: request.getfixturevalue(name) for name in asked})


def test_the_contract_was_found() -> None:
    assert len(contract()) >= 14


def test_the_example_is_read_from_run_json(colour: str) -> None:
    assert run_record.KINDS["Colour"] is KINDS["Colour"]


def test_the_commands_of_the_page_run_as_printed(
    colour: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_isic(tmp_path / "isic2018", each=16)
    monkeypatch.chdir(tmp_path)
    printed = re.findall(r"^    rareshot (.*)$", PAGE.read_text(), re.MULTILINE)
    assert [line.split()[0] for line in printed] == ["fit", "evaluate", "compare"]
    fit, evaluate, compare = (line.split() for line in printed)
    for other in (
        "runs/colour",
        "runs/daml",
    ):  # the page compares with a run of daml; another of the same is enough here
        for asked in (fit, [*evaluate, "--episodes", "6"]):
            assert main([other if word == "runs/colour" else word for word in asked]) == 0
    assert main(compare) == 0
    assert "colour alone" in capsys.readouterr().out
