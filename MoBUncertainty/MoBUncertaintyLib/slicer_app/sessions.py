"""The reviews of the images in the application's scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ImageError, UserError
from MoBUncertaintyLib.slicer_app import requests
from MoBUncertaintyLib.slicer_app.review_session import ReviewSession
from MoBUncertaintyLib.slicer_app.scene.nodes import CT_ROLE, ROLE_ATTRIBUTE
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults
from MoBUncertaintyLib.slicer_app.scene.views import takeOut
from MoBUncertaintyLib.slicer_app.stored_results import areComplete, lieOnCt, misfit

CT_CLASS = "vtkMRMLScalarVolumeNode"  # label maps, vector and diffusion volumes are classes of their own


class Sessions:
    """The open reviews, by image; each is opened from the scene when it is first needed."""

    def __init__(self) -> None:
        self.onBegun: Callable[[], None] = lambda: None  # called when an image has results, if a script's, too
        self._open: dict[str, ReviewSession] = {}

    def get(self, ct) -> ReviewSession | None:
        """Return the review of an image; None if it has no results, or not all of them.

        Raises `ReviewError` if what the scene holds is damaged, or no longer fits the image.
        """
        if ct is None or not areComplete(ResultScene(ct)):
            return None
        if ct.GetID() not in self._open:
            self._open[ct.GetID()] = ReviewSession.open(ResultScene(ct))
        session = self._open[ct.GetID()]
        if not session.fits():  # it stays open: the image may come back to where it was
            raise misfit(ct)
        return session

    def startOver(self, ct) -> None:
        """Begin the review of an image's results anew: regions as they are shown, the segmentation as predicted.

        Raises `ReviewError` if more than the stored review is damaged.
        """
        review = ResultScene(ct).node("state.review")
        if review:
            slicer.mrmlScene.RemoveNode(review)
        self.get(ct).segmentation.discardStrayEdits()

    def opened(self, ct) -> ReviewSession | None:
        """Return the review of an image if it is open."""
        return self._open.get(ct.GetID())

    def begin(self, ct, request: dict[str, Any], result: dict[str, Any]) -> Iterator[None]:
        """Put the result of a `predictRequest` into the scene, in steps; return its ReviewSession.

        Raises `UserError` if the image has changed meanwhile, or the results could not be shown for any other reason.
        """
        try:
            self._open[ct.GetID()] = session = yield from requests.showResult(ct, request, result)
        except UserError:
            raise
        except Exception as error:
            self.forgetIncomplete()
            text = _("The results could not be shown ({reason}), so this image has none now; apply again.")
            raise ImageError(text.format(reason=type(error).__name__)) from error
        self.onBegun()
        return session

    def restore(self, ct, record: dict[str, Any]) -> ReviewSession:
        """Go on with a review of an image's results that is stored elsewhere than in the scene.

        Raises `ReviewError` if it is damaged, or belongs to other results.
        """
        results = ResultScene(ct)
        results.documents.set("review", record)
        self._open[ct.GetID()] = session = ReviewSession.open(results)
        session.segmentation.showAll()
        return session

    def forget(self) -> None:
        """Close all reviews; the scene holds them."""
        self._open.clear()

    def forgetIncomplete(self) -> list:
        """Close the reviews of images whose results are no longer complete; return these images."""
        gone = [name for name, session in self._open.items() if not session.isComplete()]
        return [self._open.pop(name).results.ctNode for name in gone]


def resultNodes() -> list:
    """List what shows results of an image, even of one that was removed, and copies of them."""
    nodes = slicer.util.getNodesByClass("vtkMRMLDisplayableNode")
    return [node for node in nodes if node.GetAttribute(ROLE_ATTRIBUTE)]


def hideOrphans():
    """Hide the results of images that were removed, and copies of them."""
    for node in resultNodes():
        if node.GetNodeReference(CT_ROLE) is None:
            node.SetDisplayVisibility(False)
            takeOut(node)


def hideMisplaced(ct) -> None:
    """Hide results that no longer lie on their image; `showAlone` shows them again."""
    results = ResultScene(ct)
    if not lieOnCt(results):
        results.setVisible(False)
        if results.node("shown"):
            takeOut(results.node("shown"))


def defaultCt():
    """Return the first volume of the scene that may be segmented, or None."""
    volumes, results = slicer.util.getNodesByClass(CT_CLASS), resultNodes()
    return next((node for node in volumes if node not in results and node.GetClassName() == CT_CLASS), None)


def showAlone(ct) -> None:
    """Show an image and its results, if any, and hide those of other images, which would lie over it."""
    for node in findResults(slicer.mrmlScene):
        ResultScene(node).setVisible(node is ct)
    ResultScene(ct).showInViews()
