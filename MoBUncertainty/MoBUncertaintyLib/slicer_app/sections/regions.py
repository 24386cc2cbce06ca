"""The doubtful regions: which are listed, their table, and what is said of them and of their review."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Discrepancy, discrepancy_text
from MoBUncertaintyLib.review.outcome import agreement_line, volume_lines
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.region_names import placeTexts
from MoBUncertaintyLib.slicer_app.widgets.section import inSteps, offer, shortened, shown, signalsBlocked, timer
from MoBUncertaintyLib.slicer_app.widgets.table import Row, Table
from MoBUncertaintyLib.slicer_app.worker.steps import Steps

PLACE = 2  # the column
DECIDED, UNDECIDED = "✓", "⚑"  # characters, unlike pictures, are seen in dark palettes, too

MAX_NAME = 21  # characters of the image's and of the model's name in the title

PAGE = 50
"""Regions that are listed at first, and that are added once these are decided: nobody reads a list of a thousand."""

DEBOUNCE_MS = 50

# Thresholds that the slider offers; of the variance, with the usual variance_threshold.
MAX_THRESHOLD = {Measure.VARIANCE: 0.1, Measure.BERNOULLI: 0.25, Measure.ENTROPY: 1.0, Measure.ERROR: 1.0}


class RegionTable:
    """One row per region, in order of rank; see `PAGE`."""

    def __init__(self, widget, onSelected: Callable[[], None]) -> None:
        self._onSelected = onSelected
        self._table = Table(widget, (0, 3, 4, 5), PLACE, self._onRow)
        self._regions: dict[str, ReviewRegion] = {}  # all, by their ids
        self._describer: RegionDescriber | None = None  # of the regions' prediction
        self._labels: Sequence[Label] = ()
        self._places: dict[int, str] = {}  # by the regions' numbers
        self._stood = 0  # the row in which the selected region was when it was selected

    @property
    def selected(self) -> ReviewRegion | None:
        """The selected region, as it was last shown."""
        return self._regions.get(self._table.selected)

    @property
    def unlisted(self) -> int:
        """How many regions come after those that are listed."""
        return len(self._regions) - self._table.widget.rowCount

    def clear(self, prediction: Prediction | None) -> None:
        """Remove all regions, and the selection; regions of this prediction follow, if there is one."""
        self._describer = RegionDescriber(prediction) if prediction else None
        self._labels = prediction.labels if prediction else ()
        where = _("Organ, place") if len(self._labels) > 1 else _("Where")
        self._table.widget.horizontalHeaderItem(PLACE).setText(where)
        # The last words say what is wrong in a segmentation that is checked; else the first ones matter most.
        isChecked = prediction is not None and prediction.checked is not None
        self._table.widget.textElideMode = qt.Qt.ElideMiddle if isChecked else qt.Qt.ElideRight
        self.show(())

    def place(self, region: ReviewRegion) -> str:
        """Say where a region lies, and in which organ if there are several."""
        place, organ, described = self._places[region.number], self.organ(region), region.found.region
        text = _("{organ}, {place}").format(place=place, organ=readable(organ.name)) if organ else place
        if not isinstance(described, Discrepancy):
            return text
        if described.compared:
            only = _("{place}: only in the second") if described.missing else _("{place}: only in the first")
            return only.format(place=text)
        return (_("{place}: missing") if described.missing else _("{place}: too much")).format(place=text)

    def organ(self, region: ReviewRegion) -> Label | None:
        """Find the organ that a region lies in, or is nearest to; None where the prediction has only one."""
        if len(self._labels) < 2:
            return None
        return self._describer.organ(region.found.region, region.box, region.found.mask)

    def show(self, regions: Sequence[ReviewRegion], selected: str | None = None) -> None:
        """List the regions, down to a selected one (its id) at least; the selection stays while its region exists."""
        self._regions = {region.region_id: region for region in regions}
        self._places = placeTexts((region.region for region in regions), self._labels)
        listed = regions[: _count(regions, selected or self._table.selected)]
        self._table.show({region.region_id: _row(region, self.place(region)) for region in listed})

    def select(self, regionId: str, quietly: bool = False) -> None:
        """Select a region, and list it if it is not listed yet."""
        if regionId not in self._regions:
            return
        if self._table.rowOf(regionId) is None:
            self.show(tuple(self._regions.values()), regionId)
        self._table.select(regionId)
        self._stood = self._table.rowOf(regionId)
        if not quietly:
            self._onSelected()

    def selectFirst(self) -> None:
        """Select the first region that is undecided or, if all are decided, the first."""
        names = [name for name, region in self._regions.items() if not region.decided] or [*self._regions]
        for name in names[:1]:
            self.select(name)

    def step(self, by: int) -> None:
        """Select the next (1) or previous (-1) region of the list, if there is one; without a selection the first."""
        row, last = self._table.rowOf(self._table.selected), self._table.widget.rowCount - 1
        if last >= 0:
            self.select(list(self._regions)[0 if row is None else min(max(row + by, 0), last)])

    def following(self) -> str | None:
        """Return the id of the undecided region to go to: down the list, then from its top; None if all are decided.

        It begins where the selected region stood when it was selected: a click may have moved it down the list since.
        """
        left = {row: name for row, (name, region) in enumerate(self._regions.items()) if not region.decided}
        others = {row: name for row, name in left.items() if name != self._table.selected} or left
        return next((name for row, name in others.items() if row >= self._stood), next(iter(others.values()), None))

    def _onRow(self) -> None:
        self._stood = self._table.rowOf(self._table.selected)
        self._onSelected()


def _count(regions: Sequence[ReviewRegion], selected: str | None) -> int:
    """Count the regions of the pages that are needed for the selected region and one to decide."""
    needed = [row for row, region in enumerate(regions) if region.region_id == selected]
    needed.append(next((row for row, region in enumerate(regions) if not region.decided), len(regions)))
    return (max(needed) // PAGE + 1) * PAGE


def statusText(verdict: Verdict, resolved: bool = False) -> str:
    """Name a verdict in the reader's words, or what clicks have done without one."""
    if resolved:
        return _("Resolved")
    return {
        Verdict.PENDING: _("To review"),
        Verdict.ACCEPT: _("Accepted"),
        Verdict.INCLUDE: _("Included"),
        Verdict.EXCLUDE: _("Excluded"),
        Verdict.EDIT: _("Edited"),
    }[verdict]


def _row(reviewed: ReviewRegion, place: str) -> Row:
    region = reviewed.region
    texts = (
        str(region.rank),
        f"{DECIDED if reviewed.decided else UNDECIDED} {statusText(reviewed.verdict, reviewed.resolved)}",
        place,
        f"{region.expected_error_mm3:,.0f}",
        f"{region.volume_mm3:,.0f}",
        "✎" if reviewed.comment else "",
    )
    tip = _tip(reviewed, place)
    return Row([(text, tip) for text in texts])


def mayFind(review: Review) -> bool:
    """Whether other regions can be looked for; those where two segmentations differ stay."""
    checked = review.prediction.checked
    return not review.signature and not (checked and checked.second)


def _tip(reviewed: ReviewRegion, place: str) -> str:
    """Describe a region beyond what the columns hold; HTML, so that the reader's comment is escaped."""
    region = reviewed.region
    variance = _("Predictive variance {mean} on average and {peak} at most (the maximum is 0.25).")
    variance = variance.format(mean=f"{region.mean_variance:.3f}", peak=f"{region.max_variance:.3f}")
    effect = region.effect and _("Resolving it removes {effect}.").format(effect=region.effect.text)
    lines = [f"{region.rank}: {place}", discrepancy_text(region), effect, variance, reviewed.comment]
    return f"<p>{'<br>'.join(escape(line) for line in lines if line)}</p>"


def titleOf(session) -> tuple[str, str]:
    """Name image and model of the results, in a title and a tooltip: the views, and the next run, may be of others."""
    if not session:
        return _("Review"), ""
    model = (session.review.prediction.provenance.get("model") or {}).get("name") or _("unknown model")
    names = {"image": session.results.ctNode.GetName(), "model": model}
    title = _("Review: {image} ({model})").format(**{what: shortened(name, MAX_NAME) for what, name in names.items()})
    return title, _("The results are those of {model} for {image}.").format(**names)


def progressOf(session, table: RegionTable, reader: str) -> str:
    """Say how far the review is, and below it the volumes, where the model states their intervals."""
    if not session:
        return _("Doubtful regions are listed here once an image is segmented.")
    review = session.review
    if session.drawing.regionId:
        region = review.region(session.drawing.regionId)
        return _("Region {rank}: {place}").format(rank=region.region.rank, place=table.place(region))
    done, total = review.reviewed
    text = _("{done} of {total} reviewed").format(done=done, total=total)
    if review.signature:
        when = review.signature.time.strftime("%Y-%m-%d %H:%M")
        text = _("Signed off by {name}, {time}").format(name=review.signature.name, time=when)
    elif not total:
        text = _("No doubtful regions at this threshold.")
        if review.prediction.checked:
            text = _("No region is more improbable than those of ordinary contours.")
    elif done == total:
        anonymous = _("All {total} reviewed: enter your name below and sign off.")
        text = (_("All {total} reviewed: sign off below.") if reader else anonymous).format(total=total)
    elif table.unlisted:
        more = _("{count} more follow when these are decided")
        text = f"{text}; {more.format(count=table.unlisted)}"
    measurement, ranked = review.ranked_by, _("Ranked by effect on {measurement}.")
    lines = [text, ranked.format(measurement=measurement)] if measurement else [text]
    return "\n".join([*lines, *volume_lines(review), *filter(None, [agreement_line(review.prediction)])])


def warningsOf(session) -> str:
    """Say what was odd about the image or the prediction and, while it can be changed, about the list."""
    if session is None or session.drawing.regionId:
        return ""
    coverage = None if session.review.signature else session.regions.warning
    return "\n".join([*filter(None, [coverage]), *session.warnings])


def overturned(before: ReviewRegion, now: ReviewRegion) -> str:
    """Say that a region had another verdict, if it had."""
    if before.verdict in (Verdict.PENDING, now.verdict):
        return ""
    text = _("Region {rank} was {before} and is now {now}; Undo reverts this.")
    verdicts = {"before": statusText(before.verdict), "now": statusText(now.verdict)}
    return text.format(rank=now.region.rank, **verdicts)


class ListingControls:
    """A selector and two sliders, kept in step with a session's settings; find its regions anew."""

    def __init__(self, ui, onBefore: Callable[[], None], onChanged: Callable[[], None]) -> None:
        self._ui, self._onBefore, self._onChanged = ui, onBefore, onChanged
        self._session = None
        self._measures: list[Measure] = []
        self._preparation = Steps()  # of the session, for finding regions
        self._timer = timer(DEBOUNCE_MS, self._find)
        sliders = (ui.regionThresholdSlider, ui.smallestRegionSlider)
        for signal in (ui.measureSelector.currentIndexChanged, *(slider.valueChanged for slider in sliders)):
            signal.connect(self._onControl)
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
        if session.review.prediction.checked:
            names = {Measure.ERROR: _("Probability that the label is wrong")}
        self._measures = list(names)
        offer(self._ui.measureSelector, names.values())

    def show(self, settings: RegionSettings) -> None:
        """Show the settings, without a signal of the controls."""
        ui = self._ui
        with signalsBlocked(ui.measureSelector, ui.regionThresholdSlider, ui.smallestRegionSlider):
            ui.measureSelector.currentIndex = self._measures.index(settings.measure)
            self._fitSlider(settings)
            ui.regionThresholdSlider.value = settings.level
            ui.smallestRegionSlider.value = settings.minimum_mm3

    def _fitSlider(self, settings: RegionSettings) -> None:
        """Give the slider the range of the measure, extended to the threshold in force."""
        slider, maximum = self._ui.regionThresholdSlider, MAX_THRESHOLD[settings.measure]
        if settings.measure is Measure.VARIANCE:
            maximum *= settings.variance_threshold / RegionSettings().variance_threshold
        slider.decimals = 4 if maximum >= MAX_THRESHOLD[Measure.VARIANCE] else 5
        slider.singleStep, slider.pageStep = maximum / 100, maximum / 20
        slider.maximum = max(maximum, settings.level)
        slider.minimum = min(maximum / 1000, settings.level)

    def _onControl(self, *_args) -> None:
        if self._session and not self._timer.active:
            self._timer.start()

    def _onListing(self, collapsed: bool) -> None:
        """Prepare for moves of the sliders as soon as they are shown."""
        if self._session and not collapsed and not self._preparation.running:
            self._preparation = Steps(self._session.regions.prepare())

    def _find(self) -> None:
        """Find regions as the controls say, once that is quick: at once on all but large images."""
        if self._mayFind:
            self._onBefore()
            self._preparation.cancel()
            self._preparation = inSteps(self._session.regions.prepare(self._measure), lambda _none: self._change())

    def _change(self) -> None:
        if self._mayFind:
            settings, measure = self._session.review.settings, self._measure
            isAnother = measure is not settings.measure  # whose usual threshold holds
            threshold = None if isAnother else self._threshold(settings)
            self._session.regions.find(threshold, self._ui.smallestRegionSlider.value, measure)
            if isAnother:
                self.show(self._session.review.settings)
            self._onChanged()

    def _threshold(self, settings: RegionSettings) -> float | None:
        """Read the threshold off the slider; where that only shows the settings, rounded, they hold."""
        slider = self._ui.regionThresholdSlider
        moved = abs(slider.value - settings.level) > 0.5 * 10**-slider.decimals
        return slider.value if moved else settings.threshold

    @property
    def _measure(self) -> Measure:
        return self._measures[self._ui.measureSelector.currentIndex]

    @property
    def _mayFind(self) -> bool:
        session = self._session
        return session is not None and mayFind(session.review) and not session.drawing.regionId
