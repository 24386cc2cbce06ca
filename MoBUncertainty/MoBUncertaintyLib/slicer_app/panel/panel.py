"""The panel: its sections, connected with the logic and with each other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import Cancelled, LostReviewError, UserError
from MoBUncertaintyLib.slicer_app.inputs.channels import missingChannel
from MoBUncertaintyLib.slicer_app.panel.computer import ComputerSection
from MoBUncertaintyLib.slicer_app.panel.dialogs import AfterLoading, confirmLoss, isLoading, showError
from MoBUncertaintyLib.slicer_app.panel.export import ExportSection, newFolder
from MoBUncertaintyLib.slicer_app.panel.inputs import InputsSection
from MoBUncertaintyLib.slicer_app.panel.overlay import OverlaySection
from MoBUncertaintyLib.slicer_app.panel.review import ReviewSection
from MoBUncertaintyLib.slicer_app.panel.run import RunSection, predictionSettings
from MoBUncertaintyLib.slicer_app.panel.section import PANEL_WIDTH, revealUnfolded, shown
from MoBUncertaintyLib.slicer_app.panel.state import Folding, State, StateMachine
from MoBUncertaintyLib.slicer_app.requests import otherModalities
from MoBUncertaintyLib.slicer_app.samples import loadSampleData
from MoBUncertaintyLib.slicer_app.scene.legend import LegendFollower
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults
from MoBUncertaintyLib.slicer_app.scene.views import giveWindow
from MoBUncertaintyLib.slicer_app.sessions import hideMisplaced, hideOrphans, mapVolumes, showAlone
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.slicer_app.worker.job import Job
from MoBUncertaintyLib.slicer_app.worklist.dock import WorklistDock


class Panel:
    """What the user sees of the module: its widgets are a function of `state` and of the results that are shown.

    Args:
        ui: The widgets of the .ui file.
        logic: The module's logic.
        ensureReady: Installs what is missing for an export in some formats or, without any, for a segmentation, after
            asking, and calls its second argument once the user has agreed; raises a UserError where that cannot be.
    """

    def __init__(self, ui, logic, ensureReady: Callable[..., None]) -> None:
        self.ui = ui
        self.logic = logic
        self.parameters = None
        self.ensureReady = ensureReady
        self._machine = StateMachine()
        self._jobCt = None  # the CT that the worker computes for
        self._seen = None  # the CT whose review was shown before a node was removed
        self._ended = ""  # why a computation or a review has ended, until it is said
        self._since = 0.0  # when the user has last said what is to be done: the time that they wait from
        self._refused = None  # the CT whose results cannot be shown, not tried again before it changes
        self._refusal = ""  # the reason, given once for each scene
        self._watched = (None, 0)  # the CT that results follow, and the observer's tag
        self._changes = qt.QTimer()  # of that CT; looked at when all is done, since one act changes several nodes
        self._changes.setInterval(0)
        self._changes.timeout.connect(shown(self._onCtChanged))
        self._legends = LegendFollower(slicer.mrmlScene, lambda follow: qt.QTimer.singleShot(0, shown(follow)))
        self.afterLoading = AfterLoading(shown)
        logic.sessions.onBegun = self._onBegun
        self.inputs = InputsSection(ui, logic.modelList, self.onDemo, self.onModel, lambda: logic.client.another())
        self.run = RunSection(ui, self.onApply, self.onCancel)
        self.computer = ComputerSection(ui, logic.computer, self.update)
        self.overlay = OverlaySection(ui)
        self.review = ReviewSection(ui, self.update)
        self.export = ExportSection(ui, self.onExport, self.onCancel, self.update)
        self._folding = Folding(ui)
        self._workButtons = {State.RUNNING: self.run.work, State.EXPORTING: self.export.work}
        self.worklist: WorklistDock | None = None  # once it was opened
        ui.worklistButton.clicked.connect(shown(self._onWorklist))
        revealUnfolded(part for part in vars(ui).values() if hasattr(part, "collapsed"))
        for selector in (ui.mapSelector, ui.labelSelector):
            selector.currentIndexChanged.connect(self._hideMaps)  # another map may be a new volume
        self.update()

    @property
    def state(self) -> State:
        """What the panel is doing."""
        return self._machine.state

    @property
    def settings(self) -> dict[str, object]:
        """The fields of `prediction.PredictionSettings` that are chosen."""
        inputs = self.inputs
        return predictionSettings(self.parameters, inputs.models, inputs.mixture, inputs.labels)

    @property
    def _client(self) -> WorkerClient:
        """The client of the worker that has the job."""
        return (self.state is State.RUNNING and self.logic.computer.client) or self.logic.client

    def fixWidth(self, widget) -> None:
        """Make the panel as wide as its widest section needs: if it grew later, all views would move.

        Args:
            widget: The top widget of the .ui file.
        """
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
            self.inputs.chooseOwn()
            self._show(None)
            for work in self._workButtons.values():
                work.say("")
            self.update()
            return
        self.inputs.choose(parameters.model or self.inputs.name)  # a new scene keeps what was chosen in the last
        self.onModel()
        self.refresh()

    def refresh(self, *_args) -> None:
        """Show the results that go with the parameters, if there are any."""
        if self.parameters is None:
            return
        if isLoading():
            self.afterLoading.later(self.refresh)
        else:
            self._hideMaps()
            if self.state not in self._workButtons:
                self._show(self.parameters.ct)
        self.update()

    def update(self) -> None:
        """Set all widgets from the state, the parameters and the results that are shown."""
        if not self.state.busy:
            self._machine.rest(self.review.session)
        self._folding.update(self.state, self.review.session)
        self.inputs.update(self.state, self.parameters)
        self.run.update(self.state, self.parameters, self._whyNotApply())
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
            self._refused, self._refusal, self._ended = None, "", ""  # the next scene has reasons of its own
            if self.state in self._workButtons:
                self.onCancel()

    def close(self) -> None:
        """Stop timers and observers outside the panel."""
        worklist, self.worklist = self.worklist, None
        ends = [self._legends.stop, self._changes.stop, self.afterLoading.stop, self.inputs.close, self.computer.close]
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (*([worklist.close] if worklist else ()), self.review.cleanup, *reversed(ends)):
                stack.callback(end)
            self._watch(None)

    # What the user does

    def onDemo(self) -> None:
        """Load the demo CT and select it."""
        with slicer.util.WaitCursor():
            self.parameters.ct = loadSampleData()

    def _onWorklist(self, *_args) -> None:
        if self.worklist is None:
            self.worklist = WorklistDock(self)
        self.worklist.show()

    def onModel(self) -> None:
        """Remember the chosen model, and offer what it can do."""
        if self.parameters and self.inputs.model:
            self.parameters.model = self.inputs.name
        self.update()

    def onApply(self) -> None:
        """Segment the CT."""
        self._begin(State.RUNNING, (), self._requestRun, self._onResult)

    def onExport(self, folder: Path, formats: list[str], patientFields: bool) -> None:
        """Write the review's files into a new folder of their own."""
        request = partial(self._requestExport, folder, formats, patientFields)
        self._begin(State.EXPORTING, formats, request, self._onExported)

    def onCancel(self) -> None:
        """End what is computed; scene and folder are as they were before."""
        exporting = self.state is State.EXPORTING
        self._client.cancel()
        self._end(_("Cancelled; nothing was written.") if exporting else _("Cancelled; nothing was changed."))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, _scene, _event, node) -> None:
        """Note the results of a CT that is going to be removed: they will be removed with it."""
        if self.parameters:
            self._seen = self.review.session and self.review.session.ctNode
            self.logic.sessions.noteOrphans(node)

    def onNodeRemoved(self, *_args) -> None:
        """Handle the removal of a node: the CT that is computed, a CT with results, or a part of them."""
        if self.parameters is None:
            return
        if self.state in self._workButtons and self._jobCt.GetScene() is None:
            self._client.cancel()
            self._end("")
            self._sayRemoved(_("The image was removed, so its computation was cancelled."))
        if self.logic.sessions.hasOrphans:
            self.afterLoading.later(self.logic.sessions.removeOrphans)
        if closed := self.logic.sessions.forgetIncomplete():
            hideOrphans()
            self.refresh()
            for ct in closed:
                self.afterLoading.later(partial(self._onClosed, ct, ct is self._seen))

    def _onClosed(self, ct, wasSeen: bool) -> None:
        """Remove what was drawn of results whose segmentation was removed; say why a review has ended that was seen."""
        text = _("A part of the results of {ct} was removed, so their review has ended; apply again for new ones.")
        if ct.GetScene() is None:
            text = _("{ct} was removed, and its results with it.")
        elif ResultScene(ct).node("segmentation") is None:
            ResultScene(ct).removeShown()
            text = _("The segmentation of {ct} was removed, and its maps and surface with it; apply again for others.")
        if wasSeen:
            self._sayRemoved(text.format(ct=ct.GetName()))

    def _sayRemoved(self, text: str) -> None:
        """Say why something has ended, where Apply is, once all has followed the removal."""
        self._ended = text
        self.afterLoading.later(self.sayEnded)

    def sayEnded(self) -> None:
        """Say it while the module is shown; else once it is shown again, be it with the results of another image."""
        if self._ended and self.review.entered:
            self.run.work.say(self._ended)
            self.ui.runCollapsibleButton.collapsed = False
            self._ended = ""

    # From a button to the worker's job, and back

    def _begin(
        self,
        state: State,
        formats: Collection[str],
        request: Callable[[], Job | None],
        onFinished: Callable[[Any], None],
    ) -> None:
        """Install what is missing, then let the worker begin.

        Slicer stays responsive while packages are installed: nothing else can be begun meanwhile, and the CT or its
        results may have been removed when they are.

        Args:
            state: RUNNING or EXPORTING.
            formats: The formats to be exported, if it is an export.
            request: Makes the job; returns None where the user has changed their mind.
            onFinished: Called with the job's result.
        """
        if self.state.busy:
            return
        self._since = time.monotonic()
        work, ct, session = self._workButtons[state], self.parameters.ct, self.review.session
        text, job = "", None
        self._machine.go(State.NEEDS_PACKAGES)
        work.say("")
        self.update()
        try:

            def onInstall() -> None:
                work.say(_("Installing what is missing..."))
                self._since = math.inf  # no one waits for a result yet

            isElsewhere = state is State.RUNNING and self.logic.computer.host
            engine = None if isElsewhere else self.parameters.engine.value
            self.ensureReady(formats, onInstall, engine)
            self._since = min(self._since, time.monotonic())
            work.say("")
            if self.parameters and self.parameters.ct is ct and self.review.session is session:
                job = request()
            else:
                text = _("The image or its results were changed or removed meanwhile, so nothing was begun; try again.")
        except Cancelled as declined:
            text = str(declined)
        finally:
            if job is None:
                self._machine.rest(self.review.session)
                work.say(text)
            else:
                self._jobCt = ct
                self._machine.go(state)
                work.follow(job)
                job.finished.connect(onFinished)
                job.failed.connect(self._onFailed)
            self.update()

    def _requestRun(self) -> Job | None:
        self.review.leave()
        if not (self._maySegment() and self._mayReplaceReview()):
            return None
        self.computer.confirm()
        return self.logic.run(self.parameters.ct, [each.path for each in self.inputs.models], self.settings)

    def _requestExport(self, folder: Path, formats: list[str], patientFields: bool) -> Job | None:
        self.review.leave()
        if not self.review.settleStrayEdits():
            return None
        ct = self.parameters.ct
        place = newFolder(folder, f"{ct.GetName()} {datetime.now():%Y-%m-%d %H.%M.%S}")
        return self.logic.export(ct, place, formats, patientFields)

    def _onResult(self, session) -> None:
        self._refused = None
        self._end("")
        seconds = time.monotonic() - self._since
        self.run.work.say(_("Done in {seconds} s.").format(seconds=max(1, round(seconds))))

    def _onBegun(self) -> None:
        """Show results that were not asked for here, but by a script for instance."""
        if self.state is not State.RUNNING:
            self.afterLoading.later(self.refresh)

    def _onExported(self, result: dict[str, list[str]]) -> None:
        problems = result["problems"]
        warnings = self.export.work.takeWarnings()
        self._end("")
        self.export.showResult(result["files"], warnings + problems)
        if problems:
            showError("\n".join(problems))

    def _onFailed(self, code: str, message: str, details: str) -> None:
        self._end("")
        showError(message, details)

    def _end(self, text: str) -> None:
        """Show the state after the worker's job, with a text beside its button."""
        work = self._workButtons.get(self.state)  # None where showing a result has failed
        niceness = self._client.niceness
        self._machine.rest(self.review.session)
        if work:
            work.stop(text)
        self.run.sayPriority(niceness)
        self.refresh()

    def _whyNotApply(self) -> str | None:
        if self.state is State.NEEDS_PACKAGES:
            return _("Wait until what is missing is installed.")
        if self.state is State.EXPORTING:
            return _("Wait for the export to finish.")
        ct, model = self.parameters and self.parameters.ct, self.inputs.model
        if ct is None:
            return _("Select an image first.")
        if ct.GetImageData() is None:
            return _("The selected image holds no voxels.")
        if problem := self.logic.computer.problem:
            return problem
        if problem := self.inputs.problem:
            return problem
        missing = missingChannel(ct, model.channels[1:])
        return _("Select a volume for {name} first.").format(name=missing) if missing else None

    def _maySegment(self) -> bool:
        """Ask whether to go on where the image is not what the models take."""
        found = otherModalities(self.parameters.ct, self.inputs.model.channels)
        return not found or self._confirm(" ".join([*found, _("Apply nevertheless?")]))

    def _confirm(self, question: str) -> bool:
        """Ask as `confirmLoss`; the user waits from the answer on."""
        answer = confirmLoss(question)
        self._since = time.monotonic()
        return answer

    def _mayReplaceReview(self) -> bool:
        review = self.review.session.review if self.review.session else None
        lost = []
        if review is None and ResultScene(self.parameters.ct).node("state.review"):
            lost.append(_("The scene holds a review of this image that cannot be shown now."))
        if review and review.signature:
            text, signature = _("The review of this image was signed off by {name}, {time}."), review.signature
            lost.append(text.format(name=signature.name, time=f"{signature.time:%Y-%m-%d %H:%M}"))
        touched = sum(region.touched for region in review.regions) if review else 0
        if touched:
            lost.append(_("Regions of this image with a verdict or a comment: {count}.").format(count=touched))
        if review and review.clicks:
            lost.append(_("Clicks in this image: {count}.").format(count=len(review.clicks)))
        stray = self.review.session.strayEdits() if self.review.session else 0
        if stray:
            lost.append(_("Voxels that were changed outside of the review: {count}.").format(count=stray))
        question = _("A new segmentation begins a new review, and all of this is lost. Apply?")
        return not lost or self._confirm(" ".join([*lost, question]))

    # Which results are shown

    def _show(self, ct) -> None:
        session, refusal = None, None
        try:
            session = self.logic.sessions.get(ct) if ct is not self._refused or ct is None else None
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
        if session is not self.review.session or session is None:
            if session:
                showAlone(ct)
                self.inputs.chooseMakers(session.prediction.provenance)
                self.run.showRoi(False)
                self.run.work.say("")
            elif isAnother:
                self.run.work.say("")  # what is said is about the CT before
                self.inputs.chooseOwn()
            self.overlay.setSession(session)
            self.export.setSession(session)
            self.review.setSession(session)
        if refusal and str(refusal) != self._refusal:
            self.afterLoading.later(partial(self._refuse, ct, refusal))
        self._refusal = str(refusal) if refusal else "" if session else self._refusal

    def _refuse(self, ct, error: UserError) -> None:
        """Say why results cannot be shown; where only their review is lost, offer to begin it anew."""
        if not isinstance(error, LostReviewError):
            showError(str(error))
            return
        question = _("Begin a new review of these results? Cancel keeps the stored one in the scene, unread.")
        if confirmLoss(f"{error} {question}"):
            self.logic.sessions.startOver(ct)
            self._refused = None
            self.refresh()

    def _watch(self, ct) -> None:
        """Let the results follow the transform that the CT is put under, and notice when they no longer fit it."""
        node, tag = self._watched
        if ct is not node:
            if node:
                node.RemoveObserver(tag)
            # Of its place, its voxels, and which transform it is under.
            self._watched = (ct, ct.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onCtModified)) if ct else (None, 0)

    def _onCtModified(self, ct, _event) -> None:
        session = self.logic.sessions.opened(ct)
        fits = session is not None and session.fits()
        if fits:
            session.results.followTransform()
        if ct is self._refused or fits != (session is not None):
            self._changes.start()

    def _onCtChanged(self) -> None:
        """Look again whether the results of the CT fit it."""
        self._changes.stop()
        self._refused = None
        self.refresh()

    def _hideMaps(self, *_args) -> None:
        self.inputs.hide(mapVolumes())
