"""Translation, which Slicer's core from PyPI, as tests use it, does not have: there, texts stay English."""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        """Return the text itself."""
        return text


__all__ = ["tr"]
