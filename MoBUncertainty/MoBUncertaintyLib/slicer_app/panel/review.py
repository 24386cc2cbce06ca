"""Review: the list of doubtful regions, a verdict on each, and the sign-off."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.slicer_app.clicks import keys
from MoBUncertaintyLib.slicer_app.clicks.preview import VerdictPreview
from MoBUncertaintyLib.slicer_app.clicks.section import ClicksSection
from MoBUncertaintyLib.slicer_app.panel.dialogs import confirmLoss
from MoBUncertaintyLib.slicer_app.panel.editor import RegionEditor
from MoBUncertaintyLib.slicer_app.panel.listing import ListingControls
from MoBUncertaintyLib.slicer_app.panel.section import (
    TableRoom,
    allow,
    reveal,
    shortened,
    shown,
    showSuitability,
    write,
)
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.panel.table import RegionTable, statusText

FEWEST_ROWS = 3  # of the list that are seen at once, in the lowest window
MAX_NAME = 21  # characters of the image's and of the model's name in the title
SURFACE_MS = 400  # the 3D surface follows when the reader pauses: on a large CT it takes longer than a click may


class ReviewSection:
    """The panel's section for the review of one CT.

    Args:
        ui: The panel's widgets.
        onChange: Called when the review has changed; `update` has to follow.
    """

    def __init__(self, ui, onChange: Callable[[], None]) -> None:
        self._ui = ui
        self._onChange = onChange
        self._session = None
        self._entered = False
        self._commented = None  # the region that the comment's text belongs to
        self._table = RegionTable(ui.regionsTable, shown(self._onSelected))
        self._room = TableRoom(ui.regionsTable, ui.reviewCollapsibleButton, FEWEST_ROWS)
        for part in (ui.reviewCollapsibleButton, ui.clicksCollapsibleButton, ui.listingCollapsibleButton):
            part.contentsCollapsed.connect(lambda *_args: self._room.update())
        self._listing = ListingControls(ui, self._onComment, self._changed)
        self._editor = RegionEditor(ui)
        window = slicer.util.mainWindow() or ui.regionsTable
        self._clicks = ClicksSection(ui, window, self._changed, self._onClicked)
        self._preview = VerdictPreview(
            {Verdict.INCLUDE: ui.includeButton, Verdict.EXCLUDE: ui.excludeButton},
            window,
            self._showPreview,
            self._hidePreview,
            self._decide,
            self._clicks.say,
        )
        self._tips = {name: widget.toolTip for name, widget in self._locked().items()}
        self._tips["signOffButton"] = ui.signOffButton.toolTip
        self._surfaceTimer = qt.QTimer()
        self._surfaceTimer.setInterval(SURFACE_MS)
        self._surfaceTimer.timeout.connect(shown(self._updateSurfaces))
        self._connect(window)

    @property
    def session(self):
        """The review that is shown, or None."""
        return self._session

    @property
    def entered(self) -> bool:
        """Whether the module is shown."""
        return self._entered

    def setSession(self, session) -> None:
        """Show another CT's review, or none."""
        if session is self._session:
            return
        self.leave()
        self._editor.hide()  # leave() does not where nodes are gone
        self._session = session
        self._commented = None
        self._table.clear(session.prediction if session else None)
        self._clicks.setSession(session)
        self._offerLabels(session.prediction.labels if session else ())
        if session:
            self._settleEdit()  # one that the CT was moved away under
        self._listing.setSession(session)
        self._onChange()
        if session and session.review.regions:
            self._table.select(self._firstPending())

    def setEntered(self, entered: bool) -> None:
        """Enable the keys only while the module is shown."""
        if not entered:
            self.leave()
        self._entered = entered
        self._clicks.setEntered(entered)
        self._onChange()

    def leave(self) -> None:
        """Keep a comment that is being typed, and what is being drawn."""
        self._preview.end()
        if self._session and self._session.isComplete():
            self._onComment()
            self._settleEdit()
            self._updateSurfaces()

    def update(self, state: State) -> None:
        """Set the widgets from the review and a state of the panel."""
        session, ui = self._session, self._ui
        ui.reviewCollapsibleButton.enabled = state is not State.RUNNING  # what would be decided meanwhile would be lost
        self._table.show(session.review.regions if session else ())
        region = self._table.selected
        signed = session.review.signature if session else None
        editing = bool(session and session.editing)
        lock = self._lockReason(region, signed)
        for name, widget in self._locked().items():
            allow(widget, lock, self._tips[name])
        travel = bool(session) and not signed and not editing
        ui.undoButton.enabled = travel and session.review.can_undo
        ui.redoButton.enabled = travel and session.review.can_redo
        ui.previousButton.enabled = ui.nextButton.enabled = bool(session and session.review.regions) and not editing
        ui.regionsTable.enabled = not editing
        ui.listingCollapsibleButton.enabled = bool(session) and not signed and not editing
        ui.editButton.text = _("Done") if editing else _("Edit")
        if editing:
            for button in (ui.acceptButton, ui.includeButton, ui.excludeButton):
                allow(button, _("Finish drawing first."), "")
        self._clicks.update(bool(session) and state is not State.RUNNING, editing)
        for widget in self._notWhileEditing():
            widget.visible = not editing
        ui.discardEditButton.visible = editing
        commented = region.region_id if region else None
        if not ui.commentEdit.hasFocus() or commented != self._commented:
            ui.commentEdit.text = region.comment if region else ""
        self._commented = commented
        self._nameResults()
        write(ui.reviewProgressLabel, "\n".join([self._progress(), *self._volumes()]))
        suitability = session.prediction.suitability if session else None
        showSuitability([ui.reviewSuitabilityLabel, ui.signOffSuitabilityLabel], suitability)
        write(ui.reviewWarningsLabel, "\n".join(self._warnings()))
        ui.reviewWarningsLabel.visible = bool(ui.reviewWarningsLabel.text)
        self._updateSignOff()
        for shortcut, whileEditing in self._shortcuts:
            shortcut.enabled = self._entered and bool(session) and whileEditing in (editing, None)
        self._room.update()

    def settleStrayEdits(self) -> bool:
        """Ask what becomes of voxels that were changed by other means than verdicts; return whether to go on."""
        count = self._session.strayEdits()
        text = _(
            "{count} voxels of the segmentation were changed outside of this review, in the Segment Editor perhaps;"
            " they are no part of it. Take them back and go on? To keep a change, cancel, select the region that it"
            " lies in and draw it with Edit."
        )
        if count and not slicer.util.confirmOkCancelDisplay(text.format(count=count)):
            return False
        if count:
            self._session.discardStrayEdits()
        return True

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self._listing.setSession(None)
        self.leave()
        self._surfaceTimer.stop()
        self._editor.cleanup()
        self._preview.cleanup()
        self._clicks.cleanup()
        self._room.close()
        for shortcut, _whileEditing in self._shortcuts:
            shortcut.enabled = False
            shortcut.deleteLater()
        self._shortcuts = []

    # Wiring

    def _connect(self, window) -> None:
        ui = self._ui
        self._shortcuts = []
        for button, act, key, whileEditing in (
            (ui.previousButton, lambda: self._table.step(-1), "P", False),
            (ui.nextButton, self._onNext, "N", False),
            (ui.acceptButton, lambda: self._decide(Verdict.ACCEPT), "A", False),
            # Taken while editing too, although it does nothing then: the Segment Editor's own I would limit drawing to
            # a range of grey values that nobody sees. An ambiguous key does nothing there.
            (ui.includeButton, lambda: self._preview.press(Verdict.INCLUDE), "I", None),
            (ui.excludeButton, lambda: self._preview.press(Verdict.EXCLUDE), "X", False),
            (ui.editButton, self._onEdit, "E", None),
            (ui.undoButton, lambda: self._travel(self._session.undo), "Ctrl+Z", False),
            (ui.redoButton, lambda: self._travel(self._session.redo), "Ctrl+Shift+Z", False),
            (ui.discardEditButton, self._onDiscard, None, None),
            (ui.signOffButton, self._onSignOff, None, None),
        ):
            slot = shown(lambda *_args, act=act: (self._leaveText(), act()))
            button.clicked.connect(slot)
            if key:
                self._addShortcut(window, key, button, slot, whileEditing)
        ui.commentEdit.editingFinished.connect(shown(self._onComment))
        ui.commentEdit.returnPressed.connect(shown(self._leaveText))
        ui.readerEdit.textChanged.connect(lambda *_args: self._onChange())
        ui.readerEdit.returnPressed.connect(shown(self._onNamed))

    def _addShortcut(self, window, key: str, button, act: Callable, whileEditing: bool | None) -> None:
        def press(*_args) -> None:
            if button.enabled:
                act()

        self._shortcuts.append((keys.addShortcut(window, key, press), whileEditing))

    def _locked(self) -> dict:
        """List the widgets that need a region that may be changed."""
        names = ("acceptButton", "includeButton", "excludeButton", "editButton", "commentEdit")
        return {name: getattr(self._ui, name) for name in names}

    def _notWhileEditing(self) -> list:
        """List the widgets that make room for the Segment Editor, whose tools would lie below a laptop's window."""
        ui = self._ui
        travel = [ui.previousButton, ui.nextButton, ui.undoButton, ui.redoButton]
        verdicts = [ui.acceptButton, ui.includeButton, ui.excludeButton]
        signing = [ui.signOffCaption, ui.readerEdit, ui.signOffButton]
        return [ui.regionsTable, *travel, *verdicts, ui.listingCollapsibleButton, *signing]

    def _lockReason(self, region, signed) -> str | None:
        if not self._session:
            return _("Segment an image first.")
        if signed:
            return _("Signed off; press Reopen to change it.")
        return None if region else _("Select a region in the list first.")

    # What the user does

    def _onSelected(self) -> None:
        self._onComment()  # of the region that was selected before
        self._preview.end()
        self._clicks.say("")
        self._session.markSuggestion(None)
        self._session.show(self._table.selected)
        self._onChange()

    def _onNext(self) -> None:
        """Go down the list to an undecided region, and mark where in it a click helps most; at the end, to *Sign off*.

        A signed review is looked through row by row.
        """
        if self._session.review.signature:
            self._table.step(1)
            return
        following = self._table.following()
        if following is None:
            self._leadToSignOff()
            return
        self._table.select(following)
        suggestion = self._session.suggest([following])
        self._session.markSuggestion(suggestion and suggestion.point_ras)

    def _onNamed(self) -> None:
        self._leadToSignOff() if self._ui.signOffButton.enabled else self._leaveText()

    def _leadToSignOff(self) -> None:
        """Bring *Sign off* into sight, and the keyboard to it or, as long as there is none, to the name."""
        if self._session:
            self._session.markSuggestion(None)
        reveal(self._ui.signOffButton)
        (self._ui.signOffButton if self._ui.signOffButton.enabled else self._ui.readerEdit).setFocus()

    def _onClicked(self, regionId: str | None) -> None:
        """Select the region that was clicked in, and leave the views where they are."""
        if regionId and (self._table.selected is None or self._table.selected.region_id != regionId):
            self._onComment()
            self._table.select(regionId, quietly=True)
            self._session.mark(regionId)

    def _showPreview(self, verdict: Verdict, label: int | None):
        region = self._table.selected
        if region is None or not self._session:
            return None
        self._clicks.endFlash()
        return self._session.preview(region.region_id, verdict, label)

    def _hidePreview(self) -> None:
        if self._session:
            self._session.changes.setOpacity(0)

    def _decide(self, verdict: Verdict, label: int | None = None) -> None:
        region = self._table.selected
        if region:
            self._session.decide(region.region_id, verdict, label)
            self._clicks.showChange()
            self._clicks.say(self._overturned(region))
            self._changed()

    def _overturned(self, before: ReviewRegion) -> str:
        """Say that a region had another verdict, if it had."""
        now = self._session.review.region(before.region_id)
        if before.verdict in (Verdict.PENDING, now.verdict):
            return ""
        text = _("Region {rank} was {before} and is {now} now; Undo takes that back.")
        verdicts = {"before": statusText(before.verdict), "now": statusText(now.verdict)}
        return text.format(rank=now.region.rank, **verdicts)

    def _travel(self, step: Callable[[], None]) -> None:
        """Undo or redo, and select the region that has changed."""
        before = {each.region_id: (each.verdict, each.comment) for each in self._session.review.regions}
        step()
        self._clicks.showChange()
        self._listing.show(self._session.settings)
        self._changed()
        for each in self._session.review.regions:
            if before.get(each.region_id, (each.verdict, each.comment)) != (each.verdict, each.comment):
                self._table.select(each.region_id)
                break

    def _onComment(self) -> None:
        regions = self._session.review.regions if self._session and not self._session.review.signature else ()
        text = self._ui.commentEdit.text.strip()
        for region in regions:
            if region.region_id == self._commented and region.comment != text:
                self._session.comment(region.region_id, text)
                self._changed()

    def _leaveText(self) -> None:
        """Give the keys back to the review, which ends a comment or a name that is being typed."""
        for edit in (self._ui.commentEdit, self._ui.readerEdit):
            if edit.hasFocus():
                edit.clearFocus()
                self._ui.regionsTable.setFocus()

    def _onEdit(self) -> None:
        if self._session.editing:
            self._finishEdit()
            return
        self._onComment()
        if not self.settleStrayEdits():
            return
        node = self._session.beginEdit(self._table.selected.region_id)
        self._editor.show(node)
        self._onChange()

    def _finishEdit(self) -> None:
        if self._session.editing:
            self._editor.hide()
            self._session.finishEdit()
            self._changed()

    def _settleEdit(self) -> None:
        """End an edit that was left; where the CT was moved meanwhile, not before it is back."""
        if self._session.editing and self._session.fits():
            self._editor.hide()
            self._session.settleEdit()
            self._changed()

    def _onDiscard(self) -> None:
        if self._session.editing:
            self._editor.hide()
            self._session.cancelEdit()
            self._changed()

    def _onSignOff(self) -> None:
        if self._session.review.signature:
            self._session.withdraw()
        elif self._mayTrust() and self.settleStrayEdits():
            self._onComment()
            self._session.sign(self._ui.readerEdit.text.strip())
        self._changed()

    def _mayTrust(self) -> bool:
        """Ask before a case is signed off that is not usable."""
        suitability = self._session.prediction.suitability
        if suitability is None or suitability.level is not Level.NOT_USABLE:
            return True
        return confirmLoss(f"{suitability.sentence} {_('Sign off nevertheless?')}")

    def _updateSurfaces(self) -> None:
        self._surfaceTimer.stop()
        if self._session and self._session.isComplete():
            self._session.updateSurfaces()

    # Inside

    def _changed(self) -> None:
        self._preview.end()
        self._onChange()
        if not self._surfaceTimer.active:  # else quick clicks would put it off for ever
            self._surfaceTimer.start()

    def _offerLabels(self, labels: Sequence[Label]) -> None:
        """Let Include ask for which label, if there are several; its key takes the one that most of the region has."""
        menu, old = None, self._ui.includeButton.menu()
        if old:
            old.deleteLater()
        if len(labels) > 1:
            menu = qt.QMenu(self._ui.includeButton)
            for label in labels:
                action = menu.addAction(readable(label.name))
                for signal, act in ((action.hovered, self._preview.offer), (action.triggered, self._preview.press)):
                    include = shown(functools.partial(act, Verdict.INCLUDE, label.value))
                    signal.connect(lambda *_args, include=include: include())
            menu.aboutToHide.connect(lambda: qt.QTimer.singleShot(0, self._preview.end))
        self._ui.includeButton.setMenu(menu)

    def _firstPending(self) -> str:
        regions = self._session.review.regions
        return next((each for each in regions if not each.decided), regions[0]).region_id

    def _nameResults(self) -> None:
        """Name image and model of the results: the views, and the next run, may be of others by now."""
        button = self._ui.reviewCollapsibleButton
        button.text, button.toolTip = _("Review"), ""
        if self._session:
            model = (self._session.prediction.provenance.get("model") or {}).get("name") or _("unknown model")
            names = {"image": self._session.ctNode.GetName(), "model": model}
            short = {what: shortened(name, MAX_NAME) for what, name in names.items()}
            button.text = _("Review: {image} ({model})").format(**short)
            button.toolTip = _("The results are those of {model} for {image}.").format(**names)

    def _progress(self) -> str:
        if not self._session:
            return _("Doubtful regions are listed here once an image is segmented.")
        review = self._session.review
        if self._session.editing:
            region = review.region(self._session.editing)
            return _("Region {rank}: {place}").format(rank=region.region.rank, place=self._table.place(region))
        if review.signature:
            when = review.signature.time.strftime("%Y-%m-%d %H:%M")
            return _("Signed off by {name}, {time}").format(name=review.signature.name, time=when)
        done, total = review.reviewed
        if not total:
            return _("No doubtful regions at this threshold.")
        if done == total:
            named = self._ui.readerEdit.text.strip()
            text = (
                _("All {total} reviewed: sign off below.")
                if named
                else _("All {total} reviewed: enter your name below and sign off.")
            )
            return text.format(total=total)
        text = _("{done} of {total} reviewed").format(done=done, total=total)
        if self._table.unlisted:
            more = _("{count} more, with less expected error, are listed once those above them are decided")
            text = f"{text}; {more.format(count=self._table.unlisted)}"
        return text

    def _volumes(self) -> list[str]:
        """Write the volumes with their intervals, where the model states any."""
        return self._session.review.volume_lines() if self._session and not self._session.editing else []

    def _warnings(self) -> list[str]:
        """List what was odd about the image or the prediction and, while it can be changed, about the list."""
        session = self._session
        if session is None or session.editing:
            return []
        coverage = None if session.review.signature else session.coverageWarning
        return [*filter(None, [coverage]), *session.warnings]

    def _updateSignOff(self) -> None:
        ui, session = self._ui, self._session
        signed = bool(session and session.review.signature)
        ui.signOffButton.text = _("Reopen") if signed else _("Sign off")
        ui.readerEdit.enabled = bool(session) and not signed
        if signed:
            allow(ui.signOffButton, None, _("Take the signature back, so that the review can be changed."))
            return
        allow(ui.signOffButton, self._whyNotSign(), self._tips["signOffButton"])

    def _whyNotSign(self) -> str | None:
        if not self._session:
            return _("Segment an image first.")
        done, total = self._session.review.reviewed
        if self._session.editing:
            return _("Finish drawing first.")
        if done < total:
            return _("Still to decide: {count} of {total} regions.").format(count=total - done, total=total)
        return None if self._ui.readerEdit.text.strip() else _("Enter your name as the reader first.")
