"""Read dataclasses from JSON, and write them: their fields and types are the schema, declared once.

Needs only the standard library, since cards and catalogues are read before anything is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.base.names import printable

T = TypeVar("T")

_NOUNS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_NOUNS |= {Path: "text", tuple: "a list", dict: "an object", Mapping: "an object"}
_NOUNS |= {datetime: "a time such as 2026-05-31T14:30"}


@dataclass(frozen=True)
class Range:
    """The numbers that a field may have, stated with its type: `Annotated[float, Range(above=0, most=20)]`.

    `least` and `most` are in it, `above` and `below` are not.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))


def out_of_range(record: Any) -> str | None:
    """Return a phrase on the first field of a dataclass outside its `Range`, or None; a field of None is in any."""
    for name, bounds in _ranges(type(record)).items():  # type: ignore[arg-type]  # a class is hashable
        value = getattr(record, name)
        if value is not None and value not in bounds:
            return f"{name} must be {bounds}, not {value}"
    return None


@lru_cache
def _ranges(kind: type) -> dict[str, Range]:
    hints = get_type_hints(kind, include_extras=True)
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: bounds for name, extras in metadata.items() for bounds in extras if isinstance(bounds, Range)}


def from_json(kind: type[T], data: Any, what: str = "it") -> T:
    """Read a dataclass strictly: each entry must be one of its fields and of its type; `what` names it in messages.

    A whole number may stand for a number, a list for a tuple, a text for a path, a time or a member of an enumeration.
    A class with a true `OPEN` takes entries that it does not know. Raises `ValueError` for an entry that is missing,
    unknown or of another type, and what the class raises.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be an object")
    types, values = _types(kind), {}  # type: ignore[arg-type]  # a class is hashable
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            values[field.name] = _value(types[field.name], data[field.name], f"'{field.name}'")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{what} lacks '{field.name}'")
    unknown = sorted(str(name) for name in data.keys() - values.keys())
    if unknown and not getattr(kind, "OPEN", False):
        raise ValueError(f"{what} has an unknown entry '{printable(unknown[0]):.80}'")
    return kind(**values)


@lru_cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def to_json(record: Any) -> Any:
    """Convert a dataclass, or what is in one, to plain JSON."""
    if is_dataclass(record) and not isinstance(record, type):
        return to_json(asdict(record))
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(value) for value in record]
    if isinstance(record, PurePath):
        return str(record)
    if isinstance(record, datetime):
        return record.isoformat()
    return record.value if isinstance(record, Enum) else record


def _value(kind: Any, value: Any, what: str) -> Any:
    """Read a value of a type."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return value
    if origin is UnionType:
        return _one_of(kind, value, what)
    if is_dataclass(origin):
        try:
            return from_json(origin, value, what)  # type: ignore[arg-type]
        except UserError as error:
            raise ValueError(f"{what} is wrong ({str(error).rstrip('.')})") from error
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(
                _entry(inner_kind, part, n, what)
                for n, (inner_kind, part) in enumerate(zip(kinds, value, strict=True), 1)
            )
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {_value(inner[0], key, what): _value(inner[1], part, what) for key, part in value.items()}
    elif issubclass(origin, Enum | PurePath | datetime) or (origin is float and _is(value, int | float)):
        with suppress(TypeError, ValueError, OverflowError):
            return datetime.fromisoformat(value) if origin is datetime else origin(value)
    elif _is(value, origin):
        return value
    raise ValueError(f"{what} must be {_noun(kind)}")


def _entry(kind: Any, value: Any, number: int, what: str) -> Any:
    """Read an entry of a list, and say in which of several objects something is wrong."""
    if not is_dataclass(kind):
        return _value(kind, value, what)
    try:
        return _value(kind, value, "it")
    except ValueError as error:
        raise ValueError(f"entry {number} of {what} is wrong: {error}") from error


def _one_of(kind: Any, value: Any, what: str) -> Any:
    """Read a value of one of several types; the message is that of the last one, which is never null."""
    *kinds, last = sorted(get_args(kind), key=lambda inner_kind: inner_kind is not NoneType)
    for inner_kind in kinds:
        if inner_kind is NoneType and value is None:
            return None
        with suppress(ValueError):
            return _value(inner_kind, value, what)
    try:
        return _value(last, value, what)
    except ValueError as error:
        raise ValueError(str(error) if is_dataclass(last) else f"{what} must be {_noun(kind)}") from error


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; True and False are no numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _noun(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is UnionType:
        return " or ".join(map(_noun, get_args(kind)))
    if origin is tuple and get_args(kind)[1:] != (...,):
        return f"a list of {len(get_args(kind))}"
    if issubclass(origin, Enum):
        return " or ".join(str(member.value) for member in origin)
    return _NOUNS.get(origin, "an object")
