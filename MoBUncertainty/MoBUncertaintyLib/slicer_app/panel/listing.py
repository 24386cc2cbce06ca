"""Which regions are listed: the measure of uncertainty, its threshold and the smallest region."""

from __future__ import annotations

from slicer.i18n import tr as _

from MoBUncertaintyLib.regions.settings import Measure, RegionSettings
from MoBUncertaintyLib.slicer_app.panel.section import offer

# Thresholds that the slider offers; of the variance, with the usual variance_threshold.
MAX_THRESHOLD = {Measure.VARIANCE: 0.1, Measure.BERNOULLI: 0.25, Measure.ENTROPY: 1.0}


class ListingControls:
    """A selector and two sliders, kept in step with a session's settings.

    Args:
        ui: The panel's widgets.
    """

    def __init__(self, ui) -> None:
        self._ui = ui
        self._measures: list[Measure] = []

    @property
    def measure(self) -> Measure:
        """The chosen measure of uncertainty."""
        return self._measures[self._ui.measureSelector.currentIndex]

    def threshold(self, settings: RegionSettings) -> float | None:
        """Read the threshold off the slider; where that only shows the settings, rounded, they hold."""
        slider = self._ui.regionThresholdSlider
        moved = abs(slider.value - settings.level) > 0.5 * 10**-slider.decimals
        return slider.value if moved else settings.threshold

    def offer(self, session) -> None:
        """Offer the measures; without a covariance there is no variance to choose, unless it was chosen before."""
        names = {Measure.VARIANCE: _("Variance"), Measure.BERNOULLI: _("p (1 - p)"), Measure.ENTROPY: _("Entropy")}
        if not session.prediction.has_variance and session.settings.measure is not Measure.VARIANCE:
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
