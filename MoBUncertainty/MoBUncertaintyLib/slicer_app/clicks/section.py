"""Clicks in the panel: which label a click gives, what all of them have done, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.measurements.interval import change_text, volume_text
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent, voxels_of
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.clicks.changes import Change
from MoBUncertaintyLib.slicer_app.clicks.devices import ClickMode, SlicePointer
from MoBUncertaintyLib.slicer_app.scene.nodes import Point, channelVolume, fromWorld
from MoBUncertaintyLib.slicer_app.widgets.section import inSteps, shown, timer, write
from MoBUncertaintyLib.slicer_app.widgets.table import Row, Table, fitRows
from MoBUncertaintyLib.slicer_app.worker.steps import Steps

FLASH_MS = 1000  # for which a change is shown over the slices
POP_UP_MS = 250  # after a press that is refused: when the button is released again, Qt hides every tooltip
CLOSE_MM = 5.0  # of what the views show around a click that is jumped to
ROWS = 4  # that are seen at once
EFFECTS_MS = 150  # after the last of several quick clicks: what each has changed is computed for the list


class ClicksSection:
    """The part of the review's section that is about clicks; takes them from the slice views."""

    def __init__(self, ui, window, onChanged: Callable[[], None], onClicked: Callable[[str | None], None]) -> None:
        self._ui = ui
        self._onChanged, self._onClicked = onChanged, onClicked
        self._session = None
        self._said = ""
        self._flash, self._flashing = timer(FLASH_MS, self.endFlash), None  # the session whose change is shown
        self._popUp = timer(POP_UP_MS, lambda: qt.QToolTip.showText(qt.QCursor.pos(), self._said))
        self._preparation = Steps()  # of the map, for the first click
        self._list = ClickList(ui)
        self._pointer = SlicePointer(self)
        self.mode = ClickMode(ui, window, self._onMode)
        remove = shown(lambda *_args: self._step(None, Review.remove_click, self._list.selected.click_id))
        ui.removeClickButton.clicked.connect(remove)
        lock = shown(lambda *_args: self._step(None, Review.lock, self.mode.chosen, ui.lockLabelButton.checked))
        ui.lockLabelButton.clicked.connect(lock)

    # The panel

    def setSession(self, session) -> None:
        """Show another image's clicks, or none."""
        self.endFlash()
        self._preparation.cancel()
        self.mode.offer(session.review.prediction.labels if session else ())
        self._session, self._said = session, ""
        self._list.setSession(session)

    def update(self, allowed: bool, editing: bool) -> None:
        """Set the widgets: clicks are taken if they are allowed, unless a region is drawn in (`editing`)."""
        ui, allowed = self._ui, allowed and not editing
        self.mode.allow(allowed)
        self.mode.showLocks(self._session.review.locks if self._session else ())
        self._pointer.setActive(allowed)
        modes = (ui.organHereButton, ui.notOrganHereButton, ui.clicksOffButton, ui.lassoButton, ui.boxButton)
        for button in (*modes, ui.hideClicksButton):
            button.visible = not editing
        for button in (*modes, ui.hideClicksButton, ui.lockLabelButton):
            button.enabled = allowed
        ui.clicksCollapsibleButton.enabled = allowed
        ui.clicksCollapsibleButton.visible = ui.clickStatusLabel.visible = not editing
        self._list.show()
        self.say(self._said)

    def say(self, text: str, isRefusal: bool = False) -> None:
        """Show a sentence in place of the counter, until the next step; a refusal pops up at the mouse, too.

        The line is always as high as two, or the button under the mouse would move away. On a low screen it may lie
        below the window.
        """
        if isRefusal:
            self._popUp.start()
        self._said = text
        text = text or (counter(self._session) if self._session else "")
        write(self._ui.clickStatusLabel, text, lines=2)

    def showChange(self) -> None:
        """Let what the last step has changed flash up."""
        self._said = ""
        self._list.renew()
        change = self._session.lastChange
        if change is not None and not change.isEmpty:
            self._flashing = self._session
            self._flashing.changes.show(change)
            self._flash.start()

    def endFlash(self) -> None:
        """Show no change any more, nor the volume beside its click."""
        session, self._flashing = self._flashing, None
        self._flash.stop()
        if session is not None:
            session.changes.hide()
            if session.isComplete():
                session.marks.show()

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self.endFlash()
        self._popUp.stop()
        self._list.stop()
        self._preparation.cancel()
        self._pointer.close()
        self.mode.close()

    # What the pointer asks and brings; its positions are RAS mm of the world

    def refuses(self, background: str | None) -> bool:
        """Tell, and say, whether nothing can be clicked in a view with this volume (ID) behind all others."""
        session = self._session
        ct, others = session.results.ctNode, session.review.prediction.provenance.get("channels", ())[1:]
        images = [ct, *(channelVolume(ct, name) for name in others)]
        if background in {image.GetID() for image in images if image}:
            return False
        other = slicer.mrmlScene.GetNodeByID(background) if background else None
        text = _("The view shows {other}, but the review is of {image}: show {image} in this view and click again.")
        self.say(text.format(other=other.GetName() if other else _("no image"), image=ct.GetName()), isRefusal=True)
        return True

    def draw(self, points: Sequence[Point], label: int, extent: Extent) -> None:
        """Show a stroke or an outline that is being drawn."""
        self._session.marks.show(drawn=_click(self._session, points, label, extent))

    def give(self, points: Sequence[Point], label: int, extent: Extent) -> None:
        """Take a click (one point), a stroke or an outline."""
        click = _click(self._session, points, label, extent)
        self._step(click, Review.click, click.points_ras, label, None, None, extent)

    def _onMode(self) -> None:
        crossed = self.mode.mark is not None
        self._pointer.setCursor(crossed)
        if crossed and not self._preparation.running:
            self._preparation = Steps(self._session.results.overlay.prepare())

    def _step(self, click: Click | None, act: Callable[..., Any], *arguments: Any) -> None:
        """Take a step of the review, a click say, and show what it has changed; say why it is refused, if it is."""
        session = self._session
        try:
            if not mayChange(session, click):
                self._onChanged()
                return
            session.step(act, *arguments)
        except UserError as error:
            self.say(str(error), isRefusal=True)
            session.marks.show()  # a stroke that was drawn is none
            self._onChanged()
            return
        self.showChange()
        change: Change | None = session.lastChange
        if act is Review.click:
            click, volume = session.review.clicks[-1], change and change_text(change.added_ml - change.removed_ml)
            session.marks.show(text=(click.points_ras[0], volume or ""))
            self._onClicked(click.region_id)
        self._onChanged()
        self._ui.clicksTable.scrollToBottom()


def _click(session, points: Sequence[Point], label: int, extent: Extent) -> Click:
    """Make a click of points of the world."""
    place = tuple(fromWorld(session.results.ctNode, points))
    return Click("", place, label, datetime.now().astimezone(), extent=extent)


def mayChange(session, click: Click | None) -> bool:
    """Ask whether the signature is withdrawn, if there is one, for a click at a place that can be clicked.

    Raises `ReviewError` if it cannot be clicked.
    """
    signature, prediction = session.review.signature, session.review.prediction
    if signature is None:
        return True
    if not session.fits():
        return False
    if click:
        voxels_of(click, prediction.grid, prediction.shape, prediction.processed_box)
    question = _("This changes the review, which {name} has signed off. Withdraw the signature?")
    if not slicer.util.confirmOkCancelDisplay(question.format(name=signature.name)):
        session.marks.show()
        return False
    session.step(Review.withdraw)
    return True


def counter(session) -> str:
    """Say how many clicks a review holds, and what they have done to the error that is expected."""
    review = session.review
    if review.signature:
        return _("Signed off: a click asks whether to withdraw the signature.")
    if not review.drawn:
        return _("Click where the outline is wrong: the segmentation, its uncertainty and the list follow.")
    before, now = (volume_text(error / 1000) for error in review.expected_error_mm3)
    count = len(review.drawn)
    counted = _("1 click") if count == 1 else _("{count} clicks").format(count=count)
    text = _("{clicks}, expected error {before} → {now}").format(clicks=counted, before=before, now=now)
    conflicts = len(review.conflicts)
    return text + (_("; contradicted: {count}").format(count=conflicts) if conflicts else "")


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
        self._table.show({click.click_id: self._row(click, names) for click in clicks})
        fitRows(self._ui.clicksTable, ROWS)
        count = len(self._session.review.drawn) if clicks else 0
        self._ui.clicksCollapsibleButton.text = _("Clicks ({count})").format(count=count) if count else _("Clicks")
        self._ui.removeClickButton.enabled = self.selected is not None

    def _onSelected(self) -> None:
        click = self.selected
        if click and click.points_ras:
            self._session.results.jumpTo(click.points_ras[0], CLOSE_MM)
        self._ui.removeClickButton.enabled = click is not None

    def _hide(self) -> None:
        if self._session:
            self._session.marks.setHidden(self._ui.hideClicksButton.checked)

    def _row(self, click: Click, names: Mapping[int, str]) -> Row:
        isContradicted = click.click_id in self._session.review.conflicts
        volume = change_text(self._volumes[click.click_id]) if click.click_id in self._volumes else ""
        texts = (names.get(click.label, ""), _place(click), volume, "⚠" if isContradicted else "")
        tip = _("The other clicks contradict this one: remove one of them, or add clicks beside it.")
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
    for click in review.drawn:
        yield
        volumes[click.click_id] = review.refiner.effect(click, review.clicks).net_mm3 / 1000
    return volumes


def _place(click: Click) -> str:
    """Write a position as Slicer's data probe does; of a stroke or an outline, where it begins."""
    if click.extent is Extent.LOCK:
        return _("locked")
    letters = ("RL", "AP", "SI")
    first = zip(letters, click.points_ras[0], strict=True)
    text = " ".join(f"{pair[value < 0]} {abs(value):.1f}" for pair, value in first)
    if click.extent is Extent.OUTLINE:
        return _("{place}, outline").format(place=text)
    return text if len(click.points_ras) == 1 else _("{place}, stroke").format(place=text)
