"""Damaged copies of files, the same for the same seed: one flipped bit, or anything that happens to files."""

import random
import re
from collections.abc import Callable

NUMBERS = (b"0", b"-1", b"1", b"2", b"65535", b"2147483647", b"2147483648", b"9999999999999999999", b"1e400", b"nan")


def flipped(content: bytes, rng: random.Random, start: int = 0) -> bytes:
    """One bit flipped, at `start` or behind it."""
    place = rng.randrange(start, len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def mutant(content: bytes, rng: random.Random, header: int | None = None) -> bytes:
    """One to three changes.

    Args:
        content: Of the file.
        rng: What decides.
        header: Bytes of the header, where half of the changes are made; None: anywhere.
    """
    for _ in range(rng.randint(1, 3)):
        end = min(header or len(content), len(content)) if rng.random() < 0.5 else len(content)
        content = rng.choice(_CHANGES)(content, rng, max(end, 1))
    return content


def _flip(content: bytes, rng: random.Random, end: int) -> bytes:
    return flipped(content[:end], rng) + content[end:] if content else b"\1"


def _overwrite(content: bytes, rng: random.Random, end: int) -> bytes:
    place, length = rng.randrange(end), rng.choice((1, 2, 4, 8))
    value = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
    return content[:place] + value + content[place + length :]


def _remove(content: bytes, rng: random.Random, end: int) -> bytes:
    place = rng.randrange(end)
    return content[:place] + content[place + rng.choice((1, 4, 64, 1024)) :]


def _repeat(content: bytes, rng: random.Random, end: int) -> bytes:
    place, length = rng.randrange(end), rng.choice((1, 4, 64, 1024))
    return content[: place + length] + content[place:]


def _cut(content: bytes, rng: random.Random, end: int) -> bytes:
    return content[: rng.randrange(end)]


def _renumber(content: bytes, rng: random.Random, end: int) -> bytes:
    """Another number where one is written out."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:end][: 1 << 16]))
    if not found:
        return _overwrite(content, rng, end)
    place = rng.choice(found)
    return content[: place.start()] + rng.choice(NUMBERS) + content[place.end() :]


_CHANGES: tuple[Callable[[bytes, random.Random, int], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _remove,
    _repeat,
    _cut,
    _renumber,
)
