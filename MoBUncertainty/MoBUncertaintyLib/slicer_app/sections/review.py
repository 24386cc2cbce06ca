"""Review: the list of doubtful regions, a verdict on each, and the reader's signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.clicks.devices import Shortcuts
from MoBUncertaintyLib.slicer_app.clicks.preview import VerdictPreview
from MoBUncertaintyLib.slicer_app.clicks.section import ClicksSection
from MoBUncertaintyLib.slicer_app.sections.editor import RegionEditor, settleStrayEdits
from MoBUncertaintyLib.slicer_app.sections.regions import (
    ListingControls,
    RegionTable,
    mayFind,
    overturned,
    progressOf,
    titleOf,
    warningsOf,
)
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss
from MoBUncertaintyLib.slicer_app.widgets.section import (
    State,
    allow,
    reveal,
    say,
    shown,
    showSuitability,
    timer,
    warnOfSuitability,
    write,
)
from MoBUncertaintyLib.slicer_app.widgets.table import TableRoom

FEWEST_ROWS = 3  # of the list that are seen at once, in the lowest window
SURFACE_MS = 400  # the 3D surface follows when the reader pauses: on a large image it takes longer than a click may


class ReviewSection:
    """The panel's section for the review of one image."""

    def __init__(self, ui, onChange: Callable[[], None]) -> None:
        self._ui, self._onChange = ui, onChange
        self.session = None
        self.entered = False  # whether the module is shown
        self._table = RegionTable(ui.regionsTable, shown(self._onSelected))
        self._room = TableRoom(ui.regionsTable, ui.reviewCollapsibleButton, FEWEST_ROWS)
        for part in (ui.reviewCollapsibleButton, ui.clicksCollapsibleButton, ui.listingCollapsibleButton):
            part.contentsCollapsed.connect(lambda *_args: self._room.update())
        self._comment = CommentEdit(ui, self._changed)
        self._listing = ListingControls(ui, self._comment.keep, self._changed)
        self._editor = RegionEditor(ui, self._changed)
        window = slicer.util.mainWindow() or ui.regionsTable
        self._clicks = ClicksSection(ui, window, self._changed, self._onClicked)
        self._preview = VerdictPreview(ui, window, lambda: self._table.selected, self._decide, self._clicks)
        self._signOff = SignOff(ui, self._changed)
        self._surfaceTimer = timer(SURFACE_MS, lambda: updateSurfaces(self.session))
        self._keys, self._drawingKeys = Shortcuts(window), Shortcuts(window)  # the latter act while drawing, too
        for button, act, key, shortcuts in (
            (ui.previousButton, lambda: self._table.step(-1), "P", self._keys),
            (ui.nextButton, self._onNext, "N", self._keys),
            (ui.acceptButton, lambda: self._decide(Verdict.ACCEPT), "A", self._keys),
            # Taken while drawing too, although it does nothing then: the Segment Editor's own I would limit drawing to
            # a range of grey values that nobody sees. An ambiguous key does nothing there.
            (ui.includeButton, lambda: self._preview.press(Verdict.INCLUDE), "I", self._drawingKeys),
            (ui.excludeButton, lambda: self._preview.press(Verdict.EXCLUDE), "X", self._keys),
            (ui.editButton, lambda: self._editor.toggle(self.session, self._table.selected), "E", self._drawingKeys),
            (ui.undoButton, lambda: self._travel(Review.undo), "Ctrl+Z", self._keys),
            (ui.redoButton, lambda: self._travel(Review.redo), "Ctrl+Shift+Z", self._keys),
            (ui.discardEditButton, lambda: self._editor.end(self.session, self.session.drawing.cancel), None, None),
            (ui.signOffButton, self._signOff.toggle, None, None),
        ):
            slot = shown(lambda *_args, act=act: (leaveText(ui), act()))
            button.clicked.connect(slot)
            if key:
                shortcuts.add(key, lambda *_args, button=button, slot=slot: button.enabled and slot())

    def setSession(self, session) -> None:
        """Show another image's review, or none."""
        if session is self.session:
            return
        self.leave()
        self._editor.hide()  # leave() does not where nodes are gone
        self.session = session
        self._comment.setSession(session)
        self._table.clear(session.review.prediction if session else None)
        self._clicks.setSession(session)
        self._preview.setSession(session)
        if session:
            self._editor.settle(session)  # an edit that the image was moved away under
        self._listing.setSession(session)
        self._onChange()
        self._table.selectFirst()

    def setEntered(self, entered: bool) -> None:
        """Enable the keys only while the module is shown."""
        if not entered:
            self.leave()
            self._clicks.endFlash()
        self.entered = entered
        self._onChange()

    def leave(self) -> None:
        """Keep a comment that is being typed, and what is being drawn."""
        self._preview.end()
        if self.session and self.session.isComplete():
            self._comment.keep()
            self._editor.settle(self.session)
            updateSurfaces(self.session)

    def update(self, state: State) -> None:
        """Set the widgets from the review and a state of the panel."""
        session, ui = self.session, self._ui
        review = session.review if session else None
        ui.reviewCollapsibleButton.enabled = state is not State.RUNNING  # what would be decided meanwhile would be lost
        self._table.show(review.regions if review else ())
        region, editing = self._table.selected, bool(session and session.drawing.regionId)
        reason = None if region else _("Select a region in the list first.")
        if review is None or review.signature:
            reason = _("Signed off; press Reopen to change it.") if review else _("Segment an image first.")
        verdicts = (ui.acceptButton, ui.includeButton, ui.excludeButton)
        for widget in (*verdicts, ui.editButton, ui.commentEdit):
            allow(widget, _("Finish drawing first.") if editing and widget in verdicts else reason)
        mayChange = review is not None and not review.signature and not editing
        ui.undoButton.enabled = mayChange and review.can_undo
        ui.redoButton.enabled = mayChange and review.can_redo
        ui.previousButton.enabled = ui.nextButton.enabled = bool(review and review.regions) and not editing
        ui.regionsTable.enabled = not editing
        ui.listingCollapsibleButton.enabled = mayChange and mayFind(review)
        ui.editButton.text = _("Done") if editing else _("Edit")
        self._clicks.update(self.entered and bool(session) and state is not State.RUNNING, editing)
        travel = (ui.previousButton, ui.nextButton, ui.undoButton, ui.redoButton)
        signing = (ui.signOffCaption, ui.readerEdit, ui.signOffButton)
        for widget in (ui.regionsTable, *travel, *verdicts, ui.listingCollapsibleButton, *signing):
            widget.visible = not editing  # the Segment Editor's tools would lie below a laptop's window
        ui.discardEditButton.visible = editing
        self._comment.show(region)
        ui.reviewCollapsibleButton.text, ui.reviewCollapsibleButton.toolTip = titleOf(session)
        write(ui.reviewProgressLabel, progressOf(session, self._table, readerOf(ui)))
        suitability = review.prediction.suitability if review else None
        showSuitability(ui.reviewSuitabilityLabel, suitability)
        warnOfSuitability(ui.signOffSuitabilityLabel, suitability)
        say(ui.reviewWarningsLabel, warningsOf(session))
        self._signOff.update(session)
        self._drawingKeys.enable(self.entered and bool(session))
        self._keys.enable(self.entered and bool(session) and not editing)
        self._room.update()

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self._listing.setSession(None)
        self.leave()
        self._surfaceTimer.stop()
        for part in (self._editor, self._preview, self._clicks):
            part.cleanup()
        for part in (self._room, self._keys, self._drawingKeys):
            part.close()

    # What the user does

    def _onSelected(self) -> None:
        self._comment.keep()  # of the region that was selected before
        self._preview.end()
        self._clicks.say("")
        self.session.marks.suggest(None)
        region = self._table.selected
        self.session.regions.jumpTo(region)
        if organ := self._table.organ(region):
            self._clicks.mode.choose(organ.value)  # what is clicked there is meant of it
        self._onChange()

    def _onNext(self) -> None:
        """Go down the list to an undecided region, and mark where in it a click helps most; at the end, to *Sign off*.

        A signed review is looked through row by row.
        """
        if self.session.review.signature:
            self._table.step(1)
            return
        following = self._table.following()
        if following is None:
            self._signOff.lead()
            return
        self._table.select(following)
        self.session.suggest([following])

    def _onClicked(self, regionId: str | None) -> None:
        """Select the region that was clicked in, and leave the views where they are."""
        if regionId and (self._table.selected is None or self._table.selected.region_id != regionId):
            self._comment.keep()
            self._table.select(regionId, quietly=True)
            self.session.regions.mark(regionId)

    def _decide(self, verdict: Verdict, label: int | None = None) -> None:
        region = self._table.selected
        if region:
            self.session.step(Review.decide, region.region_id, verdict, label)
            self._clicks.showChange()
            self._clicks.say(overturned(region, self.session.review.region(region.region_id)))
            self._changed()

    def _travel(self, step: Callable[[Review], Sequence[Box]]) -> None:
        """Undo or redo, and select the region that has changed."""
        before = {region.region_id: (region.verdict, region.comment) for region in self.session.review.regions}
        self.session.step(step)
        self._clicks.showChange()
        self._listing.show(self.session.review.settings)
        self._changed()
        for region in self.session.review.regions:
            if before.get(region.region_id, (region.verdict, region.comment)) != (region.verdict, region.comment):
                self._table.select(region.region_id)
                break

    def _changed(self) -> None:
        self._preview.end()
        self._onChange()
        if not self._surfaceTimer.active:  # else quick clicks would put it off for ever
            self._surfaceTimer.start()


class CommentEdit:
    """The comment on the selected region, kept once it is typed."""

    def __init__(self, ui, onChanged: Callable[[], None]) -> None:
        self._edit, self._onChanged = ui.commentEdit, onChanged
        self._session = None
        self._region: str | None = None  # that the text belongs to
        self._edit.editingFinished.connect(shown(self.keep))
        self._edit.returnPressed.connect(lambda: leaveText(ui))

    def setSession(self, session) -> None:
        """Comment on the regions of another review, or of none."""
        self._session, self._region = session, None

    def show(self, region: ReviewRegion | None) -> None:
        """Show a region's comment, unless it is being typed."""
        regionId = region.region_id if region else None
        if not self._edit.hasFocus() or regionId != self._region:
            self._edit.text = region.comment if region else ""
        self._region = regionId

    def keep(self) -> None:
        """Make what was typed the comment of its region."""
        text = self._edit.text.strip()
        for region in self._session.review.regions if self._session and not self._session.review.signature else ():
            if region.region_id == self._region and region.comment != text:
                self._session.comment(region.region_id, text)
                self._onChanged()
                return  # another region may be shown now


class SignOff:
    """Signs a review off, or takes the signature back."""

    def __init__(self, ui, onChanged: Callable[[], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._session = None
        ui.readerEdit.textChanged.connect(lambda *_args: onChanged())
        ui.readerEdit.returnPressed.connect(lambda: self.lead() if ui.signOffButton.enabled else leaveText(ui))

    def update(self, session) -> None:
        """Set the widgets for a review, or for none."""
        ui, self._session = self._ui, session
        signed = bool(session and session.review.signature)
        ui.signOffButton.text = _("Reopen") if signed else _("Sign off")
        ui.readerEdit.enabled = bool(session) and not signed
        reopen = _("Withdraw the signature, so that the review can be changed.")
        allow(ui.signOffButton, None if signed else self._whyNot(), reopen if signed else None)

    def lead(self) -> None:
        """Bring *Sign off* into sight, and the keyboard to it or, as long as there is none, to the name."""
        if self._session:
            self._session.marks.suggest(None)
        reveal(self._ui.signOffButton)
        (self._ui.signOffButton if self._ui.signOffButton.enabled else self._ui.readerEdit).setFocus()

    def toggle(self) -> None:
        """Sign off, or take the signature back."""
        if self._session.review.signature:
            self._session.step(Review.withdraw)
        elif self._mayTrust() and settleStrayEdits(self._session):
            self._session.step(Review.sign, readerOf(self._ui))
        self._onChanged()

    def _mayTrust(self) -> bool:
        """Ask before a case is signed off that is not usable."""
        suitability = self._session.review.prediction.suitability
        if suitability is None or suitability.level is not Level.NOT_USABLE:
            return True
        return confirmLoss(f"{suitability.sentence} {_('Sign off anyway?')}")

    def _whyNot(self) -> str | None:
        if not self._session:
            return _("Segment an image first.")
        done, total = self._session.review.reviewed
        if self._session.drawing.regionId:
            return _("Finish drawing first.")
        if done < total:
            return _("Still to decide: {count} of {total} regions.").format(count=total - done, total=total)
        return None if readerOf(self._ui) else _("Enter your name as the reader first.")


def readerOf(ui) -> str:
    """Return who reviews."""
    return ui.readerEdit.text.strip()


def leaveText(ui) -> None:
    """Give the keys back to the review, which ends a comment or a name that is being typed."""
    for edit in (ui.commentEdit, ui.readerEdit):
        if edit.hasFocus():
            edit.clearFocus()
            ui.regionsTable.setFocus()


def updateSurfaces(session) -> None:
    """Let the surfaces follow the steps of a review, where there is one."""
    if session and session.isComplete():
        session.segmentation.updateSurfaces()
