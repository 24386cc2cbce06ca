"""Mutants of a JSON document: what careless hands, other programs and attackers make of one. Seeded."""

import copy
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from MoBUncertaintyLib.base.json_input import JsonError, parse_object

STRINGS = (
    "", " ", "\0", "\x1b[2J\x07", "\\", "..", "/etc/passwd", "=cmd|' /C calc'!A0", "<script>alert(1)</script>",
    "{{ 7*7 }}", "\u202egnp.exe", "é", "e\u0301", "漢字" * 40, "x" * 100_000, "NaN", "-1", "null", "𝔘𝔫𝔦",
    "\ud800", "a\nb\tc\r",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 255, 256, 2**16, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
OTHERS = (None, True, False, [], {}, [[]], [None], {"": {}}, [0] * 1000)


def mutants(document: Any, count: int, seed: int = 0) -> Iterator[bytes]:
    """Mutants of a document as the bytes of a file, each with one to three changes.

    Args:
        document: Plain JSON.
        count: How many.
        seed: The same seed makes the same mutants.
    """
    chance = random.Random(seed)
    for _ in range(count):
        mutant = copy.deepcopy(document)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            mutant = _change(mutant, chance)
        yield _write(mutant, chance)


def values(document: dict[str, Any], count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The same as objects, where a document is handed over that was read within `json_input`'s limits."""
    made = 0
    for content in mutants(document, count * 4, seed):
        with suppress(JsonError):
            value = parse_object(content)
            if made < count:
                made += 1
                yield value


def _change(document: Any, chance: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return _anything(chance)
    parent, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[chance.choice((key.upper(), f"{key} ", "sha256", "__class__", chance.choice(STRINGS)))] = parent.pop(
                key
            )
        case 2 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case 3:
            other, there = chance.choice(places)
            parent[key] = copy.deepcopy(other[there])
        case 4:
            parent[key] = _nested(chance)
        case 5 if isinstance(parent[key], int | float):
            parent[key] = chance.choice((-parent[key], parent[key] * 1000, parent[key] + 1, str(parent[key])))
        case _:
            parent[key] = _anything(chance)
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All entries of all objects and lists: where, and by which key."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield value, key
        yield from _places(each)


def _anything(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(chance.choice((STRINGS, NUMBERS, OTHERS))))


def _nested(chance: random.Random) -> Any:
    value: Any = 0
    for _ in range(chance.choice((3, 60, 70, 250))):
        value = [value] if chance.random() < 0.5 else {"a": value}
    return value


def _write(document: Any, chance: random.Random) -> bytes:
    """As a file; now and then with faults that no document can have."""
    text = json.dumps(document)
    match chance.randrange(20):
        case 0:
            return text[: chance.randrange(len(text) + 1)].encode()
        case 1:
            return text.replace(":", ": 0,", 1).encode()
        case 2:  # an entry twice: the last one counts for most readers
            return text.replace("{", '{"schema": 1, "regions": [], "signature": null, ', 1).encode()
        case 3:
            return text.encode("utf-16")
        case 4:
            content = bytearray(text.encode())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            return bytes(content)
        case 5:
            return b"\xef\xbb\xbf" + text.encode()
        case 6:
            return text.encode() + b"\0" * chance.choice((1, 17 * 2**20))
        case 7:  # deeper than any recursion goes
            return text.replace(":", ":" + "[" * 100_000 + "]" * 100_000 + ',"x":', 1).encode()
        case _:
            return text.encode()
