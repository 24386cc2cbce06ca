"""What the worker does for the panel, one thing at a time: Apply and Export, from the button to the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.slicer_app.installation import ShownError, whyPyTorch
from MoBUncertaintyLib.slicer_app.models import whyNotUse
from MoBUncertaintyLib.slicer_app.panel.editor import settleStrayEdits
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.requests import otherModalities
from MoBUncertaintyLib.slicer_app.scene.nodes import missingChannel
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.widgets.dialogs import agreeToLicences, confirmLoss, showError
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton, newFolder
from MoBUncertaintyLib.slicer_app.worker.client import Job


class Jobs:
    """The job that goes on, if there is one.

    Attributes:
        state: What the panel is doing; which of the idle states it is `Panel.update` finds out.
        ct: The image that the worker computes for.
    """

    def __init__(self, panel) -> None:
        self._panel = panel
        self.state = State.READY
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

    def cancel(self, text: str | None = None) -> None:
        """End what is computed; scene and folder are as they were before."""
        exporting = self.state is State.EXPORTING
        self._panel.logic.client.cancel()
        usual = _("Cancelled; nothing was written.") if exporting else _("Cancelled; nothing was changed.")
        self._end(usual if text is None else text)

    def _begin(
        self,
        state: State,
        work: WorkButton,
        formats: Collection[str],
        request: Callable[[], Job | None],
        onFinished: Callable[[Any], None],
    ) -> None:
        """Ask for what is to be agreed to, install what is missing, then let the worker begin.

        Slicer stays responsive while packages are installed: nothing else can be begun meanwhile, and the image or its
        results may have been removed when they are.

        Args:
            request: Makes the job; returns None where the user has changed their mind.
        """
        panel = self._panel
        if self.state.busy:
            return
        self._since = time.monotonic()
        ct, session, text, job = panel.parameters.ct, panel.review.session, "", None
        self.state = State.NEEDS_PACKAGES
        work.say("")
        panel.update()
        try:

            def onInstall() -> None:
                work.say(_("Installing missing packages..."))
                self._since = math.inf  # no one waits for a result yet

            if state is State.RUNNING:
                agreeToLicences([panel.inputs.selector.model])
                self._since = time.monotonic()
            isElsewhere = state is State.RUNNING and panel.logic.computer.host
            engine = None if isElsewhere else panel.parameters.engine.value
            why = "" if formats else whyPyTorch(panel.parameters, panel.inputs.selector.model)
            panel.ensureReady(formats, onInstall, why, engine)
            self._since = min(self._since, time.monotonic())
            work.say("")
            if panel.parameters and panel.parameters.ct is ct and panel.review.session is session:
                panel.review.leave()
                job = request()
            else:
                text = _("The image or its results were changed or removed, so nothing was started; try again.")
        except (Cancelled, ShownError) as declined:
            text = str(declined)
        finally:
            if job is None:
                self.state = State.READY
                work.say(text)
            else:
                self.ct, self.state, self.work = ct, state, work
                work.follow(job)
                job.finished.connect(onFinished)
                job.failed.connect(self._onFailed)
            panel.update()

    def _requestRun(self) -> Job | None:
        panel = self._panel
        for question in applyQuestions(panel):
            answer = confirmLoss(question)
            self._since = time.monotonic()
            if not answer:
                return None
        panel.computer.confirm()
        return panel.logic.run(panel.parameters.ct, [panel.inputs.selector.model.path], panel.settings)

    def _requestExport(self, folder: Path, formats: list[str], patientFields: bool) -> Job | None:
        if not settleStrayEdits(self._panel.review.session):
            return None
        ct = self._panel.parameters.ct
        place = newFolder(folder, f"{ct.GetName()} {datetime.now():%Y-%m-%d %H.%M.%S}")
        return self._panel.logic.export(ct, place, formats, patientFields)

    def _onResult(self, session) -> None:
        self._panel.shown.forget()
        self._end("")
        seconds = time.monotonic() - self._since
        self._panel.run.work.say(_("Done in {seconds} s.").format(seconds=max(1, round(seconds))))

    def _onExported(self, result: dict[str, list[str]]) -> None:
        problems, export = result["problems"], self._panel.export
        warnings = export.work.takeWarnings()
        self._end("")
        export.showResult(result["files"], warnings + problems)
        if problems:
            showError("\n".join(problems))

    def _onFailed(self, code: str, message: str, details: str) -> None:
        self._end("")
        showError(message, details)

    def _end(self, text: str) -> None:
        """Show the state after the worker's job, with a text beside its button."""
        self.state = State.READY
        if self.work:  # else showing a result has failed
            self.work.stop(text)
        self.work = self.ct = None
        self._panel.refresh()


def whyNotApply(panel) -> str | None:
    """Say why nothing can be segmented now; None: it can."""
    if panel.state is State.NEEDS_PACKAGES:
        return _("Wait until the missing packages are installed.")
    if panel.state is State.EXPORTING:
        return _("Wait for the export to finish.")
    ct = panel.parameters and panel.parameters.ct
    if ct is None:
        return _("Select an image first.")
    if ct.GetImageData() is None:
        return _("The selected image holds no voxels.")
    if problem := panel.logic.computer.problem or whyNotUse(panel.inputs.selector.model):
        return problem
    missing = missingChannel(ct, panel.inputs.selector.model.channels[1:])
    return _("Select a volume for {name} first.").format(name=missing) if missing else None


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
        (_("Clicks in this image: {count}."), len(review.clicks)),
        (_("Voxels that were changed outside the review: {count}."), session.segmentation.strayEdits()),
    ):
        if count:
            losses.append(text.format(count=count))
    return losses
