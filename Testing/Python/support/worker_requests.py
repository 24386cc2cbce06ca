"""Requests as the application sends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def an_export(folder: Path) -> dict[str, Any]:
    """The fields of a request, none of whose files are there."""
    return {"ct": {}, "prediction": {}, "review": {}, "output": str(folder / "review"), "formats": ["report"]}
