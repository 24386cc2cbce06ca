"""Clicks in the panel: which label a click gives, what all of them have done, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import UserError
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.slicer_app.clicks import keys
from MoBUncertaintyLib.slicer_app.clicks.changes import Change, millilitres
from MoBUncertaintyLib.slicer_app.clicks.flash import Flash
from MoBUncertaintyLib.slicer_app.clicks.marks import Mark, Point
from MoBUncertaintyLib.slicer_app.clicks.pointer import SlicePointer
from MoBUncertaintyLib.slicer_app.clicks.table import ClickTable
from MoBUncertaintyLib.slicer_app.panel.section import offer, shown, write
from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass
from MoBUncertaintyLib.slicer_app.worker.steps import Steps

EFFECTS_MS = 150  # after the last of several quick clicks: what each has changed is computed for the list
CLOSE_MM = 5.0  # of what the views show around a click that is jumped to


class ClicksSection:
    """The part of the review's section that is about clicks; takes them from the slice views.

    Args:
        ui: The panel's widgets.
        window: Whose keys act.
        onChanged: Called when the review has changed.
        onClicked: Called before that with the id of the region in which a click was given, or None.
    """

    def __init__(self, ui, window, onChanged: Callable[[], None], onClicked: Callable[[str | None], None]) -> None:
        self._ui = ui
        self._onChanged, self._onClicked = onChanged, onClicked
        self._session = None
        self._entered = self._allowed = False
        self._mode: Mark | None = None  # ORGAN or BACKGROUND, or no clicks
        self._before: Mark | None = None  # the mode that a held key has replaced
        self._used = False  # whether a click was given while the key was down
        self._volumes: dict[str, float] = {}
        self._said = ""
        self._flash = Flash()
        self._preparation = Steps(nothing for nothing in ())  # of the map, for the first click
        self._computing = Steps(nothing for nothing in ())  # what each click has changed
        self._table = ClickTable(ui.clicksTable, shown(self._onPicked))
        self._pointer = SlicePointer(self, shown)
        self._held = keys.HeldKey(window, self._onKeyReleased)
        self._effects = qt.QTimer()
        self._effects.setSingleShot(True)
        self._effects.setInterval(EFFECTS_MS)
        self._effects.timeout.connect(shown(self._showEffects))
        self._shortcuts = [
            keys.addShortcut(window, keys.ORGAN, lambda: self._onKey(keys.ORGAN, Mark.ORGAN)),
            keys.addShortcut(window, keys.NOT_ORGAN, lambda: self._onKey(keys.NOT_ORGAN, Mark.BACKGROUND)),
            keys.addShortcut(window, keys.HIDE, ui.hideClicksButton.click),
        ]
        self._connect()

    # The panel

    def setSession(self, session) -> None:
        """Show another CT's clicks, or none."""
        self._flash.end()
        self._computing.cancel()
        self._preparation.cancel()
        self._setMode(None)
        self._session, self._volumes, self._said = session, {}, ""
        labels = session.prediction.labels if session else ()
        self._values = [label.value for label in labels]
        offer(self._ui.clickLabelSelector, [readable(label.name) for label in labels])
        self._ui.clickLabelSelector.visible = self._ui.clickLabelCaption.visible = len(labels) > 1
        if session:
            session.marks.setHidden(self._ui.hideClicksButton.checked)
            self._effects.start()

    def setEntered(self, entered: bool) -> None:
        """Take clicks and keys only while the module is shown."""
        self._entered = entered
        if not entered:
            self._flash.end()
            self._setMode(None)

    def update(self, allowed: bool, editing: bool) -> None:
        """Set the widgets from the review.

        Args:
            allowed: Whether there is a review that clicks can change.
            editing: Whether the Segment Editor has the mouse.
        """
        ui, session = self._ui, self._session
        self._allowed = allowed and not editing
        if not self._allowed:
            self._setMode(None)
        self._pointer.setActive(self._allowed and self._entered)
        self._pointer.setCursor(self._mode is not None)
        for button in self._buttons():
            button.enabled = self._allowed
            button.visible = not editing
        for shortcut in self._shortcuts:
            shortcut.enabled = self._allowed and self._entered
        clicks = session.review.clicks if session else ()
        ui.clicksCollapsibleButton.enabled = self._allowed
        ui.clicksCollapsibleButton.visible = not editing
        ui.clicksCollapsibleButton.text = _("Clicks ({count})").format(count=len(clicks)) if clicks else _("Clicks")
        self._showTable()
        self._write(self._said or self._counter())
        ui.clickStatusLabel.visible = not editing

    def say(self, text: str) -> None:
        """Show a sentence in place of the counter, until the next step."""
        self._said = text
        self._write(text or self._counter())

    def endFlash(self) -> None:
        """Show nothing of the last step any more."""
        self._flash.end()

    def showChange(self) -> None:
        """Let what the last step has changed flash up."""
        self._said = ""
        self._computing.cancel()
        self._effects.start()
        change = self._session.lastChange
        if change is not None and not change.isEmpty:
            self._flash.begin(self._session, change)

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self._flash.end()
        self._effects.stop()
        self._computing.cancel()
        self._preparation.cancel()
        self._pointer.close()
        self._held.close()
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.deleteLater()
        self._shortcuts = []

    # What the pointer asks and brings (see `pointer.Target`); its positions are of the world

    def label(self) -> int | None:
        if self._mode is None:
            return None
        index = max(0, self._ui.clickLabelSelector.currentIndex)
        return self._values[index] if self._mode is Mark.ORGAN else 0

    def refuses(self, *backgrounds: str | None) -> bool:
        session = self._session
        if session.imageIds & set(backgrounds):
            return False
        other = slicer.mrmlScene.GetNodeByID(backgrounds[0]) if backgrounds and backgrounds[0] else None
        text = _("The view shows {other}, but the review is of {image}: show {image} there, and click again.")
        self.say(text.format(other=other.GetName() if other else _("no image"), image=session.ctNode.GetName()))
        return True

    def points(self) -> dict[str, list[Point]]:
        if self._session.marks.hidden:
            return {}
        return {each.click_id: self._session.toWorld(each.points_ras) for each in self._session.review.clicks}

    def draw(self, points: Sequence[Point], label: int) -> None:
        self._session.showClicks(drawn=(self._session.fromWorld(points), label))

    def give(self, points: Sequence[Point], label: int) -> None:
        self._used = self._used or self._held.isDown
        text = _("A click changes the review, which {name} has signed off: withdraw the signature?")
        place = self._session.fromWorld(points)
        if self._mayChange(text, place) and self._try(lambda: self._session.click(place, label)):
            self._after(self._session.review.clicks[-1])

    def drag(self, clickId: str, points: Sequence[Point]) -> None:
        self._session.showClicks(moved={clickId: self._session.fromWorld(points)})

    def move(self, clickId: str, points: Sequence[Point]) -> None:
        text = _("To move a click changes the review, which {name} has signed off: withdraw the signature?")
        place = self._session.fromWorld(points)
        if self._mayChange(text, place) and self._try(lambda: self._session.moveClick(clickId, place)):
            self._after(next(each for each in self._session.review.clicks if each.click_id == clickId))

    def pick(self, clickId: str) -> None:
        self._table.select(clickId)
        self._ui.clicksCollapsibleButton.collapsed = False
        self._offerSteps()

    # What the user does

    def _connect(self) -> None:
        ui = self._ui
        ui.organHereButton.clicked.connect(shown(lambda *_args: self._toggle(Mark.ORGAN)))
        ui.notOrganHereButton.clicked.connect(shown(lambda *_args: self._toggle(Mark.BACKGROUND)))
        ui.clicksOffButton.clicked.connect(shown(lambda *_args: self._setMode(None)))
        ui.hideClicksButton.clicked.connect(shown(lambda *_args: self._onHide()))
        ui.clicksCollapsibleButton.contentsCollapsed.connect(shown(lambda *_args: self._showEffects()))
        ui.moveClickButton.clicked.connect(shown(lambda *_args: self._onMove()))
        ui.removeClickButton.clicked.connect(shown(lambda *_args: self._onRemove()))

    def _toggle(self, mode: Mark) -> None:
        self._setMode(None if self._mode is mode else mode)

    def _onKey(self, key: str, mode: Mark) -> None:
        if self._held.press(key):
            self._before, self._used = self._mode, False
            self._setMode(mode)

    def _onKeyReleased(self) -> None:
        """Keep the mode of a key that was tapped, or switch it off if it was on; forget that of one that was held."""
        if self._used or not self._held.wasTapped:
            self._setMode(self._before)
        elif self._before is self._mode:
            self._setMode(None)

    def _onHide(self) -> None:
        if self._session:
            self._session.marks.setHidden(self._ui.hideClicksButton.checked)

    def _onPicked(self) -> None:
        click = self._picked()
        if click and self._session:
            self._session.jump(click.points_ras[0], CLOSE_MM)
        self._offerSteps()

    def _onMove(self) -> None:
        click, crosshair = self._picked(), slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        composites = nodesByClass(slicer.mrmlScene, "vtkMRMLSliceCompositeNode")
        if click is None or crosshair is None or self.refuses(*(each.GetBackgroundVolumeID() for each in composites)):
            return
        (place,) = self._session.fromWorld([crosshair.GetCrosshairRAS()])
        by = [here - there for here, there in zip(place, click.points_ras[0], strict=True)]
        points = [tuple(a + b for a, b in zip(point, by, strict=True)) for point in click.points_ras]
        self.move(click.click_id, self._session.toWorld(points))

    def _onRemove(self) -> None:
        click = self._picked()
        text = _("To remove a click changes the review, which {name} has signed off: withdraw the signature?")
        if click and self._mayChange(text) and self._try(lambda: self._session.removeClick(click.click_id)):
            self._after(None)

    # Inside

    def _setMode(self, mode: Mark | None) -> None:
        if mode is not None and not self._allowed:
            mode = None
        if mode is not None and self._mode is None:
            self._preparation = Steps(self._session.results.prepareMap())
        self._mode = mode
        self._ui.organHereButton.checked = mode is Mark.ORGAN
        self._ui.notOrganHereButton.checked = mode is Mark.BACKGROUND
        self._ui.clicksOffButton.checked = mode is None
        self._pointer.setCursor(mode is not None)

    def _write(self, text: str) -> None:
        """Write the line below the buttons; always as high as two, or the button under the mouse would move away."""
        label = self._ui.clickStatusLabel
        write(label, text)
        label.minimumHeight = max(label.minimumHeight, 2 * label.fontMetrics().lineSpacing())

    def _mayChange(self, question: str, place: Sequence[Point] = ()) -> bool:
        """Ask once whether the signature is withdrawn, if there is one, for a click at a place that can be clicked."""
        signature = self._session.review.signature
        if signature is None:
            return True
        if place and not self._try(lambda: self._session.checkPlace(place)):
            return False
        if not slicer.util.confirmOkCancelDisplay(question.format(name=signature.name)):
            self._session.showClicks()
            return False
        self._session.withdraw()
        return True

    def _try(self, step: Callable[[], None]) -> bool:
        """Do a step of the review; say why it is refused, if it is."""
        try:
            step()
        except UserError as error:
            self.say(str(error))
            self._session.showClicks()  # a stroke that was drawn, or a click that was dragged, is none
            self._onChanged()
            return False
        return True

    def _after(self, click) -> None:
        """Show what a step has changed, beside the click that has changed it."""
        self.showChange()
        change: Change | None = self._session.lastChange
        if click is not None:
            volume = millilitres(change.added_ml - change.removed_ml) if change else ""
            self._session.showClicks(text=(click.points_ras[0], volume))
            self._onClicked(click.region_id)
        self._onChanged()
        self._ui.clicksTable.scrollToBottom()

    def _showEffects(self) -> None:
        """List what each click has changed, once the list is seen; in steps, since each takes as long as a click."""
        self._computing.cancel()
        if self._session and not self._ui.clicksCollapsibleButton.collapsed:
            self._computing = Steps(self._computeEffects(self._session), lambda _none: None, shown(_fail))

    def _computeEffects(self, session) -> Iterator[None]:
        volumes = {}
        for click in session.review.clicks:
            yield
            volumes[click.click_id] = session.review.effect(click.click_id).net_mm3 / 1000
        self._volumes = volumes
        self._showTable()

    def _showTable(self) -> None:
        clicks = self._session.review.clicks if self._session else ()
        names = {0: _("not organ")} | {label.value: readable(label.name) for label in self._labels()}
        self._table.show(clicks, names, self._session.conflicts if clicks else (), self._volumes)
        self._offerSteps()

    def _offerSteps(self) -> None:
        picked = self._picked() is not None
        self._ui.moveClickButton.enabled = self._ui.removeClickButton.enabled = picked

    def _picked(self):
        clicks = self._session.review.clicks if self._session else ()
        return next((each for each in clicks if each.click_id == self._table.selected), None)

    def _labels(self) -> Sequence:
        return self._session.prediction.labels if self._session else ()

    def _counter(self) -> str:
        if not self._session:
            return ""
        review = self._session.review
        if review.signature:
            return _("Signed off: a click asks whether to withdraw the signature.")
        if not review.clicks:
            return _("Click where the outline is wrong: the segmentation, its uncertainty and the list follow.")
        before, now = (millilitres(error / 1000, signed=False) for error in review.expected_error_mm3)
        count = len(review.clicks)
        said = _("1 click") if count == 1 else _("{count} clicks").format(count=count)
        text = _("{clicks}, expected error {before} → {now}").format(clicks=said, before=before, now=now)
        conflicts = len(self._session.conflicts)
        return text + (_("; contradicted: {count}").format(count=conflicts) if conflicts else "")

    def _buttons(self) -> list:
        ui = self._ui
        return [ui.organHereButton, ui.notOrganHereButton, ui.clicksOffButton, ui.hideClicksButton]


def _fail(error: Exception) -> None:
    raise error
