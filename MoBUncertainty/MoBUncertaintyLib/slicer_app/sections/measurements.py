"""Measurements: numbers of organs, and of the dose in them, with intervals and histograms of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.measurements.distribution import Histogram, Measured
from MoBUncertaintyLib.measurements.interval import volume_number
from MoBUncertaintyLib.measurements.measurement import Values, read_wanted
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.slicer_app.scene.views import isBehind
from MoBUncertaintyLib.slicer_app.widgets.section import State, offer, revealLater, say, signalsBlocked
from MoBUncertaintyLib.slicer_app.widgets.table import Row, Table, fitRows
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton

USUAL, OF_DOSE = ("volume",), ("mean_dose", "D2%", "V30Gy")
"""What is measured unless the user types something else; the latter where a dose is chosen."""
MOST_ROWS = 12
HEIGHTS = "▁▂▃▄▅▆▇█"


class MeasurementsSection:
    """The panel's section for measurements of one image's results, as reviewed.

    `onMeasure` is called with what to measure, as `--measure` takes it, the node of the dose or None, and what to rank
    regions by: a measurement, or None for the expected error.
    """

    def __init__(self, ui, onMeasure: Callable, onCancel: Callable[[], None], onChange: Callable[[], None]) -> None:
        self._ui, self._onMeasure = ui, onMeasure
        self._session = None
        self._measured: Sequence[Measured] = ()
        self._note = ""  # on what was measured
        self._rankings: list[str] = []  # the measurements that regions can be ranked by
        self._table = Table(ui.measurementsTable, (1, 2), 0, lambda: None)
        bar, label = ui.measureProgressBar, ui.measureStatusLabel
        self.work = WorkButton(ui.measureButton, bar, label, self._onClicked, onCancel)
        for signal in (
            ui.doseSelector.currentNodeChanged,
            ui.measuredOrganSelector.currentIndexChanged,
            ui.measuresEdit.textChanged,
        ):
            signal.connect(lambda *_args: onChange())
        ui.doseSelector.currentNodeChanged.connect(lambda *_args: self._onDose())

    @property
    def isOld(self) -> bool:
        """Whether what is shown was measured before the last change of the review, so that an export leaves it out."""
        session = self._session
        return bool(self._measured) and not self._note and session is not None and session.measured is None

    @property
    def ranking(self) -> str | None:
        """The measurement to rank regions by; default: the expected error."""
        row = self._ui.rankSelector.currentIndex
        return self._rankings[row - 1] if row > 0 else None

    @property
    def wanted(self) -> list[str]:
        """What to measure: what is typed, of the organs that are chosen unless it names some itself."""
        ui, names = self._ui, [label.name for label in self._session.review.prediction.labels]
        if ui.measuredOrganSelector.currentIndex > 0:
            names = [names[ui.measuredOrganSelector.currentIndex - 1]]
        typed = ui.measuresEdit.text.strip() or ui.measuresEdit.placeholderText
        kinds = [kind.strip() for kind in typed.replace(";", ",").split(",") if kind.strip()]
        return [text for kind in kinds for text in ([kind] if ":" in kind else [f"{kind}:{name}" for name in names])]

    def setSession(self, session) -> None:
        """Show the measurements of another image's results, or of none."""
        if session is self._session:
            return
        self._session = session
        self.work.say("")
        labels = session.review.prediction.labels if session else ()
        offer(self._ui.measuredOrganSelector, [_("All organs"), *(readable(label.name) for label in labels)])
        own = session.measured if session else None
        self._measured = [from_json(Measured, each) for each in own or ()]
        if session and own is None:
            self._measured = session.review.prediction.measured
        self._note = _("As predicted.") if self._measured and own is None else ""
        self._offerRankings([], session.review.ranked_by if session else None)

    def show(self, measured: Sequence[Measured]) -> None:
        """Show what was measured of the review."""
        self._measured, self._note = measured, ""
        revealLater(self._ui.measurementsTable)

    def update(self, state: State) -> None:
        """Set the widgets for a state of the panel."""
        ui, session = self._ui, self._session
        kinds = (*USUAL, *OF_DOSE) if ui.doseSelector.currentNode() else USUAL
        ui.measuresEdit.placeholderText = ", ".join(kinds)
        if session:
            self._offerRankings(self.wanted, self.ranking)
        free = bool(session) and not state.busy
        for widget in (ui.doseSelector, ui.measuredOrganSelector, ui.measuresEdit):
            widget.enabled = free
        ui.rankSelector.enabled = free and not (session.review.signature or session.review.prediction.checked)
        old = _("From before the last change of the review: measure again.")
        say(ui.measuredLabel, old if self.isOld else self._note)
        self._table.show({each.name: _row(each) for each in self._measured})
        ui.measurementsTable.visible = bool(self._measured)
        fitRows(ui.measurementsTable, MOST_ROWS)
        self.work.update(self._whyNot(state), isShown=not state.busy)

    def _offerRankings(self, measurements: list[str], chosen: str | None) -> None:
        """Offer measurements to rank regions by; one that was chosen stays so, though it may not be measured again."""
        rankings = list(dict.fromkeys([*measurements, *filter(None, [chosen])]))
        if rankings == self._rankings:
            return
        self._rankings = rankings
        offer(self._ui.rankSelector, [_("Expected error"), *self._rankings])
        with signalsBlocked(self._ui.rankSelector):
            self._ui.rankSelector.currentIndex = self._rankings.index(chosen) + 1 if chosen else 0

    def _whyNot(self, state: State) -> str | None:
        if not self._session:
            return _("Segment an image first.")
        if state.busy:
            return _("Wait for the running computation to finish.")
        if not self.wanted:
            return _("Type what to measure first.")
        dose, ct = self._ui.doseSelector.currentNode(), self._session.results.ctNode
        if dose and dose.GetImageData() is None:
            return _("The volume of the dose holds no voxels; choose another.")
        if dose and dose.GetTransformNodeID() != ct.GetTransformNodeID():
            return _("The dose is not under the image's transform; put it there, or harden both.")
        names = [label.name for label in self._session.review.prediction.labels]
        texts = [*self.wanted, *filter(None, [self.ranking])]
        try:
            read_wanted(texts, names, tuple(Values) if dose else (Values.IMAGE,))
        except SettingsError as error:
            return str(error)
        return None

    def _onDose(self) -> None:
        """Put the image back into the views where Slicer shows a dose that was just loaded: there no click counts."""
        dose = self._ui.doseSelector.currentNode()
        if self._session and dose and isBehind(dose):
            self._session.results.showInViews()

    def _onClicked(self) -> None:
        self._onMeasure(self.wanted, self._ui.doseSelector.currentNode(), self.ranking)


def _row(measured: Measured) -> Row:
    value, interval, tip = _("not defined"), _("not calibrated"), f"{measured.name}: {measured.text}"
    if measured.value is not None:
        value = f"{volume_number(measured.value, measured.interval or measured.spread)} {measured.unit}".strip()
        if measured.interval:
            interval = measured.interval.text(measured.value)[1:-1]
    bars = _bars(measured.histogram) if measured.histogram else ""
    return Row([(text, tip) for text in (measured.name, value, interval, bars)])


def _bars(histogram: Histogram) -> str:
    """Draw a histogram in text, two bars in one; characters, unlike pictures, are seen in dark palettes, too."""
    bars = histogram.bars
    pairs = [(left + right) / 2 for left, right in zip(bars[::2], bars[1::2], strict=True)]
    return "".join(HEIGHTS[round(bar / max(pairs) * (len(HEIGHTS) - 1))] for bar in pairs)
