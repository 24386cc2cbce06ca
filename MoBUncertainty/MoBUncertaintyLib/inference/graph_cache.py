"""Keep compiled graphs between runs, in the user's folder for caches.

A graph holds a model's weights, and nothing of any image. A cache is never needed: whatever is wrong with it, the graph
is compiled again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LIMIT = 2 * 2**30
"""Bytes that the graphs may take together; those that were not used for longest are removed."""
_DAY = 86400.0


def cache_folder() -> Path:
    """Find the folder of the graphs, where the system wants caches to be."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mob-uncertainty" / "graphs"


class GraphCache:
    """Files of graphs, named by what the graph was made of; each begins with the SHA-256 of that and of the rest.

    So a file is used for what it was made of alone: under another name, as a copy may have it, it is not.

    Args:
        folder: Where they are; None: `cache_folder`.
        limit: Bytes that they may take together.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = folder or cache_folder()
        self.limit = limit

    def path(self, made_of: Mapping[str, object]) -> Path:
        """Return where a graph is kept, or would be."""
        return self.folder / f"{hashlib.sha256(_stated(made_of)).hexdigest()[:32]}.graph"

    def read(self, made_of: Mapping[str, object]) -> bytes | None:
        """Read a graph; None if there is none, or it is damaged, or was made of something else."""
        path = self.path(made_of)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, graph = content[:32], content[32:]
        if _digest(made_of, graph) != digest:
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return graph

    def write(self, made_of: Mapping[str, object], graph: bytes) -> None:
        """Keep a graph, if that is possible: whole, or not at all."""
        path = self.path(made_of)
        partial = path.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.write_bytes(_digest(made_of, graph) + graph)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            return
        self._tidy()

    def _tidy(self) -> None:
        """Remove the graphs beyond the limit, and what killed processes have left of theirs."""
        files = []
        for path in self.folder.iterdir():
            with suppress(OSError):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = 0
        for used, size, path in sorted(files, reverse=True):
            total += size
            if total > self.limit if path.suffix == ".graph" else used < time.time() - _DAY:
                with suppress(OSError):
                    path.unlink()


def _stated(made_of: Mapping[str, object]) -> bytes:
    return json.dumps(made_of, sort_keys=True, default=str).encode()


def _digest(made_of: Mapping[str, object], graph: bytes) -> bytes:
    """Hash a graph together with what it was made of."""
    digest = hashlib.sha256(hashlib.sha256(_stated(made_of)).digest())
    digest.update(graph)
    return digest.digest()
