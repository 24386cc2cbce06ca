"""The panel: its sections, connected with the logic, what it is doing, and which results it shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import qt
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled, LostReviewError, UserError
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.output.formats import Format
from MoBUncertaintyLib.slicer_app.installation import whyPyTorch
from MoBUncertaintyLib.slicer_app.models import whyNotUse
from MoBUncertaintyLib.slicer_app.requests import otherModalities
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, Leftovers, missingChannel
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults
from MoBUncertaintyLib.slicer_app.scene.roi import roiBounds
from MoBUncertaintyLib.slicer_app.scene.views import giveWindow
from MoBUncertaintyLib.slicer_app.sections.editor import settleStrayEdits
from MoBUncertaintyLib.slicer_app.sections.export import ExportSection
from MoBUncertaintyLib.slicer_app.sections.inputs import InputsSection, canMirror
from MoBUncertaintyLib.slicer_app.sections.measurements import MeasurementsSection
from MoBUncertaintyLib.slicer_app.sections.overlay import OverlaySection
from MoBUncertaintyLib.slicer_app.sections.review import ReviewSection
from MoBUncertaintyLib.slicer_app.sections.run import ComputerSection, RunSection
from MoBUncertaintyLib.slicer_app.sessions import CT_CLASS, hideMisplaced, hideOrphans, showAlone
from MoBUncertaintyLib.slicer_app.widgets.dialogs import agreeToLicences, confirmLoss, showError
from MoBUncertaintyLib.slicer_app.widgets.section import (
    PANEL_WIDTH,
    POLL_MILLISECONDS,
    State,
    afterLoading,
    isLoading,
    revealLater,
    shown,
    timer,
)
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton, newFolder
from MoBUncertaintyLib.slicer_app.worker.client import Job
from MoBUncertaintyLib.slicer_app.worklist.dock import WorklistDock

SECTIONS = ("inputs", "run", "overlay", "review", "measurements", "export")
NEXT = {State.READY: {"inputs", "run"}, State.REVIEWING: {"review"}, State.SIGNED: {"review", "export"}}
"""The sections for what a reader does next in each idle state."""


class Panel:
    """What the user sees of the module: its widgets are a function of `state` and of the results that are shown.

    `ensureReady` installs what is missing for an export in some formats or, without any, for a segmentation, after
    asking, and calls its second argument once the user has agreed; it raises a `UserError` where that cannot be.
    """

    def __init__(self, ui, logic, ensureReady: Callable[..., None]) -> None:
        self.ui, self.logic, self.ensureReady = ui, logic, ensureReady
        self.parameters = None
        self.state = State.READY
        self.worklist: WorklistDock | None = None  # once it was opened
        self._unfolded: tuple | None = None  # idle state and session for which sections were unfolded
        self._again = timer(POLL_MILLISECONDS, self.refresh)  # while a scene is loaded
        self.jobs, self.shown, self.removals = Jobs(self), ShownResults(self), Removals(self)
        logic.sessions.onBegun = self._onBegun
        self.inputs = InputsSection(ui, self.onModel, lambda: logic.client.another())
        self.run = RunSection(ui, self.jobs.apply, self.jobs.cancel)
        self.computer = ComputerSection(ui, logic.computer, lambda: logic.client.another(), self.update)
        self.overlay = OverlaySection(ui)
        self.review = ReviewSection(ui, self.update)
        self.measurements = MeasurementsSection(ui, self.jobs.measure, self.jobs.cancel, self.update)
        self.export = ExportSection(ui, self.jobs.export, self.jobs.cancel, self.update)
        ui.worklistButton.clicked.connect(shown(self._onWorklist))
        for part in vars(ui).values():
            if hasattr(part, "collapsed"):  # what the user unfolds may lie below the window
                part.clicked.connect(lambda *_args, part=part: None if part.collapsed else revealLater(part))
        for selector in (ui.mapSelector, ui.labelSelector):
            selector.currentIndexChanged.connect(lambda *_args: self.inputs.hideResults())  # another may be new
        self.update()

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
            for section in (self.run, self.measurements, self.export):
                section.work.say("")
            self.update()
            return
        selector = self.inputs.selector
        selector.fill(parameters.model or selector.name)  # a new scene keeps what was chosen in the last
        self.onModel()
        self.refresh()

    def refresh(self, *_args) -> None:
        """Show the results that go with the parameters, if there are any; while a scene is loaded, afterwards."""
        if self.parameters is None:
            return
        if isLoading():
            self._again.start()
        else:
            self.inputs.hideResults()
            if not self.jobs.work:
                self.shown.show(self.parameters.ct)
        self.update()

    def update(self) -> None:
        """Set all widgets from the state, the parameters and the results that are shown."""
        session = self.review.session
        if not self.state.busy:
            signed = session is not None and session.review.signature
            self.state = State.READY if session is None else State.SIGNED if signed else State.REVIEWING
        self._fold(session)
        self.inputs.update(self.state, self.parameters)
        self.run.update(self.state, whyNotApply(self))
        self.review.update(self.state)
        self.measurements.update(self.state)
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
        ends = [self.shown.stop, self._again.stop, self.removals.forget]
        ends += [part.close for part in (self.inputs, self.computer)]
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (*([worklist.close] if worklist else ()), self.review.cleanup, *reversed(ends)):
                stack.callback(end)

    def onModel(self) -> None:
        """Remember the chosen model, and offer what it can do."""
        if self.parameters and self.inputs.selector.model:
            self.parameters.model = self.inputs.selector.name
        self.update()

    def _fold(self, session) -> None:
        """Show what can be used. Unfold what comes next once it does, and fold all else for another session.

        Between these moments sections stay as the reader has left them.
        """
        usable = NEXT[State.READY] if session is None else set(SECTIONS)
        if self.state is State.RUNNING:
            usable = usable - {"review", "measurements", "export"}
        isNew = not self.state.busy and self._unfolded != (self.state, session)
        isAnother = self._unfolded is None or self._unfolded[1] is not session
        for name in SECTIONS:
            part = getattr(self.ui, f"{name}CollapsibleButton")
            part.visible = name in usable
            if isNew and (isAnother or name in NEXT[self.state]):
                follows = part.collapsed and not isAnother
                part.collapsed = name not in NEXT[self.state]
                if follows:
                    revealLater(part)
        if isNew:
            self._unfolded = self.state, session

    def _onWorklist(self, *_args) -> None:
        if self.worklist is None:
            self.worklist = WorklistDock(self)
        self.worklist.window.show()
        self.worklist.window.raise_()

    def _onBegun(self) -> None:
        """Show results that were not asked for here, but by a script for instance."""
        if self.state is not State.RUNNING:
            afterLoading(self.refresh)


class Jobs:
    """What the worker does for the panel, one thing at a time: Apply, Measure, Export, from the button to the result.

    `work` is the button of the job that goes on, if there is one, and `ct` the image that the worker computes for.
    """

    def __init__(self, panel) -> None:
        self._panel = panel
        self.work: WorkButton | None = None
        self.ct = None
        self._since = 0.0  # when the user has last said what is to be done: the time that they wait from

    def apply(self) -> None:
        """Segment the image."""
        self._begin(State.RUNNING, self._panel.run.work, (), self._requestRun, self._onResult)

    def export(self, folder: Path, formats: list[str], patientFields: bool) -> None:
        """Write the review's files into a new folder of their own."""
        request = partial(self._requestExport, folder, formats, patientFields)
        self._begin(State.EXPORTING, self._panel.export.work, formats, request, self._onExported)

    def measure(self, wanted: list[str], dose, rankBy: str | None) -> None:
        """Measure what was segmented, as reviewed, and a dose in it; arguments as for `requests.measureRequest`."""
        panel = self._panel
        session = panel.review.session

        def request() -> Job:
            if not settleStrayEdits(session):
                raise Cancelled("")
            return panel.logic.measure(session.results.ctNode, wanted, dose, rankBy)

        def show(measured: list[Measured]) -> None:
            if panel.review.session is session:
                panel.measurements.show(measured)
            self._end("")

        # What reads an image and its review there is what an export needs.
        self._begin(State.MEASURING, panel.measurements.work, (Format.REPORT,), request, show)

    def cancel(self, text: str | None = None) -> None:
        """End what is computed; scene and folder are as they were before."""
        exporting = self._panel.state is State.EXPORTING
        self._panel.logic.client.cancel()
        usual = _("Cancelled; nothing was written.") if exporting else _("Cancelled; nothing was changed.")
        self._end(usual if text is None else text)

    def _begin(
        self,
        state: State,
        work: WorkButton,
        formats: Collection[str],
        request: Callable[[], Job],
        onFinished: Callable[[Any], None],
    ) -> None:
        """Ask for what is to be agreed to, install what is missing, then let the worker begin.

        Slicer stays responsive while packages are installed: nothing else can be begun meanwhile, and the image or its
        results may have been removed when they are. Raises `Cancelled` if the user has changed their mind.
        """
        panel = self._panel
        if panel.state.busy:
            return
        ct, session, job = panel.parameters.ct, panel.review.session, None
        panel.state = State.NEEDS_PACKAGES
        work.say("")
        panel.update()
        try:
            if state is State.RUNNING:
                agreeToLicences([panel.inputs.selector.model])
            isElsewhere = state is State.RUNNING and panel.logic.computer.host
            engine = None if isElsewhere else panel.parameters.engine.value
            why = "" if formats else whyPyTorch(panel.parameters, panel.inputs.selector.model)
            panel.ensureReady(formats, lambda: work.say(_("Installing missing packages...")), why, engine)
            work.say("")
            if not panel.parameters or panel.parameters.ct is not ct or panel.review.session is not session:
                text = _("The image or its results were changed or removed, so nothing was started; try again.")
                raise Cancelled(text)
            self._since = time.monotonic()
            panel.review.leave()
            job = request()
        finally:
            panel.state = State.READY if job is None else state
            if job is None:
                work.say("")
            else:
                self.ct, self.work = ct, work
                work.follow(job)
                job.finished.connect(onFinished)
                job.failed.connect(self._onFailed)
            panel.update()

    def _requestRun(self) -> Job:
        panel = self._panel
        for question in applyQuestions(panel):
            answer = confirmLoss(question)
            self._since = time.monotonic()
            if not answer:
                raise Cancelled("")
        panel.computer.confirm()
        parameters, models = panel.parameters, [panel.inputs.selector.model.path]
        chosen = [parameters.segmentation, parameters.secondSegmentation] if parameters.segmentation else []
        return panel.logic.run(parameters.ct, models, panel.settings, [node for node in chosen if node])

    def _requestExport(self, folder: Path, formats: list[str], patientFields: bool) -> Job:
        if not settleStrayEdits(self._panel.review.session):
            raise Cancelled("")
        ct = self._panel.parameters.ct
        place = newFolder(folder, f"{ct.GetName()} {datetime.now():%Y-%m-%d %H.%M.%S}")
        return self._panel.logic.export(ct, place, formats, patientFields)

    def _onResult(self, _session) -> None:
        self._panel.shown.forget()
        self._end("")
        if checked := self._panel.parameters.segmentation:
            checked.SetDisplayVisibility(False)  # it would lie over its copy, which the review changes
        seconds = time.monotonic() - self._since
        self._panel.run.work.say(_("Done in {seconds} s.").format(seconds=max(1, round(seconds))))

    def _onExported(self, result: dict[str, list[str]]) -> None:
        problems, export = result["problems"], self._panel.export
        self._end("")
        older = _("Measurements from before the last change of the review were not written.")
        left = [older] if self._panel.measurements.isOld else []
        export.showResult(result["files"], export.work.warnings + problems + left)
        if problems:
            showError("\n".join(problems))

    def _onFailed(self, code: str, message: str, details: str) -> None:
        self._end("")
        showError(message, details)

    def _end(self, text: str) -> None:
        """Show the state after the worker's job, with a text beside its button."""
        self._panel.state = State.READY
        if self.work:  # else showing a result has failed
            self.work.stop(text)
        self.work = self.ct = None
        self._panel.refresh()


def whyNotApply(panel) -> str | None:
    """Return the reason why nothing can be segmented now, if any."""
    if panel.state is State.NEEDS_PACKAGES:
        return _("Wait until the missing packages are installed.")
    if panel.state is State.EXPORTING:
        return _("Wait for the export to finish.")
    if panel.state is State.MEASURING:
        return _("Wait for the measurements to finish.")
    ct = panel.parameters and panel.parameters.ct
    if ct is None:
        return _("Select an image first.")
    if ct.GetImageData() is None:
        return _("The selected image holds no voxels.")
    if problem := panel.logic.computer.problem or whyNotUse(panel.inputs.selector.model):
        return problem
    if panel.parameters.segmentation and panel.logic.computer.host:
        return _("Only this computer can check a segmentation: clear Computer, or the segmentation.")
    if panel.parameters.segmentation and panel.parameters.segmentation is panel.parameters.secondSegmentation:
        return _("Compare the segmentation with another one.")
    missing = missingChannel(ct, panel.inputs.selector.model.channels[1:])
    return _("Select an image for {name} first.").format(name=missing) if missing else None


def applyQuestions(panel) -> Iterator[str]:
    """Ask whether to go on where the image is not what the models take, or a review would be lost."""
    ct = panel.parameters.ct
    if modalities := otherModalities(ct, panel.inputs.selector.model.channels):
        yield " ".join([*modalities, _("Apply anyway?")])
    if losses := _losses(ct, panel.review.session):
        yield " ".join([*losses, _("A new segmentation starts a new review, and all of this will be lost. Apply?")])


def _losses(ct, session) -> list[str]:
    """Say in sentences what of a review a new segmentation would remove."""
    if session is None:
        stored = ResultScene(ct).node("state.review")
        return [_("The scene holds a review of this image that cannot be shown now.")] if stored else []
    review, losses = session.review, []
    if signature := review.signature:
        text = _("The review of this image was signed off by {name}, {time}.")
        losses.append(text.format(name=signature.name, time=f"{signature.time:%Y-%m-%d %H:%M}"))
    for text, count in (
        (
            _("Regions of this image with a verdict or a comment: {count}."),
            sum(region.touched for region in review.regions),
        ),
        (_("Clicks in this image: {count}."), len(review.drawn)),
        (_("Voxels that were changed outside the review: {count}."), session.segmentation.strayEdits()),
    ):
        if count:
            losses.append(text.format(count=count))
    return losses


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
            if session or isAnother:
                panel.run.work.say("")  # what is said is about the image before
            for section in (panel.overlay, panel.measurements, panel.export, panel.review):
                section.setSession(session)
        if refusal and str(refusal) != self._refusal:
            afterLoading(partial(self._refuse, ct, refusal))
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
        self._orphans: list[Leftovers] = []  # of images that are removed
        self._seen = None  # the image whose review was shown before a node was removed
        self._ended = ""  # why a computation or a review has ended, until it is said

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, _scene, _event, node) -> None:
        """Let the results of an image that is going to be removed follow it."""
        if self._panel.parameters:
            session = self._panel.review.session
            self._seen = session and session.results.ctNode
            if node.GetClassName() == CT_CLASS and CtNodes(node).all():
                self._orphans.append(CtNodes(node).leftovers())
                afterLoading(self._removeOrphans)

    def _removeOrphans(self) -> None:
        while self._orphans:
            self._orphans.pop().remove()

    def onNodeRemoved(self, *_args) -> None:
        """End what was about a node that was removed."""
        panel = self._panel
        if panel.parameters is None:
            return
        if panel.jobs.work and panel.jobs.ct.GetScene() is None:
            panel.jobs.cancel("")
            self._say(_("The image was removed, so its computation was cancelled."))
        if closed := panel.logic.sessions.forgetIncomplete():
            hideOrphans()
            panel.refresh()
            for ct in closed:
                afterLoading(partial(self._onClosed, ct, ct is self._seen))

    def sayEnded(self) -> None:
        """Say why something has ended, if the module is shown, once all has followed."""
        afterLoading(self._onEnded)

    def forget(self) -> None:
        """Say and remove nothing: there is another scene, or the panel is closed."""
        self._ended, self._seen = "", None
        self._orphans.clear()

    def _onClosed(self, ct, wasSeen: bool) -> None:
        """Remove what was drawn of results whose segmentation was removed; say why a review has ended that was seen."""
        if self._panel.parameters is None:
            return
        text = _("A part of the results of {ct} was removed, so their review has ended; apply again for new ones.")
        if ct.GetScene() is None:
            text = _("{ct} was removed, and its results with it.")
        elif ResultScene(ct).node("segmentation") is None:
            ResultScene(ct).removeShown()
            text = _("The segmentation of {ct} was removed, with its maps and surface; press Apply for new ones.")
        if wasSeen:
            self._say(text.format(ct=ct.GetName()))

    def _say(self, text: str) -> None:
        self._ended = text
        self.sayEnded()

    def _onEnded(self) -> None:
        if self._ended and self._panel.review.entered:
            self._panel.run.work.say(self._ended)
            self._panel.ui.runCollapsibleButton.collapsed = False
            self._ended = ""
