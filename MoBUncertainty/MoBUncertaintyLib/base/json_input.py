"""Read JSON that others wrote: bounded in size and depth, numbers of 64 bits, text that is valid Unicode.

Needs only the standard library.
"""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from MoBUncertaintyLib.base.names import is_unicode

SIZE_LIMIT = 16 * 2**20  # bytes; the largest such file has a few hundred kilobytes
DEPTH_LIMIT = 64  # objects and lists within each other; nnU-Net's plans have 7


class JsonError(ValueError):
    """The text is not JSON within the limits; the message is a phrase such as "it is not a JSON object"."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; raises `OSError`, and `JsonError` (a named pipe would be waited for)."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise JsonError("it is not a regular file")
    with path.open("rb") as file:
        return parse_object(file.read(SIZE_LIMIT + 1))


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; a byte order mark may come first.

    Raises `JsonError` if it is too large or deep, not UTF-8, no JSON object, or holds a key twice in one object, a
    number beyond 64 bits, NaN, infinity or half a surrogate pair.
    """
    if len(content) > SIZE_LIMIT:
        raise JsonError(f"it is larger than {SIZE_LIMIT >> 20} MB")
    try:
        data = json.loads(
            content.decode("utf-8-sig"),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(f"it is not valid JSON (line {error.lineno}: {error.msg})") from error
    except UnicodeDecodeError as error:
        raise JsonError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise JsonError(f"it is nested more than {DEPTH_LIMIT} deep") from error
    if not isinstance(data, dict):
        raise JsonError("it is not a JSON object")
    _check(data)
    return data


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(data: dict[str, Any]) -> None:
    """Check depth and text, level by level, since recursion is what deep nesting breaks."""
    level: list[Any] = [data]
    for _ in range(DEPTH_LIMIT):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and not is_unicode(value):
                raise JsonError("it holds text that is not valid Unicode (half a surrogate pair)")
        level = below
        if not level:
            return
    raise JsonError(f"it is nested more than {DEPTH_LIMIT} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: programs differ in which of the two they take, and people read the first."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise JsonError(f"it holds the key {twice[:40]!r} twice")
    return made


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise JsonError(f"its number {text[:20]}... is too large")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JsonError(f"its number {text[:20]} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not a number in JSON")
