"""Find what ships beside the code: models, the report's template, the sample CT."""

from __future__ import annotations

from pathlib import Path

_LIBRARY = Path(__file__).parents[1]
_INSTALLED = _LIBRARY / "Resources"

RESOURCES = _INSTALLED if _INSTALLED.is_dir() else _LIBRARY.parent / "Resources"
"""Inside the library where pip has installed it; beside it in a checkout and in Slicer."""
