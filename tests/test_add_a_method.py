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

from rareshot import checkpoint
from rareshot.methods import KINDS, METHODS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def colour() -> Iterator[str]:
    """The example's method under the name that the page gives it."""
    (source,) = re.findall(r"<!-- methods/colour\.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = types.ModuleType("rareshot.methods.colour")
    sys.modules[module.__name__] = module  # a dataclass asks for its module
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    KINDS["Colour"], METHODS["colour"] = module.Colour, module.Colour()
    yield "colour"
    del KINDS["Colour"], METHODS["colour"], sys.modules[module.__name__]


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
    assert len(contract()) >= 13


def test_the_example_is_read_from_run_json(colour: str) -> None:
    assert checkpoint.KINDS["Colour"] is KINDS["Colour"]
