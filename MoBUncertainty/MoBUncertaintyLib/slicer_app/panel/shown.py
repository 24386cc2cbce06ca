"""Which results the panel shows, and whether they fit their image."""

from __future__ import annotations

from functools import partial

import qt
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import LostReviewError, UserError
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults
from MoBUncertaintyLib.slicer_app.scene.views import giveWindow
from MoBUncertaintyLib.slicer_app.sessions import hideMisplaced, showAlone
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss, showError
from MoBUncertaintyLib.slicer_app.widgets.section import shown


class ShownResults:
    """The results of the image that is selected.

    Args:
        panel: That shows them.
    """

    def __init__(self, panel) -> None:
        self._panel = panel
        self._refused = None  # the image whose results cannot be shown, not tried again before it changes
        self._refusal = ""  # the reason, given once for each scene
        self._watched = (None, 0)  # the image that results follow, and the observer's tag
        self._changes = qt.QTimer()  # of that image; looked at when all is done: one act changes several nodes
        self._changes.setInterval(0)
        self._changes.timeout.connect(shown(self._onCtChanged))

    def forget(self) -> None:
        """Forget what was refused, and why: there are other results, or another scene."""
        self._refused, self._refusal = None, ""

    def stop(self) -> None:
        """Watch no image any more."""
        self._changes.stop()
        self._watch(None)

    def show(self, ct) -> None:
        """Show the results of an image, if it has any."""
        panel, session, refusal = self._panel, None, None
        try:
            session = panel.logic.sessions.get(ct) if ct is not self._refused or ct is None else None
        except UserError as error:
            self._refused, refusal = ct, error
            hideMisplaced(ct)
        isAnother = ct is not None and ct is not self._watched[0]
        self._watch(ct)
        if isAnother:
            giveWindow(ct)
        if session is None and isAnother and ct is not self._refused:
            if findResults(ct.GetScene()):
                showAlone(ct)
            else:
                ResultScene(ct).pointCameras()  # which Slicer does for the first image alone
        if session is not panel.review.session or session is None:
            if session:
                showAlone(ct)
                panel.inputs.chooseMakers(session.review.prediction.provenance)
                panel.run.showRoi(False)
                panel.run.work.say("")
            elif isAnother:
                panel.run.work.say("")  # what is said is about the image before
                panel.inputs.chooseOwn()
            for section in (panel.overlay, panel.export, panel.review):
                section.setSession(session)
        if refusal and str(refusal) != self._refusal:
            panel.afterLoading.later(partial(self._refuse, ct, refusal))
        self._refusal = str(refusal) if refusal else "" if session else self._refusal

    def _refuse(self, ct, error: UserError) -> None:
        """Say why results cannot be shown; where only their review is lost, offer to begin it anew."""
        if not isinstance(error, LostReviewError):
            showError(str(error))
            return
        question = _("Begin a new review of these results? Cancel keeps the stored one in the scene, unread.")
        if confirmLoss(f"{error} {question}"):
            self._panel.logic.sessions.startOver(ct)
            self._refused = None
            self._panel.refresh()

    def _watch(self, ct) -> None:
        """Let the results follow the transform that the image is put under, and notice when they no longer fit it."""
        node, tag = self._watched
        if ct is not node:
            if node:
                node.RemoveObserver(tag)
            # Of its place, its voxels, and which transform it is under.
            self._watched = (ct, ct.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onCtModified)) if ct else (None, 0)

    def _onCtModified(self, ct, _event) -> None:
        session = self._panel.logic.sessions.opened(ct)
        fits = session is not None and session.fits()
        if fits:
            session.results.followTransform()
        if ct is self._refused or fits != (session is not None):
            self._changes.start()

    def _onCtChanged(self) -> None:
        """Look again whether the results of the image fit it."""
        self._changes.stop()
        self._refused = None
        self._panel.refresh()
