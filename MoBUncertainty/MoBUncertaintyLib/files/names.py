"""Names of files that every disk takes and that differ from each other, and names as they are shown.

A label, a patient's file or a model may be called anything. What is written is named by these functions alone.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

LIMIT = 100
"""Bytes of a name in UTF-8; most disks take 255, and prefixes, endings and hidden names are to fit in as well."""

_SYSTEM_FILES = (".ds_store", "thumbs.db", "desktop.ini")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')  # on Windows
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # likewise


def printable(text: str) -> str:
    """The text with escapes such as `\\x07` for what cannot be seen, steers a terminal or is not Unicode."""
    return "".join(map(_visible, text))


def label_file_names(names: Sequence[str]) -> list[str]:
    """A part of a file's name for each label, or node of a scene: letters, digits and underscores, each its own."""
    return _told_apart(names, [short_name("".join(c if c.isalnum() else "_" for c in name)) for name in names])


def unique_names(texts: Sequence[str]) -> list[str]:
    """A name for each text that every disk takes; as like the text as may be, and each its own, also without case."""
    return _told_apart(texts, [short_name(_safe(text)) for text in texts])


def short_name(name: str, limit: int = LIMIT) -> str:
    """The name, or its beginning and a digest of it if it has more bytes than `limit`."""
    if len(_bytes(name)) <= limit:
        return name
    return f"{_bytes(name)[: limit - 9].decode(errors='ignore')}_{_digest(name)}"


def is_unicode(name: str) -> bool:
    """Whether text can be written as UTF-8; names of files may be any bytes, and JSON may hold half a pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_system_file(name: str) -> bool:
    """Whether it is one of the files that operating systems leave in any folder, which nobody misses."""
    return name.lower() in _SYSTEM_FILES or name.startswith("._")  # macOS, on disks of other systems


def _safe(text: str) -> str:
    text = _FORBIDDEN.sub("_", "".join(c if c.isprintable() else "_" for c in text)).rstrip(". ")
    return f"_{text}" if not text or _RESERVED.fullmatch(text) else text


def _told_apart(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names, with a digest of their texts where they are the same."""
    counts, seen = Counter(map(_folded, names)), Counter[str]()
    apart = []
    for text, name in zip(texts, names, strict=True):
        seen[text] += 1
        again = "" if seen[text] == 1 else str(seen[text])
        apart.append(name if counts[_folded(name)] == 1 else short_name(f"{name}_{_digest(text)}{again}"))
    return apart


def _folded(name: str) -> str:
    """As disks compare names that keep no case (Windows, macOS) and other forms of one letter apart (macOS)."""
    return unicodedata.normalize("NFC", name).casefold()


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if not kind.startswith("C") and kind not in ("Zl", "Zp"):  # control, direction of writing, half a pair; line ends
        return character
    if "\udc80" <= character <= "\udcff":  # how Python passes a byte on that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _digest(name: str) -> str:
    """Eight characters that tell it from others, whatever else there is, so that it has them the next time, too."""
    return hashlib.sha256(_bytes(name)).hexdigest()[:8]


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogatepass")
