"""Frozen dataclasses to JSON and back: a method with every hyperparameter by name, checked by its declared kinds."""

import sys
import types
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LATER = {"later": True}
"""Metadata of a field that came after runs had been kept. At its default it stays out of the JSON, where theirs lack it too: they
read as ever, and a run that asks for nothing new is the same as one of theirs."""


def to_json(value: Any) -> dict[str, Any]:
    """Every field by name, and under `kind` the name of the class; dataclasses within it likewise; see `LATER`."""
    kept = [each for each in fields(value) if not (_is_later(each) and getattr(value, each.name) == each.default)]
    values = {each.name: getattr(value, each.name) for each in kept}
    plain = {name: to_json(each) if is_dataclass(each) else each for name, each in values.items()}
    return {"kind": type(value).__name__, **plain}


def from_json(kinds: Mapping[str, type], values: Mapping[str, Any]) -> Any:
    """What `to_json` wrote down.

    Args:
        kinds: the classes that may stand there, by name.

    Raises:
        ValueError: if the kind or a name is unknown, a name is missing, or a value is not of its declared kind or breaks a
            rule of the class.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{values!r} is not a JSON object")
    rest = dict(values)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"kind={kind!r} is none of {', '.join(kinds)}")
    hints = get_type_hints(kinds[kind])
    own = fields(kinds[kind])
    hints = {each.name: hints[each.name] for each in own}
    rest = {each.name: each.default for each in own if _is_later(each)} | rest
    unknown = rest.keys() ^ hints.keys()
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} unknown or missing")
    return kinds[kind](**{name: _read(name, rest[name], hint) for name, hint in hints.items()})


def _read(name: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    nested = {choice.__name__: choice for choice in choices if is_dataclass(choice) and isinstance(choice, type)}
    if nested and isinstance(value, Mapping):
        return from_json(nested, value)
    for choice in choices:
        if get_origin(choice) is Literal:
            if value in get_args(choice):
                return value
        elif choice is not bool and isinstance(value, bool):
            continue
        elif choice is float and (type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)):
            return float(value)
        elif isinstance(choice, type) and type(value) is choice:
            return value
    raise ValueError(f"{name}={value!r} is not of the right kind, {_told(choices)}")


def _is_later(field: Field[Any]) -> bool:
    return bool(field.metadata.get("later"))


def _told(choices: tuple[Any, ...]) -> str:
    """The kinds in words."""
    words: list[str] = []
    for choice in choices:
        if get_origin(choice) is Literal:
            words += [repr(each) for each in get_args(choice)]
        else:
            words.append("None" if choice is type(None) else choice.__name__)
    return " or ".join(words)
