"""What follows when nodes are removed: an image that is computed, one with results, or a part of them."""

from __future__ import annotations

from functools import partial

import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.sessions import hideOrphans


class Removals:
    """Ends what was about nodes that are removed, and says so.

    Args:
        panel: That shows results, and says why they are gone.
    """

    def __init__(self, panel) -> None:
        self._panel = panel
        self._seen = None  # the image whose review was shown before a node was removed
        self._ended = ""  # why a computation or a review has ended, until it is said

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, _scene, _event, node) -> None:
        """Note the results of an image that is going to be removed: they will be removed with it."""
        if self._panel.parameters:
            session = self._panel.review.session
            self._seen = session and session.results.ctNode
            self._panel.logic.sessions.noteOrphans(node)

    def onNodeRemoved(self, *_args) -> None:
        """Handle the removal of a node."""
        panel = self._panel
        if panel.parameters is None:
            return
        if panel.jobs.work and panel.jobs.ct.GetScene() is None:
            panel.jobs.cancel("")
            self._say(_("The image was removed, so its computation was cancelled."))
        if panel.logic.sessions.hasOrphans:
            panel.afterLoading.later(panel.logic.sessions.removeOrphans)
        if closed := panel.logic.sessions.forgetIncomplete():
            hideOrphans()
            panel.refresh()
            for ct in closed:
                panel.afterLoading.later(partial(self._onClosed, ct, ct is self._seen))

    def forget(self) -> None:
        """Say nothing: there is another scene."""
        self._ended = ""

    def sayEnded(self) -> None:
        """Say it while the module is shown; else once it is shown again, be it with the results of another image."""
        if self._ended and self._panel.review.entered:
            self._panel.run.work.say(self._ended)
            self._panel.ui.runCollapsibleButton.collapsed = False
            self._ended = ""

    def _onClosed(self, ct, wasSeen: bool) -> None:
        """Remove what was drawn of results whose segmentation was removed; say why a review has ended that was seen."""
        text = _("A part of the results of {ct} was removed, so their review has ended; apply again for new ones.")
        if ct.GetScene() is None:
            text = _("{ct} was removed, and its results with it.")
        elif ResultScene(ct).node("segmentation") is None:
            ResultScene(ct).removeShown()
            text = _("The segmentation of {ct} was removed, and its maps and surface with it; apply again for others.")
        if wasSeen:
            self._say(text.format(ct=ct.GetName()))

    def _say(self, text: str) -> None:
        """Say why something has ended, where Apply is, once all has followed the removal."""
        self._ended = text
        self._panel.afterLoading.later(self.sayEnded)
