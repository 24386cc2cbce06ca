"""What doubtful regions are called, in the user's language."""

from __future__ import annotations

from MoBUncertaintyLib.regions.region import Region
from MoBUncertaintyLib.slicer_app.i18n import tr as _


def placeText(location: str) -> str:
    """Say where a region lies (`Region.location`), in the reader's words."""
    words = {
        "superior": _("superior"),
        "inferior": _("inferior"),
        "anterior": _("anterior"),
        "posterior": _("posterior"),
        "left": _("left"),
        "right": _("right"),
        "central": _("central"),
    }
    return " ".join(words.get(word, word) for word in location.split())


def regionTitle(region: Region) -> str:
    """Name a region in lists."""
    text = _("{rank}: {place}, expected error {volume} mm³")
    volume = f"{region.expected_error_mm3:,.0f}"
    return text.format(rank=region.rank, place=placeText(region.location), volume=volume)
