"""Translation in the rooms that run on Slicer's core from PyPI too, which has none: there, texts stay English."""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        """Return the text itself."""
        return text


__all__ = ["tr"]
