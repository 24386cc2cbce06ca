"""What doubtful regions are called, in the user's language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.regions.region import Region


def placeText(location: str, labels: Sequence[Label]) -> str:
    """Say where a region lies (`Region.location`), in the reader's words, and not as one of the labels is called."""
    words = {
        "superior": _("superior"),
        "inferior": _("inferior"),
        "anterior": _("anterior"),
        "posterior": _("posterior"),
        "left": _("left"),
        "right": _("right"),
        "central": _("central"),
    }
    place = " ".join(words.get(word, word) for word in location.split())
    named = {word for label in labels for word in readable(label.name).casefold().split()}
    return _("{place} part").format(place=place) if named & words.keys() & {*location.split()} else place


def placeTexts(regions: Iterable[Region], labels: Sequence[Label]) -> dict[int, str]:
    """Say where regions lie, by their numbers; regions of one place are counted, so that no two are called alike."""
    places: dict[str, list[int]] = {}
    for region in sorted(regions, key=lambda region: region.number):
        places.setdefault(placeText(region.location, labels), []).append(region.number)
    return {
        number: place if len(numbers) == 1 else f"{place} {count}"
        for place, numbers in places.items()
        for count, number in enumerate(numbers, start=1)
    }


def regionTitles(regions: Iterable[Region], labels: Sequence[Label]) -> dict[int, str]:
    """Name regions in lists, by their numbers."""
    regions = list(regions)
    places, text, titles = placeTexts(regions, labels), _("{rank}: {place}, expected error {volume} mm³"), {}
    for region in regions:
        volume = f"{region.expected_error_mm3:,.0f}"
        titles[region.number] = text.format(rank=region.rank, place=places[region.number], volume=volume)
    return titles
