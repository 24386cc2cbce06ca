"""A catalogue of models: its index, `models.json`, and the folder or address on the web where its files are.

Only https is spoken, and http with this computer itself. Nothing is sent but the request for a file.
"""

from __future__ import annotations

import ipaddress
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base import json_input
from MoBUncertaintyLib.base.errors import CatalogueError, reason_of, require
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
    """A model that a catalogue offers; raises `ValueError` for an attribute out of range."""

    name: str  # of its folder once it is installed: letters, digits, `.`, `_` and `-`
    title: str  # name on its card, for people
    task: str  # what it segments in which images, one sentence
    labels: tuple[str, ...]
    scores: dict[str, str]  # what was measured, as text by name
    licence: str
    minimum_version: str  # oldest version of MoB Uncertainty that reads it
    digest: str  # SHA-256 of its `model.json`, which tells its versions apart
    file: str  # path of its zip, relative to the index
    size: int  # of the zip, bytes
    sha256: str  # of the zip
    page: str | None = None  # path of its card page
    preview: str | None = None  # path of a picture of a sample's result, PNG

    def __post_init__(self) -> None:
        require(is_model_name(self.name), "'name' must be letters, digits, '.', '_' and '-', 64 at most")
        texts = [self.title, self.task, self.licence, *self.labels, *self.scores, *self.scores.values()]
        lines = all(0 < len(text) <= _LONGEST_TEXT and text.isprintable() for text in texts)
        require(lines, f"its texts must be printable lines of 1 to {_LONGEST_TEXT} characters")
        require(bool(self.labels), "'labels' must not be empty")
        forms = {"minimum_version": _VERSION, "digest": _DIGEST, "sha256": _DIGEST}
        forms |= dict.fromkeys(("file", "page", "preview"), _FILE)
        for what, pattern in forms.items():
            text = getattr(self, what)
            require(text is None or pattern.fullmatch(text) is not None, f"'{what}' is {text!r:.80}")
        require(0 < self.size <= SIZE_LIMIT, f"'size' must be 1 to {SIZE_LIMIT} bytes")

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
            require(entry.name.casefold() not in entries, f"another model is also called {entry.name}")
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


TIMEOUT_S = 20.0  # how long a server may be silent
CHUNK = 1 << 16
PREVIEW_LIMIT = 4 * 2**20  # bytes of a picture

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PNG = struct.Struct(">8s4x4sII")  # how a PNG begins: signature, length and name of its header, width, height
_LARGEST_PICTURE = 4096  # pixels of a side: a few bytes can unpack to gigabytes

Read = Callable[[int], bytes]  # reads at most so many bytes; none at the end


@dataclass(frozen=True)
class Place:
    """A catalogue's folder, or its address without the last `/`."""

    base: Path | str

    @classmethod
    def of(cls, address: str | Path) -> Place:
        """Take an address or a folder, or that of the index in it; raises `CatalogueError` for no safe address."""
        text = str(address).strip()
        if not text:
            raise CatalogueError("No catalogue is given; give an https address or a folder.")
        if not _SCHEME.match(text):
            path = Path(text).expanduser().absolute()
            return cls(path.parent if path.name == INDEX_FILE else path)
        _check(text)
        if urlsplit(text).query or urlsplit(text).fragment:
            raise CatalogueError(f"The address {text} has a query or a fragment; leave out what follows ? or #.")
        return cls(text.removesuffix(INDEX_FILE).rstrip("/"))

    def address(self, name: str) -> str:
        """Return where a file of the catalogue is, for people."""
        return str(self.base / name) if isinstance(self.base, Path) else f"{self.base}/{name}"

    def entries(self) -> tuple[Entry, ...]:
        """Read the index; raises `CatalogueError`."""
        return parse_index(self.content(INDEX_FILE, json_input.SIZE_LIMIT), self.address(INDEX_FILE))

    def entry(self, name: str) -> Entry:
        """Find a model in the index by its name or title; raises `CatalogueError` if there is none."""
        entries = self.entries()
        for entry in entries:
            if name.casefold() in (entry.name.casefold(), entry.title.casefold()):
                return entry
        there_are = ", ".join(entry.name for entry in entries) or "none"
        raise CatalogueError(f"The catalogue {self.base} has no model '{name}' (it has: {there_are}).")

    def preview(self, entry: Entry) -> bytes | None:
        """Read the picture of a model's sample, PNG, if there is one; raises `CatalogueError`."""
        if entry.preview is None:
            return None
        content = self.content(entry.preview, PREVIEW_LIMIT)
        signature, name, *sides = _PNG.unpack(content[: _PNG.size].ljust(_PNG.size, b"\0"))
        if (signature, name) != (b"\x89PNG\r\n\x1a\n", b"IHDR") or max(sides) > _LARGEST_PICTURE:
            raise CatalogueError(
                f"{self.address(entry.preview)} is not a PNG picture, or it is too large; tell whoever hosts it."
            )
        return content

    def content(self, name: str, limit: int) -> bytes:
        """Read a whole file of at most `limit` bytes; raises `CatalogueError`."""
        content = bytearray()
        with self.open(name) as read:
            while chunk := read(CHUNK):
                content += chunk
                if len(content) > limit:
                    raise CatalogueError(f"{self.address(name)} is larger than {limit >> 20} MB; check the address.")
        return bytes(content)

    @contextmanager
    def open(self, name: str) -> Iterator[Read]:
        """Open a file; every failure to open or, later, to read it is one sentence, a `CatalogueError`."""
        where = self.address(name)
        path = self.base / name if isinstance(self.base, Path) else None
        if path and path.exists() and not path.is_file():  # opening a named pipe would wait for its other end
            raise CatalogueError(f"{path} is not a regular file; tell whoever made the catalogue.")
        with _saying(where):
            stream = path.open("rb") if path else _open_address(where)
        with closing(stream):
            some = getattr(stream, "read1", stream.read)  # what has come, where it comes bit by bit

            def read(size: int) -> bytes:
                with _saying(where):
                    return bytes(some(size))

            yield read


def is_loopback(address: SplitResult) -> bool:
    """Whether an address is of this computer itself."""
    host = address.hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(text: str) -> None:
    try:
        address = urlsplit(text)
        valid = bool(address.hostname) and address.port != 0 and text.isprintable() and " " not in text
    except ValueError:
        valid = False
    if not valid:
        raise CatalogueError(f"The address {text!r} is not valid; check it.")
    if address.username is not None:
        raise CatalogueError(f"The address of {address.hostname} contains a user name; leave it out.")
    if address.scheme != "https" and not (address.scheme == "http" and is_loopback(address)):
        raise CatalogueError(f"{text} is not an https address; only those, and folders, can be catalogues.")


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to addresses of the same scheme that may be contacted themselves."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise CatalogueError(f"{req.full_url} redirects to {newurl}, which is not followed; tell whoever hosts it.")
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_address(where: str) -> Any:
    # A proxy's own loopback would be another computer.
    direct = [ProxyHandler({})] if is_loopback(urlsplit(where)) else []
    request = Request(where, headers={"User-Agent": "MoB-Uncertainty"})
    return build_opener(_Redirects, *direct).open(request, timeout=TIMEOUT_S)


@contextmanager
def _saying(where: str) -> Iterator[None]:
    """Say in one sentence why a file cannot be read."""
    try:
        yield
    except HTTPError as error:
        error.close()
        if error.code in (404, 410):
            text = f"There is no {where} (HTTP {error.code}); check the address."
        elif 300 <= error.code < 400:
            text = f"{where} redirects endlessly, or to an address that is not allowed; tell whoever hosts it."
        else:
            text = f"The server refuses {where} (HTTP {error.code}); try again later."
        raise CatalogueError(text) from error
    except (OSError, HTTPException, ValueError) as error:
        if not _SCHEME.match(where):
            raise CatalogueError(f"{where} cannot be read ({reason_of(error)}); check the path.") from error
        host = urlsplit(where).hostname
        cause = error.reason if isinstance(error, URLError) else error
        reason = reason_of(cause) if isinstance(cause, Exception) else str(cause)
        if isinstance(cause, TimeoutError):
            text = f"{host} has not answered for {TIMEOUT_S:g} s; check the network and try again."
        elif isinstance(error, URLError):
            text = f"{host} cannot be reached ({reason}); check the address and the network."
        else:
            text = f"The connection to {host} was lost ({reason}); check the network and try again."
        raise CatalogueError(text) from error
