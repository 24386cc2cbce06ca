"""What doubtful regions are called, in the user's language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.regions.location import LabelFrame, label_frames, organ_of
from MoBUncertaintyLib.regions.region import Region

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Prediction
    from MoBUncertaintyLib.review.region import ReviewRegion


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


class OrganNames:
    """The organs that regions lie in, where a prediction has several.

    Args:
        prediction: The prediction, if there are regions.
    """

    def __init__(self, prediction: Prediction | None) -> None:
        self._prediction = prediction
        self._names: dict[str, str] = {}  # by the region's id

    def of(self, region: ReviewRegion) -> str:
        """Name a region's organ; "" where the prediction has only one."""
        if len(self._labels) < 2:
            return ""
        if region.region_id not in self._names:
            values = self._prediction.segmentation[region.box][region.found.mask]
            frames = {} if values.any() else self._frames  # which take long to compute on a large image
            value = organ_of(np.array(region.found.region.centroid_ras), values, frames)
            self._names[region.region_id] = self._labels.get(value, "")
        return self._names[region.region_id]

    @cached_property
    def _labels(self) -> dict[int, str]:
        labels = self._prediction.labels if self._prediction else ()
        return {label.value: readable(label.name) for label in labels}

    @cached_property
    def _frames(self) -> dict[int, LabelFrame]:
        return label_frames(self._prediction)


def regionTitles(regions: Iterable[Region], labels: Sequence[Label]) -> dict[int, str]:
    """Name regions in lists, by their numbers."""
    regions = list(regions)
    places, text, titles = placeTexts(regions, labels), _("{rank}: {place}, expected error {volume} mm³"), {}
    for region in regions:
        volume = f"{region.expected_error_mm3:,.0f}"
        titles[region.number] = text.format(rank=region.rank, place=places[region.number], volume=volume)
    return titles
