"""Whether Apply can be pressed, and what the user is asked when it is."""

from __future__ import annotations

from collections.abc import Iterator

from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.inputs.channels import missingChannel
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.requests import otherModalities
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene


def whyNotApply(panel) -> str | None:
    """Say why nothing can be segmented now; None: it can."""
    if panel.state is State.NEEDS_PACKAGES:
        return _("Wait until what is missing is installed.")
    if panel.state is State.EXPORTING:
        return _("Wait for the export to finish.")
    ct = panel.parameters and panel.parameters.ct
    if ct is None:
        return _("Select an image first.")
    if ct.GetImageData() is None:
        return _("The selected image holds no voxels.")
    if problem := panel.logic.computer.problem or panel.inputs.problem:
        return problem
    missing = missingChannel(ct, panel.inputs.selector.model.channels[1:])
    return _("Select a volume for {name} first.").format(name=missing) if missing else None


def applyQuestions(panel) -> Iterator[str]:
    """Ask whether to go on where the image is not what the models take, or a review would be lost."""
    ct = panel.parameters.ct
    if modalities := otherModalities(ct, panel.inputs.selector.model.channels):
        yield " ".join([*modalities, _("Apply nevertheless?")])
    if losses := _losses(ct, panel.review.session):
        yield " ".join([*losses, _("A new segmentation begins a new review, and all of this is lost. Apply?")])


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
            sum(each.touched for each in review.regions),
        ),
        (_("Clicks in this image: {count}."), len(review.clicks)),
        (_("Voxels that were changed outside of the review: {count}."), session.segmentation.strayEdits()),
    ):
        if count:
            losses.append(text.format(count=count))
    return losses
