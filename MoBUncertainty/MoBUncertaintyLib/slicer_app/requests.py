"""What the worker is asked for, and what becomes of its answers in the scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ImageError, OutputError, reason_of
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.images.modality import contradictions
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.output.results_record import KEPT, read_prediction, write_maps
from MoBUncertaintyLib.slicer_app.review_session import ReviewSession
from MoBUncertaintyLib.slicer_app.scene.nodes import channelVolume, ijkToRas, isPlaced, subjectHierarchy
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import labelSpecs, readStructures
from MoBUncertaintyLib.slicer_app.stored_results import scenePrediction
from MoBUncertaintyLib.worker.protocol import Command

SHOWING = {"stage": "show", "done": 0, "total": 1, "fraction": 1.0, "seconds_left": None}
"""The step of progress that follows the worker's; see `protocol`."""

MODALITY = "0008,0060"
"""As Slicer's DICOM database calls it."""

SET_BY_READER = ("measure", "threshold", "minimum_mm3")
"""Of what counts as a doubtful region; the rest is the model's."""


def predictRequest(
    ct,
    models: Sequence[str],
    settings: dict[str, Any],
    earlier: ReviewSession | None = None,
    computer: str = "",
    segmentations: Sequence[Any] = (),
) -> dict[str, Any]:
    """Ask for a prediction of an image by models: names or paths; several make an ensemble.

    Their further input channels have the volumes that the image refers to. What the reader of an earlier review has set
    of what counts as a region holds on, if that was the same model's, and a segmentation is checked as it was then, or
    none. A vtkMRMLSegmentationNode is one to check, and a second one is compared with it.
    """
    drawn = [_segmentation(node, ct) for node in segmentations]
    made = earlier.review.prediction.provenance if earlier else {}
    regions, digest = {}, made.get("model", {}).get("digest")
    if digest and bool(earlier.review.prediction.checked) == bool(drawn):  # else regions have another measure
        regions = {name: getattr(earlier.review.settings, name) for name in SET_BY_READER}
    return {
        "command": Command.PREDICT,
        "ct": _volume(ct),
        "channels": {
            name: _volume(channelVolume(ct, name)) for name in ListedModel(Path(models[0]), None).channels[1:]
        },
        "models": list(models),
        "settings": settings | {"force": True},  # the panel has asked whether to apply nevertheless
        "regions": regions,
        "regions_of_model": digest,
        "computer": computer or None,
        "segmentation": drawn[0] if drawn else None,
        "against": drawn[1] if len(drawn) > 1 else None,
    }


def showResult(ct, request: dict[str, Any], result: dict[str, Any]) -> Iterator[None]:
    """Put the answer to a request of `predictRequest` into the scene, and begin its review: returns a ReviewSession.

    Raises `ImageError` if the image is no longer what was handed over, and `OutputError` if this is no result; the
    scene is then as it was. After any other error, want of memory perhaps, the image has no results, earlier ones
    neither.
    """
    if ct.GetScene() is None:
        raise ImageError(_("The image was removed while being segmented; there is nothing to show."))
    try:
        prediction = read_prediction(result, Grid.from_matrix(ijkToRas(ct)))
        settings, regionMap = prediction.region_settings, result["region_map"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = _(
            "The result of the computation cannot be used ({reason}); reinstall MoB Uncertainty where it was "
            "computed, and apply again."
        )
        raise OutputError(text.format(reason=reason_of(error))) from error
    if not isPlaced(ct, request["ct"]["ijk_to_ras"], prediction.shape):
        raise ImageError(_("The image was changed while being segmented, so the results do not fit; apply again."))
    results = ResultScene(ct)
    first = results.node("segmentation") is None
    values = [label.value for label in prediction.labels]
    maps = (dict(zip(values, each, strict=True)) for each in (prediction.probability, prediction.variance))
    try:
        yield from results.setSegmentation(prediction.segmentation, labelSpecs(prediction.labels))
        yield
        results.overlay.setMaps(*maps, settings.variance_threshold if prediction.has_variance else None)
        results.documents.set("prediction", {name: result[name] for name in KEPT})
        yield
        yield from results.overlay.showInSteps(results.overlay.values["kind"], results.overlay.values["label"])
        yield
        if first:
            results.overlay.change(surface=True)
            yield
        session = ReviewSession.start(results, prediction.segmentation, regionMap)
        results.showInViews()
    except BaseException:  # GeneratorExit too: somebody has stopped it
        results.remove()  # half of them would be taken for the whole
        raise
    return session


def exportRequest(session: ReviewSession, folder: Path, formats: list[str], patientFields: bool) -> dict[str, Any]:
    """Ask for the files of a review in some formats, by the names of `output.review_export.Format`."""
    return _reviewed(session) | {
        "command": Command.EXPORT,
        "dicom_files": dicomFiles(session.results.ctNode),
        "measured": session.measured,
        "output": str(folder),
        "formats": formats,
        "patient_fields": patientFields,
    }


def measureRequest(
    session: ReviewSession, measurements: Sequence[str], dose=None, rankBy: str | None = None
) -> dict[str, Any]:
    """Ask for measurements of a review, as `--measure` takes them; a dose is a vtkMRMLScalarVolumeNode, in Gy.

    Regions are to be ranked by what resolving each does to the measurement `rankBy`. Default: by expected error.
    """
    return _reviewed(session) | {
        "command": Command.MEASURE,
        "measurements": list(measurements),
        "dose": dose and _volume(dose),
        "rank_by": rankBy,
    }


def _reviewed(session: ReviewSession) -> dict[str, Any]:
    """Hand a review over, with its image."""
    record = session.results.documents.get("prediction")
    # Of labels that overlap, the review has what is left of each; the worker makes that of the scene's maps.
    prediction = scenePrediction(session.results, session.review.prediction.segmentation)
    maps = write_maps(prediction, lambda _name, array: array)
    return {
        "ct": _volume(session.results.ctNode),
        "prediction": maps | {name: record[name] for name in KEPT},
        "review": session.review.to_dict(),
    }


def dicomDatabase():
    """Return Slicer's DICOM database; None in a Slicer without its DICOM module."""
    return getattr(slicer, "dicomDatabase", None)


def dicomFiles(ct) -> list[str] | None:
    """List the files of an image that came from Slicer's DICOM database, or None."""
    database, instances = dicomDatabase(), (ct.GetAttribute("DICOM.instanceUIDs") or "").split()
    files = [database.fileForInstance(uid) for uid in instances] if database else []
    return files if files and all(files) else None


def otherModalities(ct, channels: Sequence[str]) -> list[str]:
    """Say in a sentence for each image that it is of another modality than a model takes."""
    return contradictions(channels, [modality(ct), *(modality(channelVolume(ct, name)) for name in channels[1:])])


def modality(volume) -> str | None:
    """Return DICOM's term for a volume that came from DICOM, in this scene or an earlier one; None: it is not known."""
    if files := dicomFiles(volume):
        return dicomDatabase().fileValue(files[0], MODALITY) or None
    hierarchy = subjectHierarchy(volume.GetScene())
    item = hierarchy.GetItemByDataNode(volume)
    attribute = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    return (hierarchy.GetItemAttribute(item, attribute) or None) if item != hierarchy.GetInvalidItemID() else None


def _segmentation(node, ct) -> dict[str, Any]:
    labels, structures = readStructures(node, ct)
    return {"array": labels, "structures": structures, "name": node.GetName()}


def _volume(node) -> dict[str, Any]:
    return {
        "array": slicer.util.arrayFromVolume(node),
        "ijk_to_ras": ijkToRas(node).tolist(),
        "name": node.GetName(),
        "modality": modality(node),
    }
