"""The index of a catalogue, `models.json`: what models there are, and how to check what is downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import CatalogueError
from MoBUncertaintyLib.base.json_input import JsonError, parse_object
from MoBUncertaintyLib.base.names import unique_names
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.model.archive import SIZE_LIMIT

SCHEMA_VERSION = 1
INDEX_FILE = "models.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern}){{0,4}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}")
_LONGEST_TEXT = 500  # characters


@dataclass(frozen=True)
class Entry:
    """A model that a catalogue offers; raises `ValueError` for an attribute out of range.

    Attributes:
        name: Name of its folder once it is installed: letters, digits, `.`, `_` and `-`.
        title: Name on its card, for people.
        task: What it segments in which images, one sentence.
        scores: What was measured, as text by name.
        minimum_version: Oldest version of MoB Uncertainty that reads it.
        digest: SHA-256 of its `model.json`, which tells its versions apart.
        file, size, sha256: Path of its zip, relative to the index, bytes and SHA-256.
        page, preview: Paths of its card page and of a picture of a sample's result, PNG, if there are.
    """

    name: str
    title: str
    task: str
    labels: tuple[str, ...]
    scores: dict[str, str]
    licence: str
    minimum_version: str
    digest: str
    file: str
    size: int
    sha256: str
    page: str | None = None
    preview: str | None = None

    def __post_init__(self) -> None:
        _require(is_model_name(self.name), "'name' must be letters, digits, '.', '_' and '-', 64 at most")
        texts = [self.title, self.task, self.licence, *self.labels, *self.scores, *self.scores.values()]
        _require(all(map(_is_line, texts)), f"its texts must be printable lines of 1 to {_LONGEST_TEXT} characters")
        _require(bool(self.labels), "'labels' must not be empty")
        for what, pattern in (("minimum_version", _VERSION), ("digest", _DIGEST), ("sha256", _DIGEST), ("file", _FILE)):
            _require(pattern.fullmatch(getattr(self, what)) is not None, f"'{what}' is {getattr(self, what)!r:.80}")
        for what, path in (("page", self.page), ("preview", self.preview)):
            _require(path is None or _FILE.fullmatch(path) is not None, f"'{what}' is {path!r:.80}")
        _require(0 < self.size <= SIZE_LIMIT, f"'size' must be 1 to {SIZE_LIMIT} bytes")

    @property
    def megabytes(self) -> str:
        """Its size for people."""
        return f"{self.size / 1e6:,.1f} MB"

    @property
    def is_too_new(self) -> bool:
        """Whether it needs a newer version of MoB Uncertainty than this."""
        return _numbers(self.minimum_version) > _numbers(__version__)

    def matches(self, text: str) -> bool:
        """Whether all words of a search are in its name, task, labels or licence."""
        everything = " ".join([self.name, self.title, self.task, *self.labels, self.licence]).casefold()
        everything += everything.replace("_", " ")
        return all(word in everything for word in text.casefold().split())


def parse_index(content: bytes, where: str) -> tuple[Entry, ...]:
    """Read the models of an index, whose address is `where`; raises `CatalogueError` if it is none of this version."""
    try:
        data = parse_object(content)
    except JsonError as error:
        raise CatalogueError(f"{where} is not a catalogue of models ({error}); check the address.") from error
    version = data.get("schema_version")
    if not isinstance(version, int) or version < 1 or not isinstance(data.get("models"), list):
        raise CatalogueError(f"{where} is not a catalogue of models; check the address.")
    if version > SCHEMA_VERSION:
        raise CatalogueError(
            f"{where} was made for a newer version of MoB Uncertainty (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); update MoB Uncertainty."
        )
    entries: dict[str, Entry] = {}
    for number, values in enumerate(data["models"], start=1):
        try:
            entry = from_json(Entry, values)
            _require(entry.name.casefold() not in entries, f"another model is also called {entry.name}")
        except ValueError as error:
            raise CatalogueError(
                f"Model {number} of {where} cannot be used: {error}; tell whoever hosts it."
            ) from error
        entries[entry.name.casefold()] = entry
    return tuple(entries.values())


def index_text(entries: Sequence[Entry]) -> str:
    """Write the text of `models.json`."""
    content = {"schema_version": SCHEMA_VERSION, "models": to_json(list(entries))}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def is_model_name(name: str) -> bool:
    """Whether a name can be that of an entry, and of a folder on every system."""
    return _NAME.fullmatch(name) is not None and unique_names([name]) == [name]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _is_line(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_TEXT and text.isprintable()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
