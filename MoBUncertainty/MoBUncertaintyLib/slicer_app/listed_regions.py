"""The doubtful regions of a review: found anew where the reader asks, and shown in the scene as they are listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import slicer

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import Box, intersection, shape_of, within
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.coverage import Coverage
from MoBUncertaintyLib.regions.finder import RegionFinder
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.region_names import regionTitles
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import regionSpecs
from MoBUncertaintyLib.slicer_app.stored_results import onItsCt, storeReview


class ListedRegions:
    """The regions that a review lists, with their segments in the scene.

    Args:
        results: The CT's nodes.
        review: The review of them.
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results, self.review = results, review
        self._finder: RegionFinder | None = None
        self._foundAt: tuple = ()  # the clicks in the maps in which it finds regions
        self._shown = self._list()
        self._marked: str | None = None  # the region that stands out
        provenance = (results.documents.get("prediction") or {}).get("provenance", {})
        predicted = _readCoverage(provenance.get("regions", {}))
        stored = results.documents.get("coverage") or {}
        last = (
            _readCoverage(stored) if stored.get("predicted_sha256") == review.digest else None
        )  # not an earlier one's
        self._coverages = dict(filter(None, (predicted, last)))  # by the settings that regions were found with
        self._predictedWarning = predicted[1].warning if predicted else None

    @property
    def warning(self) -> str | None:
        """What is to be said of how much of the expected error they hold; None: they hold enough."""
        coverage = self._coverages.get(self.review.settings)
        listed = sum(region.found.region.expected_error_mm3 for region in self.review.regions)  # decided ones stay
        return coverage.extended(listed).warning if coverage else None

    @property
    def otherWarnings(self) -> list[str]:
        """The prediction's warnings, but for what was said of its regions."""
        return [text for text in self.review.prediction.warnings if text != self._predictedWarning]

    def prepare(self, measure: Measure | None = None) -> Iterator[None]:
        """Get ready for `find`, in steps: the first time takes seconds on a large image."""
        settings = self.review.settings
        yield from self._finderFor(replace(settings, measure=measure or settings.measure)).prepare()

    @onItsCt
    def find(self, threshold: float | None, smallest: float, measure: Measure | None = None) -> None:
        """Find the regions anew; those with a verdict or a comment stay.

        Args:
            threshold: In units of the measure of uncertainty; by default the usual one.
            smallest: mm3.
            measure: The measure of uncertainty; by default as it was.
        """
        before = self.review.settings
        settings = replace(before, measure=measure or before.measure, threshold=threshold, minimum_mm3=smallest)
        if settings == before:
            return
        regions = self._finderFor(settings).find(settings)
        self.review.update_regions(regions)
        if regions.coverage is not None:
            self._coverages[settings] = regions.coverage
            stored = {"settings": asdict(settings), "coverage": asdict(regions.coverage)}
            self.results.documents.set("coverage", stored | {"predicted_sha256": self.review.digest})
        self.show()
        storeReview(self.results, self.review)

    def show(self) -> None:
        """Show all of them anew."""
        regions = self.review.listed()
        self.results.setRegions(regions.map, regionSpecs(regions.ranked, self.review.prediction.labels), regions.box)
        self._shown = self._list()
        self.mark(self._marked)
        self._showStatuses()

    def update(self, box: Box) -> None:
        """Show them as they are now, where they can have changed in a box only."""
        numbers = {number for number, _ in self._list()}
        if set(self._list()) != set(self._shown) or set(self.results.regions.values()) != numbers:
            self.show()
            return
        regions = self.review.listed()
        inner = intersection(box, regions.box)
        if inner:
            there = np.zeros(shape_of(box), regions.map.dtype)
            there[within(inner, box)] = regions.map[within(inner, regions.box)]
            self.results.regions.update(box, there)
            self.results.regions.rename(regionTitles(regions.ranked, self.review.prediction.labels))
        self._shown = self._list()
        self._showStatuses()

    @onItsCt
    def mark(self, regionId: str | None) -> None:
        """Let one region stand out from the others; None: none."""
        self._marked = regionId
        self.results.highlightRegion({name: number for number, name in self._shown}.get(regionId))

    @onItsCt
    def jumpTo(self, region: ReviewRegion | None) -> None:
        """Mark a region, and let all slice views jump and zoom to it; None: no region is marked."""
        self.mark(region.region_id if region else None)
        if region:
            self.results.jumpTo(region.region.centroid_ras, region.region.extent_mm)

    def _finderFor(self, settings: RegionSettings) -> RegionFinder:
        if self._finder is None or self._foundAt != self.review.clicks or not self._finder.fits(settings):
            self._finder, self._foundAt = RegionFinder(self.review.current(), settings), self.review.clicks
        return self._finder

    def _list(self) -> list[tuple[int, str]]:
        return [(region.number, region.region_id) for region in self.review.regions]

    def _showStatuses(self) -> None:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        decided = {region.number: region.decided for region in self.review.regions}
        statuses = {number: logic.Completed if done else logic.Flagged for number, done in decided.items()}
        self.results.regions.setStatuses(statuses)


def _readCoverage(stored: Mapping[str, Any]) -> tuple[RegionSettings, Coverage] | None:
    """Read how regions were found and what they hold; None where that is not known, or damaged."""
    try:
        return RegionSettings.from_dict(stored["settings"]), Coverage(**stored["coverage"])
    except (KeyError, TypeError, ValueError, SettingsError):
        return None
