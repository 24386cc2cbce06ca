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
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click, voxels_of
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.clicks.changes import Change
from MoBUncertaintyLib.slicer_app.clicks.keys import ClickMode
from MoBUncertaintyLib.slicer_app.clicks.pointer import SlicePointer
from MoBUncertaintyLib.slicer_app.clicks.table import ClickList
from MoBUncertaintyLib.slicer_app.scene.nodes import Point, nodesByClass
from MoBUncertaintyLib.slicer_app.widgets.section import shown, timer, write
from MoBUncertaintyLib.slicer_app.worker.steps import Steps


class ClicksSection:
    """The part of the review's section that is about clicks; takes them from the slice views.

    Args:
        ui: The panel's widgets.
        window: Whose keys act.
        onChanged: Called when the review has changed.
        onClicked: Called before that with the id of the region in which a click was given, or None.

    Attributes:
        flash: Of what the last step has changed.
        label: Returns the label that a click gives now; None: it gives none.
        pick: Selects a click by its id.
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
        self.label, self.pick = self._mode.label, self._list.select
        ui.moveClickButton.clicked.connect(shown(lambda *_args: self._onMove()))
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

    def refuses(self, *backgrounds: str | None) -> bool:
        """Tell, and say, whether nothing can be clicked in views with these volumes (IDs) behind all others."""
        session = self._session
        if session.imageIds & set(backgrounds):
            return False
        other = slicer.mrmlScene.GetNodeByID(backgrounds[0]) if backgrounds and backgrounds[0] else None
        text = _("The view shows {other}, but the review is of {image}: show {image} in this view and click again.")
        self.say(text.format(other=other.GetName() if other else _("no image"), image=session.results.ctNode.GetName()))
        return True

    def points(self) -> dict[str, list[Point]]:
        """Return where the clicks that can be seen lie, by their ids."""
        if self._session.marks.hidden:
            return {}
        toWorld = self._session.results.nodes.toWorld
        return {click.click_id: toWorld(click.points_ras) for click in self._session.review.clicks}

    def draw(self, points: Sequence[Point], label: int) -> None:
        """Show a stroke that is being drawn."""
        self._session.marks.show(drawn=(self._session.results.nodes.fromWorld(points), label))

    def give(self, points: Sequence[Point], label: int) -> None:
        """Take a click (one point) or a stroke."""
        self._mode.use()
        text = _("A click changes the review, which {name} has signed off. Withdraw the signature?")
        place = self._session.results.nodes.fromWorld(points)
        if self._mayChange(text, place) and self._try(self._session.step, Review.click, place, label):
            self._after(self._session.review.clicks[-1])

    def drag(self, clickId: str, points: Sequence[Point]) -> None:
        """Show a click that is being moved."""
        self._session.marks.show(moved={clickId: self._session.results.nodes.fromWorld(points)})

    def move(self, clickId: str, points: Sequence[Point]) -> None:
        """Take the new place of a click."""
        text = _("Moving a click changes the review, which {name} has signed off. Withdraw the signature?")
        place = self._session.results.nodes.fromWorld(points)
        if self._mayChange(text, place) and self._try(self._session.step, Review.move_click, clickId, place):
            self._after(next(click for click in self._session.review.clicks if click.click_id == clickId))

    # What the user does

    def _onMode(self) -> None:
        crossed = self._mode.mark is not None
        self._pointer.setCursor(crossed)
        if crossed and not self._preparation.running:
            self._preparation = Steps(self._session.results.overlay.prepare())

    def _onMove(self) -> None:
        click, crosshair = self._list.selected, slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        composites = nodesByClass(slicer.mrmlScene, "vtkMRMLSliceCompositeNode")
        if click is None or crosshair is None or self.refuses(*(view.GetBackgroundVolumeID() for view in composites)):
            return
        (place,) = self._session.results.nodes.fromWorld([crosshair.GetCrosshairRAS()])
        by = [here - there for here, there in zip(place, click.points_ras[0], strict=True)]
        points = [tuple(a + b for a, b in zip(point, by, strict=True)) for point in click.points_ras]
        self.move(click.click_id, self._session.results.nodes.toWorld(points))

    def _onRemove(self) -> None:
        click = self._list.selected
        text = _("Removing a click changes the review, which {name} has signed off. Withdraw the signature?")
        if click and self._mayChange(text) and self._try(self._session.step, Review.remove_click, click.click_id):
            self._after(None)

    # Inside

    def _mayChange(self, question: str, place: Sequence[Point] = ()) -> bool:
        """Ask once whether the signature is withdrawn, if there is one, for a click at a place that can be clicked."""
        signature = self._session.review.signature
        if signature is None:
            return True
        if not self._session.fits():
            return False
        if place and not self._try(checkPlace, self._session.review.prediction, place):
            return False
        if not slicer.util.confirmOkCancelDisplay(question.format(name=signature.name)):
            self._session.marks.show()
            return False
        self._session.step(Review.withdraw)
        return True

    def _try(self, act: Callable[..., None], *arguments: Any) -> bool:
        """Do something; say why it is refused, if it is."""
        try:
            act(*arguments)
        except UserError as error:
            self.say(str(error))
            self._session.marks.show()  # a stroke that was drawn, or a click that was dragged, is none
            self._onChanged()
            return False
        return True

    def _after(self, click) -> None:
        """Show what a step has changed, beside the click that has changed it."""
        self.showChange()
        change: Change | None = self._session.lastChange
        if click is not None:
            volume = change_text(change.added_ml - change.removed_ml) if change else ""
            self._session.marks.show(text=(click.points_ras[0], volume))
            self._onClicked(click.region_id)
        self._onChanged()
        self._ui.clicksTable.scrollToBottom()


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


def checkPlace(prediction: Prediction, points: Sequence[Point]) -> None:
    """Refuse places that cannot be clicked.

    Raises:
        ReviewError: One lies outside of what was predicted.
    """
    click = Click("", tuple(points), 0, datetime.now().astimezone())
    voxels_of(click, prediction.grid, prediction.shape, prediction.processed_box)


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
