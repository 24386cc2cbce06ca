"""Clicks in the panel: which label a click gives, what all of them have done, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.measurements.interval import change_text, volume_text
from MoBUncertaintyLib.review.refinement.clicks import Click, voxels_of
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.clicks.changes import Change
from MoBUncertaintyLib.slicer_app.clicks.devices import ClickMode, SlicePointer
from MoBUncertaintyLib.slicer_app.clicks.table import ClickList
from MoBUncertaintyLib.slicer_app.scene.nodes import Point, channelVolume, fromWorld
from MoBUncertaintyLib.slicer_app.widgets.section import shown, timer, write
from MoBUncertaintyLib.slicer_app.worker.steps import Steps


class ClicksSection:
    """The part of the review's section that is about clicks; takes them from the slice views.

    Attributes:
        label: Returns the label that a click gives now; None: it gives none.
    """

    def __init__(self, ui, window, onChanged: Callable[[], None], onClicked: Callable[[str | None], None]) -> None:
        self._ui = ui
        self._onChanged, self._onClicked = onChanged, onClicked
        self._session = None
        self._said = ""
        self.flash = Flash()
        self._preparation = Steps()  # of the map, for the first click
        self._list = ClickList(ui)
        self._pointer = SlicePointer(self)
        self._mode = ClickMode(ui, window, self._onMode)
        self.label = self._mode.label
        ui.removeClickButton.clicked.connect(shown(lambda *_args: self._onRemove()))

    # The panel

    def setSession(self, session) -> None:
        """Show another image's clicks, or none."""
        self.flash.end()
        self._preparation.cancel()
        self._mode.offer(session.review.prediction.labels if session else ())
        self._session, self._said = session, ""
        self._list.setSession(session)

    def update(self, allowed: bool, editing: bool) -> None:
        """Set the widgets from the review.

        Args:
            allowed: Whether there is a review that clicks can change, and the module is shown.
            editing: Whether the Segment Editor has the mouse.
        """
        ui, allowed = self._ui, allowed and not editing
        self._mode.allow(allowed)
        self._pointer.setActive(allowed)
        for button in (ui.organHereButton, ui.notOrganHereButton, ui.clicksOffButton, ui.hideClicksButton):
            button.enabled = allowed
            button.visible = not editing
        ui.clicksCollapsibleButton.enabled = allowed
        ui.clicksCollapsibleButton.visible = ui.clickStatusLabel.visible = not editing
        self._list.show()
        self.say(self._said)

    def say(self, text: str) -> None:
        """Show a sentence in place of the counter, until the next step.

        The line is always as high as two, or the button under the mouse would move away.
        """
        self._said = text
        text = text or (counter(self._session) if self._session else "")
        write(self._ui.clickStatusLabel, text, lines=2)

    def showChange(self) -> None:
        """Let what the last step has changed flash up."""
        self._said = ""
        self._list.renew()
        change = self._session.lastChange
        if change is not None and not change.isEmpty:
            self.flash.begin(self._session, change)

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self.flash.end()
        self._list.stop()
        self._preparation.cancel()
        self._pointer.close()
        self._mode.close()

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
        self.say(text.format(other=other.GetName() if other else _("no image"), image=ct.GetName()))
        return True

    def draw(self, points: Sequence[Point], label: int) -> None:
        """Show a stroke that is being drawn."""
        self._session.marks.show(drawn=(fromWorld(self._session.results.ctNode, points), label))

    def give(self, points: Sequence[Point], label: int) -> None:
        """Take a click (one point) or a stroke."""
        text = _("A click changes the review, which {name} has signed off. Withdraw the signature?")
        place = fromWorld(self._session.results.ctNode, points)
        self._step(text, place, Review.click, place, label)

    # What the user does

    def _onMode(self) -> None:
        crossed = self._mode.mark is not None
        self._pointer.setCursor(crossed)
        if crossed and not self._preparation.running:
            self._preparation = Steps(self._session.results.overlay.prepare())

    def _onRemove(self) -> None:
        click = self._list.selected
        text = _("Removing a click changes the review, which {name} has signed off. Withdraw the signature?")
        if click:
            self._step(text, (), Review.remove_click, click.click_id)

    # Inside

    def _step(self, question: str, place: Sequence[Point], act: Callable[..., Any], *arguments: Any) -> None:
        """Take a step of the review, and show what it has changed; say why it is refused, if it is."""
        session = self._session
        try:
            if not mayChange(session, question, place):
                return
            session.step(act, *arguments)
        except UserError as error:
            self.say(str(error))
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


def mayChange(session, question: str, place: Sequence[Point] = ()) -> bool:
    """Ask once whether the signature is withdrawn, if there is one, for a click at a place that can be clicked.

    Raises:
        ReviewError: It cannot be clicked.
    """
    signature = session.review.signature
    if signature is None:
        return True
    if not session.fits():
        return False
    if place:
        prediction, click = session.review.prediction, Click("", tuple(place), 0, datetime.now().astimezone())
        voxels_of(click, prediction.grid, prediction.shape, prediction.processed_box)
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
    if not review.clicks:
        return _("Click where the outline is wrong: the segmentation, its uncertainty and the list follow.")
    before, now = (volume_text(error / 1000) for error in review.expected_error_mm3)
    count = len(review.clicks)
    counted = _("1 click") if count == 1 else _("{count} clicks").format(count=count)
    text = _("{clicks}, expected error {before} → {now}").format(clicks=counted, before=before, now=now)
    conflicts = len(session.marks.conflicts)
    return text + (_("; contradicted: {count}").format(count=conflicts) if conflicts else "")


STEP_MS = 250
OPACITIES = (1.0, 0.55, 0.25, 0.0)
TEXT_STEPS = 8  # after which the volume beside the click goes too


class Flash:
    """Shows a change for a second, fading, and then nothing; nothing at all where animations are switched off."""

    def __init__(self) -> None:
        self._session = None
        self._step = 0
        self._timer = timer(STEP_MS, self._fade)

    def begin(self, session, change: Change) -> None:
        """Show a change of a ReviewSession; one that is fading ends."""
        self._session, self._step = session, 0
        if animates():
            session.changes.show(change)
        self._timer.start()

    def end(self) -> None:
        """Show nothing any more."""
        self._timer.stop()
        if self._session is not None:
            self._session.changes.setOpacity(0)
            if self._session.isComplete():
                self._session.marks.show()
        self._session = None

    def _fade(self) -> None:
        self._step += 1
        if self._step >= TEXT_STEPS or not self._session.isComplete():
            self.end()
            return
        if self._step < len(OPACITIES) and animates():
            self._session.changes.setOpacity(OPACITIES[self._step])
        self._timer.start()


def animates() -> bool:
    """Whether the desktop's and Slicer's style animate anything."""
    return slicer.app.style().styleHint(qt.QStyle.SH_Widget_Animation_Duration) > 0
