"""The panel: its parts, connected with the logic and with each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import Cancelled, LostReviewError, UserError
from MoBUncertaintyLib.slicer_app.panel.dialogs import AfterLoading, confirmLoss, isLoading, showError
from MoBUncertaintyLib.slicer_app.panel.export import ExportSection
from MoBUncertaintyLib.slicer_app.panel.inputs import InputsSection
from MoBUncertaintyLib.slicer_app.panel.overlay import OverlaySection
from MoBUncertaintyLib.slicer_app.panel.review import ReviewSection
from MoBUncertaintyLib.slicer_app.panel.run import RunSection, WorkButton, predictionSettings
from MoBUncertaintyLib.slicer_app.panel.section import PANEL_WIDTH, allow, shown
from MoBUncertaintyLib.slicer_app.samples import loadSampleData
from MoBUncertaintyLib.slicer_app.scene.legend import LegendFollower
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults
from MoBUncertaintyLib.slicer_app.sessions import hideMisplaced, hideOrphans, mapVolumes, showAlone
from MoBUncertaintyLib.slicer_app.worker.job import Job


class Panel:
    """What the user sees of the module.

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
        self._work: WorkButton | None = None  # what the worker computes for
        self._roomFor = None  # the session whose review was shown alone at first
        self._worked = None  # and of which CT
        self._installing = False
        self._refused = None  # the CT whose results cannot be shown, not tried again before it changes
        self._said = ""  # why: said once
        self._watched = (None, 0)  # the CT that results follow, and the observer's tag
        self._changes = qt.QTimer()  # of that CT; looked at when all is done, since one act changes several nodes
        self._changes.setInterval(0)
        self._changes.timeout.connect(shown(self._onCtChanged))
        self._legends = LegendFollower(slicer.mrmlScene, lambda follow: qt.QTimer.singleShot(0, shown(follow)))
        self.afterLoading = AfterLoading(shown)
        self.inputs = InputsSection(ui, logic.modelList, self.onDemo, self.onModel)
        self.run = RunSection(ui, self.onApply, self.onCancel)
        self.overlay = OverlaySection(ui)
        self.review = ReviewSection(ui)
        self.export = ExportSection(ui, self.onExport, self.onCancel)
        for selector in (ui.mapSelector, ui.organSelector):
            selector.currentIndexChanged.connect(self._hideMaps)  # another map may be a new volume

    def fixWidth(self, widget) -> None:
        """Let the panel be as wide as its widest part needs: one that grows moves all views.

        Args:
            widget: All that the .ui file holds.
        """
        folded = [part for part in vars(self.ui).values() if getattr(part, "collapsed", False) is True]
        for part in folded:
            part.collapsed = False
        # Slicer's module panel adds the length of a horizontal scroll bar; a vertical one takes some of that.
        bar = widget.style().pixelMetric(qt.QStyle.PM_ScrollBarExtent)
        more = 2 * bar + widget.style().pixelMetric(qt.QStyle.PM_ScrollBarSliderMin)
        widget.minimumWidth = max(PANEL_WIDTH, widget.minimumSizeHint.width() + bar) - more
        for part in folded:
            part.collapsed = True

    def setParameters(self, parameters) -> None:
        """Show other parameters, or (the scene is about to be closed) none."""
        self.parameters = parameters
        if parameters is None:
            self._show(None)
            for work in (self.run.work, self.export.work):
                work.say("")
            return
        self.inputs.choose(parameters.model)
        self.onModel()
        self.refresh()

    def showOpened(self) -> None:
        """Where a scene that was opened has brought results, show their review first."""
        if self.review.session not in (None, self._roomFor):
            self._makeRoom(hasWarnings=False)

    def refresh(self) -> None:
        """Show what goes with the parameters: the CT's results, and whether Apply can be pressed."""
        if self.parameters is None:
            return
        if isLoading():
            self.afterLoading.later(self.refresh)
            return
        self._hideMaps()
        self.inputs.showDemoLink(self.parameters.ct is None)
        self.run.showMethod(self.parameters.method)
        if self._work is None:
            self._show(self.parameters.ct)
        self._allowApply()

    def leave(self) -> None:
        """Keep what is being typed or drawn, and stop what is computed: the scene is about to be closed."""
        if self._work:
            self.onCancel()
        self.review.leave()

    def close(self) -> None:
        """Let go of everything outside the panel."""
        self._watch(None)
        self._legends.stop()
        self._changes.stop()
        self.afterLoading.stop()
        self.review.cleanup()

    # What the user does

    def onDemo(self) -> None:
        """Load the demo CT and select it."""
        with slicer.util.WaitCursor():
            self.parameters.ct = loadSampleData()

    def onModel(self) -> None:
        """Another model is chosen: remember it, and offer what it can do."""
        model = self.inputs.model
        if self.parameters and model:
            self.parameters.model = self.inputs.name
        mirrors = bool(model and (model.card is None or model.card.mirror_axes))
        allow(
            self.ui.mirrorCheckBox,
            None if mirrors else _("This model was trained without mirroring: for it, left is not right."),
            _("Average over mirrored copies of the CT; takes up to eight times as long."),
        )
        self._allowApply()

    def onApply(self) -> None:
        """Start the computation."""
        work = self.run.work
        if not self._makeReady(work):
            return
        self.review.leave()
        if not self._mayReplaceReview():
            return
        settings = predictionSettings(self.parameters, mirror=self.ui.mirrorCheckBox.enabled)
        job = self.logic.run(self.parameters.ct, self.inputs.model.path, settings)
        self.ui.reviewCollapsibleButton.enabled = False  # what was decided meanwhile would be lost
        self._follow(job, work, _("Handing over the CT..."), self._onResult)

    def onCancel(self) -> None:
        """End what is computed; scene and folder are as they were before."""
        exporting = self._work is self.export.work
        self.logic.cancel()
        self._finish(_("Cancelled; nothing was written.") if exporting else _("Cancelled; nothing was changed."))

    def onExport(self, folder: Path, formats: list[str], patientFields: bool) -> None:
        """Start the export into a new folder of its own."""
        work = self.export.work
        if not self._makeReady(work, formats):
            return
        self.review.leave()
        if not self.review.settleStrayEdits():
            return
        ct = self.parameters.ct
        place = newFolder(folder, f"{ct.GetName()} {datetime.now():%Y-%m-%d %H.%M.%S}")
        job = self.logic.export(ct, place, formats, patientFields)
        self._follow(job, work, _("Handing over the review..."), self._onExported)

    def onNodeRemoved(self) -> None:
        """A node is gone: the CT that is computed, a CT with results, or a part of them."""
        if self._work and self._worked.GetScene() is None:
            self.logic.cancel()
            self._finish(_("The CT was removed, so its computation was cancelled."))
        if self.logic.sessions.hasOrphans:
            self.afterLoading.later(self.logic.sessions.removeOrphans)
        if self.logic.sessions.forgetIncomplete():
            hideOrphans()
            self.refresh()

    # What comes back

    def _onResult(self, session) -> None:
        self._refused = None
        seconds = sum(session.prediction["seconds"].values())
        self._finish(_("Done in {seconds} s.").format(seconds=max(1, round(seconds))))
        self._makeRoom(self.run.work.hasWarnings)

    def _onExported(self, result: dict[str, list[str]]) -> None:
        problems = result["problems"]
        warnings = self.export.work.takeWarnings()
        self._finish("")
        self.export.showResult(result["files"], warnings + problems)
        if problems:
            slicer.util.errorDisplay("\n".join(problems))

    def _onFailed(self, code: str, message: str, details: str) -> None:
        self._finish("")
        showError(message, details)

    # Inside

    def _makeReady(self, work: WorkButton, formats: Collection[str] = ()) -> bool:
        """Install what is missing; says whether to go on.

        That lets the application live on, so nothing else can be begun meanwhile, and what is to be worked on may be
        gone when it is done.
        """
        if self._work or self._installing:
            return False
        ct, session = self.parameters.ct, self.review.session
        text = ""
        self._installing = True
        self._lock(True)
        work.say("")
        try:
            self.ensureReady(formats, lambda: work.say(_("Installing what is missing...")))
            if self.parameters is None or self.parameters.ct is not ct or self.review.session is not session:
                text = _("The CT or its results were changed or removed meanwhile, so nothing was begun; try again.")
        except Cancelled as declined:
            text = str(declined)
        finally:
            self._installing = False
            self._lock(False)
            work.say(text)
        return not text

    def _follow(self, job: Job, work: WorkButton, text: str, onFinished: Callable[[Any], None]) -> None:
        """Show how far a job is, and what comes of it."""
        self._work, self._worked = work, self.parameters.ct
        work.start(text)
        self._lock(True)
        job.progress.connect(work.progress)
        job.warning.connect(work.warn)
        job.finished.connect(onFinished)
        job.failed.connect(self._onFailed)

    def _finish(self, text: str) -> None:
        work, self._work = self._work, None
        self.run.sayPriority(self.logic.niceness)
        if work:  # None where showing a result has failed
            work.stop(text)
        self._lock(False)
        self.ui.reviewCollapsibleButton.enabled = True
        self.refresh()

    def _makeRoom(self, hasWarnings: bool) -> None:
        """Fold all but the review, which then fits on a laptop, and what there are warnings in."""
        ui, self._roomFor = self.ui, self.review.session
        ui.runCollapsibleButton.collapsed = not hasWarnings
        for part in (ui.inputsCollapsibleButton, ui.overlayCollapsibleButton, ui.exportCollapsibleButton):
            part.collapsed = True

    def _lock(self, locked: bool) -> None:
        self.inputs.lock(locked)
        self.run.lock(locked)
        self._allowApply()
        self.export.setBusy(locked)

    def _show(self, ct) -> None:
        session, refusal = None, None
        try:
            session = self.logic.session(ct) if ct is not self._refused or ct is None else None
        except UserError as error:
            self._refused, refusal = ct, error
            hideMisplaced(ct)
        isAnother = ct is not None and ct is not self._watched[0]
        self._watch(ct)
        if session is None and isAnother and ct is not self._refused and findResults(ct.GetScene()):
            showAlone(ct)
        if session is not self.review.session or session is None:
            if session:
                showAlone(ct)
                self.ui.reviewCollapsibleButton.collapsed = False
                self.inputs.chooseMaker(session.prediction["provenance"].get("model") or {})
                self.run.showRoi(False)
            self.overlay.setSession(session)
            self.review.setSession(session)
            self.export.setSession(session)
        if refusal and str(refusal) != self._said:
            self.afterLoading.do(partial(self._refuse, ct, refusal))
        self._said = str(refusal) if refusal else "" if session else self._said

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
        """Its results no longer fit it, or do so again."""
        self._changes.stop()
        self._refused = None
        self.refresh()

    def _hideMaps(self, *_args) -> None:
        self.inputs.hide(mapVolumes())

    def _allowApply(self) -> None:
        self.run.work.allow(self._whyNotApply(), isTold=not (self._work or self._installing))

    def _whyNotApply(self) -> str | None:
        if self._installing:
            return _("Wait until what is missing is installed.")
        if self._work:
            return _("Wait for the export to finish.")
        ct, model = self.parameters and self.parameters.ct, self.inputs.model
        if ct is None:
            return _("Select a CT first.")
        if ct.GetImageData() is None:
            return _("The selected CT holds no voxels.")
        return model.problem if model else _("Add a model first.")

    def _mayReplaceReview(self) -> bool:
        review = self.review.session.review if self.review.session else None
        lost = []
        if review is None and ResultScene(self.parameters.ct).node("state.review"):
            lost.append(_("The scene holds a review of this CT that cannot be shown now."))
        if review and review.signature:
            text, signature = _("The review of this CT was signed off by {name}, {time}."), review.signature
            lost.append(text.format(name=signature.name, time=f"{signature.time:%Y-%m-%d %H:%M}"))
        touched = sum(region.touched for region in review.regions) if review else 0
        if touched:
            lost.append(_("Regions of this CT with a verdict or a comment: {count}.").format(count=touched))
        stray = self.review.session.strayEdits() if self.review.session else 0
        if stray:
            lost.append(_("Voxels that were changed outside of the review: {count}.").format(count=stray))
        question = _("A new segmentation begins a new review, and all of this is lost. Apply?")
        return not lost or confirmLoss(" ".join([*lost, question]))


def newFolder(parent: Path, name: str) -> Path:
    """A folder that is not there yet.

    Args:
        parent: Where.
        name: What it is to be called; characters that no file system takes are replaced, and a number is added to a
            name that is taken.
    """
    name = "".join("_" if character in '<>:"/\\|?*' else character for character in name)
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(parent / name for name in names if not os.path.exists(parent / name))
