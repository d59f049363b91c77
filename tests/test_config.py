"""Files of earlier versions: a field that came later reads as what was done before it, and is written only if it is not that."""

from dataclasses import dataclass, field

import pytest

from rareshot.config import LATER, from_json, to_json


@dataclass(frozen=True)
class Toy:
    """A method that has gained a field."""

    rate: float
    turns: int = field(default=1, metadata=LATER)


KINDS: dict[str, type] = {"Toy": Toy}
BEFORE = {"kind": "Toy", "rate": 0.5}


def test_a_file_without_the_field_reads_as_before_and_is_written_as_before() -> None:
    assert from_json(KINDS, BEFORE) == Toy(0.5, turns=1)
    assert to_json(Toy(0.5, turns=1)) == BEFORE


def test_another_value_is_written_and_read() -> None:
    assert to_json(Toy(0.5, turns=4)) == {**BEFORE, "turns": 4}
    assert from_json(KINDS, {**BEFORE, "turns": 4}) == Toy(0.5, turns=4)


@pytest.mark.parametrize("values", [{"kind": "Toy"}, {**BEFORE, "turn": 1}])
def test_any_other_field_that_is_missing_or_unknown_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(rate|turn) unknown or missing"):
        from_json(KINDS, values)
