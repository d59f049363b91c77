"""Part 1 of the page as it was filled in: which conditions there are, and what each is called."""

from collections.abc import Sequence

from rareshot.web.intake import Photograph
from rareshot.web.limits import refuse_name


def by_name(conditions: Sequence[Sequence[Photograph]], names: Sequence[str]) -> list[tuple[str, list[Photograph]]]:
    """(name, photographs) of each condition, as folders would be read: both sorted by name.

    Args:
        names: what was written into their fields, one a condition at least.

    Raises:
        ValueError: naming the condition that has no name, no photograph, or another's name.
    """
    found: dict[str, list[Photograph]] = {}
    for number, (held, written) in enumerate(zip(conditions, names, strict=False), 1):
        name = written.strip()
        refuse_name(number, name)
        if not name and not held and len(conditions) > 2:
            continue
        if not name:
            raise ValueError(f"Condition {number} has no name: write one into its field in part 1.")
        if not held:
            raise ValueError(f"Condition {number}, “{name}”, has no photograph: drop at least one, 3 to 5 are better.")
        if name in found:
            raise ValueError(f"Two conditions are called “{name}”: give each its own name, or put them together.")
        found[name] = sorted(held, key=lambda photograph: photograph.name)
    if len(found) < 2:
        raise ValueError(f"There is {len(found)} condition with photographs; at least 2 are needed to tell them apart.")
    return sorted(found.items())
