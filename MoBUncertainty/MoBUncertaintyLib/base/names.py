"""Make file names that every file system accepts and that differ from each other, and text that is safe to show."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from urllib.parse import unquote

LIMIT = 100  # bytes of a name in UTF-8; most file systems take 255, and prefixes and suffixes have to fit in
_SYSTEM_FILES = (".ds_store", "thumbs.db", "desktop.ini")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')  # on Windows
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # likewise


def printable(text: str) -> str:
    r"""Escape, as in `\x07`, what cannot be seen, controls a terminal or is not Unicode."""
    return "".join(map(_visible, text))


def label_file_names(names: Sequence[str]) -> list[str]:
    """Make a distinct part of a file name for each label or scene node: letters, digits and underscores only."""
    return _distinct(names, [short_name("".join(c if c.isalnum() else "_" for c in name)) for name in names])


def unique_names(texts: Sequence[str]) -> list[str]:
    """Make a file name for each text: close to it, and distinct even where upper and lower case are the same."""
    return _distinct(texts, [short_name(_safe(text)) for text in texts])


def distinct_name(text: str) -> str:
    """Make a file name that no other text has, even where upper and lower case are the same; `text_of` reads it."""
    text = unicodedata.normalize("NFC", text)
    name = "".join(c if c.isprintable() and c not in '<>:"/\\|?*%~' else _percent(c) for c in text)
    name = name[:-1] + _percent(name[-1]) if name[-1:] in {".", " "} else name
    # One spelling of each name stays as it is: that of "A. Reader".
    if name and text.casefold().title() == text and len(_bytes(name)) <= LIMIT and not _RESERVED.fullmatch(name):
        return name
    return f"{_bytes(name)[: LIMIT - 9].decode(errors='ignore')}~{_digest(text)}"


def text_of(name: str) -> str:
    """Read the text that `distinct_name` has made a name of; of a long one its beginning."""
    return unquote(name.partition("~")[0])


def short_name(name: str, limit: int = LIMIT) -> str:
    """Shorten a name of more than `limit` bytes to its beginning and a digest of it."""
    if len(_bytes(name)) <= limit:
        return name
    return f"{_bytes(name)[: limit - 9].decode(errors='ignore')}_{_digest(name)}"


def is_unicode(name: str) -> bool:
    """Whether text can be written as UTF-8; file names may be any bytes, and JSON may hold half a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_system_file(name: str) -> bool:
    """Whether operating systems leave files of this name in any folder."""
    return name.lower() in _SYSTEM_FILES or name.startswith("._")  # macOS, on disks of other systems


def _safe(text: str) -> str:
    text = _FORBIDDEN.sub("_", "".join(c if c.isprintable() else "_" for c in text)).rstrip(". ")
    return f"_{text}" if not text or _RESERVED.fullmatch(text) else text


def _distinct(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Append a digest of its text to each name that is not unique."""
    counts, seen = Counter(map(_folded, names)), Counter[str]()
    apart = []
    for text, name in zip(texts, names, strict=True):
        seen[text] += 1
        again = "" if seen[text] == 1 else str(seen[text])
        apart.append(name if counts[_folded(name)] == 1 else short_name(f"{name}_{_digest(text)}{again}"))
    return apart


def _folded(name: str) -> str:
    """Fold a name as file systems do that ignore case (Windows, macOS) and Unicode normalisation (macOS)."""
    return unicodedata.normalize("NFC", name).casefold()


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if not kind.startswith("C") and kind not in ("Zl", "Zp"):  # control, direction of writing, half a pair; line ends
        return character
    if "\udc80" <= character <= "\udcff":  # how Python passes a byte on that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in _bytes(text))


def _digest(name: str) -> str:
    """Compute eight characters that depend on this name alone, so that it gets the same ones next time."""
    return hashlib.sha256(_bytes(name)).hexdigest()[:8]


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogatepass")
