"""Which regions are listed: the measure of uncertainty, its threshold and the smallest region."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.slicer_app.widgets.section import inSteps, offer, shown, timer
from MoBUncertaintyLib.slicer_app.worker.steps import Steps

DEBOUNCE_MS = 50

# Thresholds that the slider offers; of the variance, with the usual variance_threshold.
MAX_THRESHOLD = {Measure.VARIANCE: 0.1, Measure.BERNOULLI: 0.25, Measure.ENTROPY: 1.0}


class ListingControls:
    """A selector and two sliders, kept in step with a session's settings; find its regions anew."""

    def __init__(self, ui, onBefore: Callable[[], None], onChanged: Callable[[], None]) -> None:
        self._ui, self._onBefore, self._onChanged = ui, onBefore, onChanged
        self._session = None
        self._measures: list[Measure] = []
        self._preparation = Steps()  # of the session, for finding regions
        self._timer = timer(DEBOUNCE_MS, self._find)
        ui.measureSelector.currentIndexChanged.connect(shown(self._onMeasure))
        for slider in (ui.regionThresholdSlider, ui.smallestRegionSlider):
            slider.valueChanged.connect(self._onSliderMoved)
        ui.listingCollapsibleButton.contentsCollapsed.connect(shown(self._onListing))

    def setSession(self, session) -> None:
        """Show another session's settings, or none."""
        self._timer.stop()
        self._preparation.cancel()
        self._session = session
        if session:
            self._offer(session)
            self.show(session.review.settings)

    def _offer(self, session) -> None:
        """Offer the measures; without a covariance there is no variance to choose, unless it was chosen before."""
        names = {Measure.VARIANCE: _("Variance"), Measure.BERNOULLI: _("p (1 - p)"), Measure.ENTROPY: _("Entropy")}
        if not session.review.prediction.has_variance and session.review.settings.measure is not Measure.VARIANCE:
            del names[Measure.VARIANCE]
        self._measures = list(names)
        offer(self._ui.measureSelector, names.values())

    def show(self, settings: RegionSettings) -> None:
        """Show the settings, without a signal of the controls."""
        ui = self._ui
        controls = (ui.measureSelector, ui.regionThresholdSlider, ui.smallestRegionSlider)
        blocked = [control.blockSignals(True) for control in controls]
        ui.measureSelector.currentIndex = self._measures.index(settings.measure)
        self._fitSlider(settings)
        ui.regionThresholdSlider.value = settings.level
        ui.smallestRegionSlider.value = settings.minimum_mm3
        for control, before in zip(controls, blocked, strict=True):
            control.blockSignals(before)

    def _fitSlider(self, settings: RegionSettings) -> None:
        """Give the slider the range of the measure, extended to the threshold in force."""
        slider, maximum = self._ui.regionThresholdSlider, MAX_THRESHOLD[settings.measure]
        if settings.measure is Measure.VARIANCE:
            maximum *= settings.variance_threshold / RegionSettings().variance_threshold
        slider.decimals = 4 if maximum >= MAX_THRESHOLD[Measure.VARIANCE] else 5
        slider.singleStep, slider.pageStep = maximum / 100, maximum / 20
        slider.maximum = max(maximum, settings.level)
        slider.minimum = min(maximum / 1000, settings.level)

    def _onSliderMoved(self, *_args) -> None:
        if self._session and not self._timer.active:
            self._timer.start()

    def _onListing(self, collapsed: bool) -> None:
        """Prepare for moves of the sliders as soon as they are shown."""
        if self._session and not collapsed and not self._preparation.running:
            self._preparation = Steps(self._session.regions.prepare())

    def _onMeasure(self, *_args) -> None:
        """Find regions by another measure, at its usual threshold."""
        if self._session is None or self._ui.measureSelector.currentIndex < 0:
            return
        self._timer.stop()
        self._onBefore()
        self._find(self._measures[self._ui.measureSelector.currentIndex])

    def _find(self, measure: Measure | None = None) -> None:
        """Find regions as the sliders say, or by another measure; once it is quick: at once on all but large CTs."""
        if self._mayFind:
            self._preparation.cancel()
            self._preparation = inSteps(self._session.regions.prepare(measure), lambda _none: self._change(measure))

    def _change(self, measure: Measure | None) -> None:
        if self._mayFind:
            threshold = None if measure else self._threshold(self._session.review.settings)
            self._session.regions.find(threshold, self._ui.smallestRegionSlider.value, measure)
            if measure:
                self.show(self._session.review.settings)
            self._onChanged()

    def _threshold(self, settings: RegionSettings) -> float | None:
        """Read the threshold off the slider; where that only shows the settings, rounded, they hold."""
        slider = self._ui.regionThresholdSlider
        moved = abs(slider.value - settings.level) > 0.5 * 10**-slider.decimals
        return slider.value if moved else settings.threshold

    @property
    def _mayFind(self) -> bool:
        return self._session is not None and not self._session.review.signature and not self._session.drawing.regionId
