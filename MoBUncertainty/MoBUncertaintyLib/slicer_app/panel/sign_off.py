"""The reader's name, and *Sign off*."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.panel.editor import settleStrayEdits
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss
from MoBUncertaintyLib.slicer_app.widgets.section import allow, reveal, shown


class SignOff:
    """Signs a review off, or takes the signature back.

    Args:
        ui: The panel's widgets.
        onChanged: Called when the name is another one.
        leaveText: Gives the keys back to the review.
    """

    def __init__(self, ui, onChanged: Callable[[], None], leaveText: Callable[[], None]) -> None:
        self._ui, self._leaveText = ui, leaveText
        self._session = None
        self._toolTip = ui.signOffButton.toolTip
        ui.readerEdit.textChanged.connect(lambda *_args: onChanged())
        ui.readerEdit.returnPressed.connect(shown(self._onNamed))

    @property
    def reader(self) -> str:
        """Who reviews."""
        return self._ui.readerEdit.text.strip()

    def update(self, session) -> None:
        """Set the widgets for a review, or for none."""
        ui, self._session = self._ui, session
        signed = bool(session and session.review.signature)
        ui.signOffButton.text = _("Reopen") if signed else _("Sign off")
        ui.readerEdit.enabled = bool(session) and not signed
        reopen = _("Take the signature back, so that the review can be changed.")
        allow(ui.signOffButton, None if signed else self._whyNot(), reopen if signed else self._toolTip)

    def lead(self) -> None:
        """Bring *Sign off* into sight, and the keyboard to it or, as long as there is none, to the name."""
        if self._session:
            self._session.marks.suggest(None)
        reveal(self._ui.signOffButton)
        (self._ui.signOffButton if self._ui.signOffButton.enabled else self._ui.readerEdit).setFocus()

    def toggle(self, onSign: Callable[[], None]) -> None:
        """Sign off, after `onSign`, or take the signature back."""
        if self._session.review.signature:
            self._session.step(Review.withdraw)
        elif self._mayTrust() and settleStrayEdits(self._session):
            onSign()
            self._session.step(Review.sign, self.reader)

    def _mayTrust(self) -> bool:
        """Ask before a case is signed off that is not usable."""
        suitability = self._session.review.prediction.suitability
        if suitability is None or suitability.level is not Level.NOT_USABLE:
            return True
        return confirmLoss(f"{suitability.sentence} {_('Sign off nevertheless?')}")

    def _onNamed(self) -> None:
        self.lead() if self._ui.signOffButton.enabled else self._leaveText()

    def _whyNot(self) -> str | None:
        if not self._session:
            return _("Segment an image first.")
        done, total = self._session.review.reviewed
        if self._session.drawing.regionId:
            return _("Finish drawing first.")
        if done < total:
            return _("Still to decide: {count} of {total} regions.").format(count=total - done, total=total)
        return None if self.reader else _("Enter your name as the reader first.")
