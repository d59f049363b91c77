"""predictions.csv, and one answer as a line: how answers are written down."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from rareshot.atomic import write_atomically
from rareshot.data.files import shown
from rareshot.predict import Answer
from rareshot.support_set import COLUMNS

FORMULA = ("=", "+", "-", "@")
"""A cell that begins so is run by a spreadsheet."""
SET = "set"
"""The column of prediction sets."""


def write_answers(file: Path, classes: Sequence[str], told: Sequence[Answer], *, sets: bool = False) -> Path:
    """predictions.csv: path, predicted, a column of probabilities for each class, set, warnings. Whole or not at all.

    UTF-8. A cell that a spreadsheet would run as a formula has a ' before it; probabilities are the shortest text that gives
    the same float32.
    """
    refuse_column(classes, sets=sets)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([COLUMNS[0], COLUMNS[1], *map(_harmless, classes), *([SET] if sets else []), COLUMNS[2]])
    for one in told:
        numbers = [_shortest(value) for value in one.probabilities] or [""] * len(classes)
        among = [_harmless("; ".join(one.among))] if sets else []
        warnings = _harmless("; ".join(one.warnings))
        rows.writerow([_harmless(one.path), _harmless(one.predicted), *numbers, *among, warnings])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.getvalue().encode(errors="backslashreplace"))
    return file


def refuse_column(classes: Sequence[str], *, sets: bool) -> None:
    """Refuse two columns of one name.

    Raises:
        ValueError: if sets are asked for and a class is called as their column.
    """
    if sets and SET in classes:
        raise ValueError(f"a class is called {SET!r}, which is the column of prediction sets; adapt with another name")


def line_of(one: Answer, classes: Sequence[str]) -> str:
    """One answer as a line for people."""
    if not one.probabilities:
        return f"{shown(one.path)}: {'; '.join(one.warnings)}"
    told = "  ".join(f"{shown(name)} {value:.3f}" for name, value in zip(classes, one.probabilities, strict=True))
    among = f"  one of {{{', '.join(map(shown, one.among))}}}" if one.among else ""
    return (
        f"{shown(one.path)}  {shown(one.predicted)}  ({told}){among}{''.join(f'  ! {shown(w)}' for w in one.warnings)}"
    )


def _shortest(value: float) -> str:
    return str(torch.tensor(value, dtype=torch.float32).numpy())


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
