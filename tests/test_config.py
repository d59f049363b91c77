"""Files of earlier versions: a field that came later takes the value that says what was done before it."""

from dataclasses import dataclass

import pytest

from rareshot.checkpoint import as_now
from rareshot.config import added, from_json, to_json
from rareshot.methods import KINDS
from rareshot.results import differing


@dataclass(frozen=True)
class Toy:
    """A method that has gained a field."""

    rate: float
    turns: int = added(1)


BEFORE = {"kind": "Toy", "rate": 0.5}
RUN = {"method": BEFORE, "seed": 3}


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "Toy", Toy)


def test_an_added_field_that_a_file_lacks_is_as_before() -> None:
    assert from_json(KINDS, BEFORE) == Toy(0.5, turns=1)
    assert from_json(KINDS, {**BEFORE, "turns": 4}) == Toy(0.5, turns=4)


@pytest.mark.parametrize("values", [{"kind": "Toy"}, {**BEFORE, "turn": 1}])
def test_any_other_field_that_is_missing_or_unknown_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(rate|turn) unknown or missing"):
        from_json(KINDS, values)


def test_a_run_of_an_earlier_version_reads_as_one_of_now() -> None:
    assert as_now(RUN) == {"method": to_json(Toy(0.5, turns=1)), "seed": 3}


@pytest.mark.parametrize("run", [{}, {"method": {"kind": "of somebody else", "x": 1}}, {"method": {"kind": "Toy"}}])
def test_a_run_that_is_not_sound_stays_as_it_is(run: dict[str, object]) -> None:
    assert as_now(run) == run


def test_headers_of_two_versions_are_of_one_evaluation() -> None:
    now = {"run": {"method": to_json(Toy(0.5)), "seed": 3}, "shot": 5}
    assert differing(now, {"run": RUN, "shot": 5, "versions": {}}) == []
    assert differing(now, {"run": {**RUN, "seed": 4}, "shot": 5}) == ["run"]
    assert differing({**now, "run": {"method": to_json(Toy(0.5, turns=2)), "seed": 3}}, {"run": RUN, "shot": 1}) == [
        "run",
        "shot",
    ]
