"""The list of clicks, with what each has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.measurements.interval import change_text
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.widgets.section import inSteps, shown, timer
from MoBUncertaintyLib.slicer_app.widgets.table import Row, Table, fitRows
from MoBUncertaintyLib.slicer_app.worker.steps import Steps

CLOSE_MM = 5.0  # of what the views show around a click that is jumped to
ROWS = 4  # that are seen at once
EFFECTS_MS = 150  # after the last of several quick clicks: what each has changed is computed for the list


class ClickList:
    """One row per click, the earliest first. What each has changed is computed while the list is seen."""

    def __init__(self, ui) -> None:
        self._ui, self._session = ui, None
        self._volumes: dict[str, float] = {}  # signed ml that each has changed, by id
        self._computing = Steps()
        self._table = Table(ui.clicksTable, (2,), 1, shown(self._onSelected))
        self._timer = timer(EFFECTS_MS, self._compute)
        ui.hideClicksButton.clicked.connect(shown(lambda *_args: self._hide()))
        ui.clicksCollapsibleButton.contentsCollapsed.connect(shown(lambda *_args: self._compute()))

    def setSession(self, session) -> None:
        """List the clicks of another review, or of none."""
        self.stop()
        self._session, self._volumes = session, {}
        if session:
            self._hide()
            self._timer.start()

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All of them."""
        return self._session.review.clicks if self._session else ()

    @property
    def selected(self) -> Click | None:
        """The selected one."""
        return next((click for click in self.clicks if click.click_id == self._table.selected), None)

    def renew(self) -> None:
        """Compute anew, soon, what each has changed: there are others."""
        self._computing.cancel()
        self._timer.start()

    def stop(self) -> None:
        """Compute nothing any more."""
        self._timer.stop()
        self._computing.cancel()

    def show(self) -> None:
        """List the clicks as they are now."""
        clicks, labels = self.clicks, self._session.review.prediction.labels if self._session else ()
        names = {0: _("not organ")} | {label.value: readable(label.name) for label in labels}
        conflicts = self._session.marks.conflicts if clicks else ()
        self._table.show({click.click_id: self._row(click, names, conflicts) for click in clicks})
        fitRows(self._ui.clicksTable, ROWS)
        title = _("Clicks ({count})").format(count=len(clicks)) if clicks else _("Clicks")
        self._ui.clicksCollapsibleButton.text = title
        self._ui.removeClickButton.enabled = self.selected is not None

    def _onSelected(self) -> None:
        click = self.selected
        if click:
            self._session.results.jumpTo(click.points_ras[0], CLOSE_MM)
        self._ui.removeClickButton.enabled = click is not None

    def _hide(self) -> None:
        if self._session:
            self._session.marks.setHidden(self._ui.hideClicksButton.checked)

    def _row(self, click: Click, names: Mapping[int, str], conflicts: Collection[str]) -> Row:
        isContradicted = click.click_id in conflicts
        volume = change_text(self._volumes[click.click_id]) if click.click_id in self._volumes else ""
        texts = (names.get(click.label, ""), _place(click.points_ras), volume, "⚠" if isContradicted else "")
        tip = _("The other clicks contradict this one: remove one of them, or click more beside it.")
        return Row([(text, tip if isContradicted else "") for text in texts])

    def _compute(self) -> None:
        """Compute what each click has changed, once the list is seen; in steps, since each takes as long as a click."""
        self._computing.cancel()
        if self._session and not self._ui.clicksCollapsibleButton.collapsed:
            self._computing = inSteps(_effects(self._session.review), self._onComputed)

    def _onComputed(self, volumes: dict[str, float]) -> None:
        self._volumes = volumes
        self.show()


def _effects(review: Review) -> Iterator[None]:
    """Return the signed ml that each click has changed, by id; one click in each step."""
    volumes = {}
    for click in review.clicks:
        yield
        volumes[click.click_id] = review.refiner.effect(click, review.clicks).net_mm3 / 1000
    return volumes


def _place(points: Sequence[tuple[float, float, float]]) -> str:
    """Write a position as Slicer's data probe does; of a stroke, where it begins, and how many points it has."""
    letters = ("RL", "AP", "SI")
    text = " ".join(f"{pair[value < 0]} {abs(value):.1f}" for pair, value in zip(letters, points[0], strict=True))
    return text if len(points) == 1 else _("{place}, stroke").format(place=text)
