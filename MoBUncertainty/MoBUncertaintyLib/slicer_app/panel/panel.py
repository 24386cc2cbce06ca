"""The panel: its sections, connected with the logic and with each other, and which results they show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import qt
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import LostReviewError, UserError
from MoBUncertaintyLib.slicer_app.panel.export import ExportSection
from MoBUncertaintyLib.slicer_app.panel.inputs import InputsSection, canMirror
from MoBUncertaintyLib.slicer_app.panel.jobs import Jobs, whyNotApply
from MoBUncertaintyLib.slicer_app.panel.overlay import OverlaySection
from MoBUncertaintyLib.slicer_app.panel.review import ReviewSection
from MoBUncertaintyLib.slicer_app.panel.run import ComputerSection, RunSection
from MoBUncertaintyLib.slicer_app.panel.state import Folding, State, idleState
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, Leftovers
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults
from MoBUncertaintyLib.slicer_app.scene.roi import roiBounds
from MoBUncertaintyLib.slicer_app.scene.views import giveWindow
from MoBUncertaintyLib.slicer_app.sessions import CT_CLASS, hideMisplaced, hideOrphans, showAlone
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss, showError
from MoBUncertaintyLib.slicer_app.widgets.section import (
    PANEL_WIDTH,
    AfterLoading,
    isLoading,
    revealLater,
    revealUnfolded,
    shown,
    timer,
)
from MoBUncertaintyLib.slicer_app.worklist.dock import WorklistDock


class Panel:
    """What the user sees of the module: its widgets are a function of `state` and of the results that are shown.

    Args:
        ensureReady: Installs what is missing for an export in some formats or, without any, for a segmentation, after
            asking, and calls its second argument once the user has agreed; raises a UserError where that cannot be.
    """

    def __init__(self, ui, logic, ensureReady: Callable[..., None]) -> None:
        self.ui = ui
        self.logic = logic
        self.parameters = None
        self.ensureReady = ensureReady
        self.afterLoading = AfterLoading()
        self.jobs, self.shown, self.removals = Jobs(self), ShownResults(self), Removals(self)
        logic.sessions.onBegun = self._onBegun
        self.inputs = InputsSection(ui, self.onModel, lambda: logic.client.another())
        self.run = RunSection(ui, self.jobs.apply, self.jobs.cancel)
        self.computer = ComputerSection(ui, logic.computer, self.update)
        self.overlay = OverlaySection(ui)
        self.review = ReviewSection(ui, self.update)
        self.export = ExportSection(ui, self.jobs.export, self.jobs.cancel, self.update)
        self._folding = Folding(ui, revealLater)
        self.worklist: WorklistDock | None = None  # once it was opened
        ui.worklistButton.clicked.connect(shown(self._onWorklist))
        revealUnfolded(part for part in vars(ui).values() if hasattr(part, "collapsed"))
        for selector in (ui.mapSelector, ui.labelSelector):
            selector.currentIndexChanged.connect(lambda *_args: self.inputs.hideMaps())  # another may be a new volume
        self.update()

    @property
    def state(self) -> State:
        """What the panel is doing."""
        return self.jobs.state

    @property
    def settings(self) -> dict[str, object]:
        """The fields of `prediction.PredictionSettings` that are chosen."""
        parameters, model = self.parameters, self.inputs.selector.model
        oneFold = model is not None and len(model.folds) > 1 and not parameters.folds
        return {
            "overlap": parameters.overlap,
            "mirror": parameters.mirror and canMirror(model),
            "folds": list(model.folds[:1]) if oneFold else None,
            "device": parameters.device.value,
            "engine": parameters.engine.value,
            "region_of_interest": roiBounds(parameters.roi, parameters.ct),
            "labels": self.inputs.labels or None,
        }

    def fixWidth(self, widget) -> None:
        """Make the panel as wide as its widest section needs: if it grew later, all views would move."""
        sections = [part for part in vars(self.ui).values() if hasattr(part, "collapsed")]
        folded = [part for part in sections if part.collapsed]
        for part in sections:
            part.visible, part.collapsed = True, False
        # Slicer's module panel adds the length of a horizontal scroll bar; a vertical one takes some of that.
        bar = widget.style().pixelMetric(qt.QStyle.PM_ScrollBarExtent)
        more = 2 * bar + widget.style().pixelMetric(qt.QStyle.PM_ScrollBarSliderMin)
        widget.minimumWidth = max(PANEL_WIDTH, widget.minimumSizeHint.width() + bar) - more
        for part in folded:
            part.collapsed = True
        self.update()  # hides again what cannot be used

    def setParameters(self, parameters) -> None:
        """Show other parameters, or (the scene is about to be closed) none."""
        self.parameters = parameters
        if parameters is None:
            self.shown.show(None)
            for section in (self.run, self.export):
                section.work.say("")
            self.update()
            return
        selector = self.inputs.selector
        selector.choose(parameters.model or selector.name)  # a new scene keeps what was chosen in the last
        self.onModel()
        self.refresh()

    def refresh(self, *_args) -> None:
        """Show the results that go with the parameters, if there are any."""
        if self.parameters is None:
            return
        if isLoading():
            self.afterLoading.later(self.refresh)
        else:
            self.inputs.hideMaps()
            if not self.jobs.work:
                self.shown.show(self.parameters.ct)
        self.update()

    def update(self) -> None:
        """Set all widgets from the state, the parameters and the results that are shown."""
        if not self.state.busy:
            self.jobs.state = idleState(self.review.session)
        self._folding.update(self.state, self.review.session)
        self.inputs.update(self.state, self.parameters)
        self.run.update(self.state, whyNotApply(self))
        self.review.update(self.state)
        self.export.update(self.state)
        if self.worklist:
            self.worklist.follow()

    def leave(self) -> None:
        """Keep what is being typed or drawn, and stop what is computed: the scene is about to be closed."""
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            if self.worklist:
                stack.callback(self.worklist.leave)
            stack.callback(self.review.leave)
            self.shown.forget()  # the next scene has reasons of its own
            self.removals.forget()
            if self.jobs.work:
                self.jobs.cancel()

    def close(self) -> None:
        """Stop timers and observers outside the panel."""
        worklist, self.worklist = self.worklist, None
        ends = [self.shown.stop, self.afterLoading.stop, self.inputs.close, self.computer.close]
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (*([worklist.close] if worklist else ()), self.review.cleanup, *reversed(ends)):
                stack.callback(end)

    def onModel(self) -> None:
        """Remember the chosen model, and offer what it can do."""
        if self.parameters and self.inputs.selector.model:
            self.parameters.model = self.inputs.selector.name
        self.update()

    def _onWorklist(self, *_args) -> None:
        if self.worklist is None:
            self.worklist = WorklistDock(self)
        self.worklist.window.show()
        self.worklist.window.raise_()

    def _onBegun(self) -> None:
        """Show results that were not asked for here, but by a script for instance."""
        if self.state is not State.RUNNING:
            self.afterLoading.later(self.refresh)


class ShownResults:
    """The results of the image that is selected."""

    def __init__(self, panel) -> None:
        self._panel = panel
        self._refused = None  # the image whose results cannot be shown, not tried again before it changes
        self._refusal = ""  # the reason, given once for each scene
        self._watched = (None, 0)  # the image that results follow, and the observer's tag
        self._changes = timer(0, self._onCtChanged)  # looked at when all is done: one act changes several nodes

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
                panel.run.showRoi(False)
                panel.run.work.say("")
            elif isAnother:
                panel.run.work.say("")  # what is said is about the image before
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
        question = _("Start a new review of these results? If you cancel, the stored review stays in the scene.")
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
            session.results.nodes.followTransform()
        if ct is self._refused or fits != (session is not None):
            self._changes.start()

    def _onCtChanged(self) -> None:
        """Look again whether the results of the image fit it."""
        self._refused = None
        self._panel.refresh()


class Removals:
    """Ends what was about nodes that are removed, and says so."""

    def __init__(self, panel) -> None:
        self._panel = panel
        self._orphans: list[Leftovers] = []  # the results of images that were removed
        self._seen = None  # the image whose review was shown before a node was removed
        self._ended = ""  # why a computation or a review has ended, until it is said

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, _scene, _event, node) -> None:
        """Note the results of an image that is going to be removed: they will be removed with it."""
        if self._panel.parameters:
            session = self._panel.review.session
            self._seen = session and session.results.ctNode
            if node.GetClassName() == CT_CLASS and CtNodes(node).all():
                self._orphans.append(CtNodes(node).leftovers())

    def onNodeRemoved(self, *_args) -> None:
        """Handle the removal of a node."""
        panel = self._panel
        if panel.parameters is None:
            return
        if panel.jobs.work and panel.jobs.ct.GetScene() is None:
            panel.jobs.cancel("")
            self._say(_("The image was removed, so its computation was cancelled."))
        if self._orphans:
            panel.afterLoading.later(self._removeOrphans)
        if closed := panel.logic.sessions.forgetIncomplete():
            hideOrphans()
            panel.refresh()
            for ct in closed:
                panel.afterLoading.later(partial(self._onClosed, ct, ct is self._seen))

    def forget(self) -> None:
        """Say nothing: there is another scene."""
        self._ended, self._seen = "", None
        self._orphans.clear()

    def sayEnded(self) -> None:
        """Say it while the module is shown; else once it is shown again, be it with the results of another image."""
        if self._ended and self._panel.review.entered:
            self._panel.run.work.say(self._ended)
            self._panel.ui.runCollapsibleButton.collapsed = False
            self._ended = ""

    def _removeOrphans(self) -> None:
        while self._orphans:
            self._orphans.pop().remove()

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
