"""Names and numbers as the page writes them."""

from collections.abc import Sequence

from rareshot.data.files import shown

LISTED = 4
"""Names in a row; more are counted."""


def named(name: str) -> str:
    """A name that a user gave, safe to show; the page's template escapes it besides."""
    return shown(name)


def listed(names: Sequence[str], joint: str = "and") -> str:
    """In words: a, b and c; only how many, where there are many."""
    if len(names) > LISTED:
        return (
            f"one of {len(names)} classes" if joint == "or" else f"{', '.join(map(named, names[:LISTED]))} and others"
        )
    told = [named(name) for name in names]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} {joint} {told[-1]}"


def number(count: int, noun: str) -> str:
    """A count with its noun, whose plural is regular."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def share(value: float) -> str:
    """A probability; one that rounding would call certain is not."""
    if value > 0.9995:
        return "> 0.999"
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def between(low: float, high: float) -> str:
    """A range of probabilities."""
    return share(low) if share(low) == share(high) else f"{share(low)} to {share(high)}"
