"""Files of JSON lines, read with suspicion: what is wrong is refused by file and line."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

HUGE = 1e300
"""What no figure here comes near; a larger one cannot be drawn."""


def check(file: Path, found: Mapping[str, Any], kinds: Mapping[str, type], *, optional: Collection[str] = ()) -> None:
    """Refuse a value that is not of its kind.

    Args:
        kinds: name, with dots between the parts → kind; what holds a part stands before it.
        optional: names of `kinds` that may be missing.

    Raises:
        ValueError: naming file and value.
    """
    for name, kind in kinds.items():
        *rooms, last = name.split(".")
        holder: Any = found
        for room in rooms:
            holder = holder[room]
        if name in optional and last not in holder:
            continue
        value = holder.get(last)
        if type(value) is not kind:
            raise ValueError(
                f"{file}: {name}={value!r} should be of kind {kind.__name__}; the file is damaged: make it again"
            )


def text_of(file: Path) -> str:
    """What is written in a file.

    Raises:
        ValueError: if it is no text, or no file but a pipe or device, which might never end.
    """
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a regular file; move it away")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged ({error}); move it away") from error


def whole_lines(file: Path) -> list[str]:
    """Those that end and are not blank.

    Raises:
        ValueError: if it is no text.
    """
    return [line for line in text_of(file).split("\n")[:-1] if line.strip()]


def read_json(file: Path, number: int, text: str) -> Any:
    """A line's value.

    Raises:
        ValueError: naming file and line.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a pair is no text: no page and no picture takes it
        return value
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file}, line {number}, is damaged ({error}); move it away and make it again") from error


def finite(value: Any) -> bool:
    """Is it a number that can be drawn?"""
    return type(value) in (int, float) and abs(value) < HUGE
