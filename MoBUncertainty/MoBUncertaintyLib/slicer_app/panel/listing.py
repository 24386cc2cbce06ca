"""Which regions are listed: the measure of doubt, its threshold and the smallest region."""

from __future__ import annotations

from slicer.i18n import tr as _

from MoBUncertaintyLib.regions.settings import Measure, RegionSettings
from MoBUncertaintyLib.slicer_app.panel.section import offer

# That the slider offers; of the variance, at its usual threshold.
LARGEST_DOUBT = {Measure.VARIANCE: 0.1, Measure.BERNOULLI: 0.25, Measure.ENTROPY: 1.0}


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
        """The chosen measure of doubt."""
        return self._measures[self._ui.measureSelector.currentIndex]

    def threshold(self, settings: RegionSettings) -> float | None:
        """The threshold that the slider states; that of the settings where it shows those, rounded."""
        slider = self._ui.doubtThresholdSlider
        moved = abs(slider.value - settings.level) > 0.5 * 10**-slider.decimals
        return slider.value if moved else settings.threshold

    def offer(self, session) -> None:
        """Offer the measures; without a covariance there is no variance to choose, unless it was chosen before."""
        names = {Measure.VARIANCE: _("Variance"), Measure.BERNOULLI: _("p (1 - p)"), Measure.ENTROPY: _("Entropy")}
        if not session.hasVariance and session.settings.measure is not Measure.VARIANCE:
            del names[Measure.VARIANCE]
        self._measures = list(names)
        offer(self._ui.measureSelector, names.values())

    def show(self, settings: RegionSettings) -> None:
        """Put the controls where regions were found; nobody is told."""
        ui = self._ui
        controls = (ui.measureSelector, ui.doubtThresholdSlider, ui.smallestRegionSlider)
        blocked = [control.blockSignals(True) for control in controls]
        ui.measureSelector.currentIndex = self._measures.index(settings.measure)
        self._fitSlider(settings)
        ui.doubtThresholdSlider.value = settings.level
        ui.smallestRegionSlider.value = settings.minimum_mm3
        for control, before in zip(controls, blocked, strict=True):
            control.blockSignals(before)

    def _fitSlider(self, settings: RegionSettings) -> None:
        """Let the slider reach from a hundredth of what it offers to the end, or to the threshold in force."""
        slider, largest = self._ui.doubtThresholdSlider, LARGEST_DOUBT[settings.measure]
        if settings.measure is Measure.VARIANCE:
            largest *= settings.variance_threshold / RegionSettings().variance_threshold
        slider.decimals = 3 if largest >= LARGEST_DOUBT[Measure.VARIANCE] else 4
        slider.singleStep, slider.pageStep = largest / 100, largest / 20
        slider.maximum = max(largest, settings.level)
        slider.minimum = min(largest / 100, settings.level)
