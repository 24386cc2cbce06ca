"""From a file to a results folder, and from there to a review: what the commands and the worker share.

Shows nothing itself. Only a model's picture needs torch, and what predicts here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.conformal.interval import Interval
from MoBUncertaintyLib.errors import Cancelled, SettingsError, reporting_out_of_memory
from MoBUncertaintyLib.files.names import printable
from MoBUncertaintyLib.files.publishing import absolute
from MoBUncertaintyLib.images.channels import check_modalities
from MoBUncertaintyLib.images.reader import digest, read_image
from MoBUncertaintyLib.inference.maps.members import AnyPredictor
from MoBUncertaintyLib.inference.plausibility import unsuitable
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output import review_export
from MoBUncertaintyLib.output.decisions import read_decisions
from MoBUncertaintyLib.output.dicom.objects import DicomFormat, check_dicom_source, file_names
from MoBUncertaintyLib.output.pages.templates import check_template
from MoBUncertaintyLib.output.parts import Parts
from MoBUncertaintyLib.output.pictures.overlay import draw_overlay
from MoBUncertaintyLib.output.report import ReviewedCase
from MoBUncertaintyLib.output.results_folder import (
    FOLDER,
    read_results,
    write_results,
    write_volumes,
)
from MoBUncertaintyLib.output.results_record import read_record
from MoBUncertaintyLib.output.review_files import reviewed_case
from MoBUncertaintyLib.prediction import (
    CancelledCallback,
    Prediction,
    PredictionSettings,
    Progress,
    ProgressCallback,
)
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.region import Region, Regions
from MoBUncertaintyLib.regions.settings import MEASURE_NAMES, Measure, RegionSettings

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class CaseSummary:
    """What became of one case.

    Attributes:
        name: Of the input file or folder.
        folder: Results folder.
        volumes_ml: Volume of each label, by its name.
        intervals: In which the true volumes lie, likewise, where the model can tell.
        regions: Doubtful regions in order of rank.
        expected_error_ml: Integral of 1 - max_c p over the whole image: the volume expected to be labelled wrongly.
        seconds: By stage.
        device: What computed it, the backbone's precision, and the engine.
        warnings: One sentence each.
        suitability: Whether the model suits the case.
        problems: Those of the warnings that tell what was asked for and could not be written.
    """

    name: str
    folder: Path
    volumes_ml: dict[str, float]
    intervals: dict[str, Interval]
    regions: tuple[Region, ...]
    expected_error_ml: float
    seconds: dict[str, float]
    device: str
    warnings: list[str]
    suitability: Suitability
    problems: tuple[str, ...] = ()

    @property
    def expected_error_in_regions_ml(self) -> float:
        """The part of `expected_error_ml` that lies in the regions."""
        return sum(region.expected_error_mm3 for region in self.regions) / 1000


@dataclass(frozen=True)
class Analysis:
    """What is computed of an image.

    Attributes:
        prediction: Segmentation, probability and variance.
        regions: Doubtful regions.
        seconds: By stage.
    """

    prediction: Prediction
    regions: Regions
    seconds: dict[str, float]


@reporting_out_of_memory()
def run_case(
    source: Path,
    output: Path,
    predictor: AnyPredictor,
    region_settings: RegionSettings | None = None,
    *,
    channels: Mapping[str, Path] | None = None,
    name: str | None = None,
    series: str | None = None,
    scene: bool = True,
    formats: Sequence[DicomFormat] = (),
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    warn: Callable[[str], None] | None = None,
    more: Callable[[Analysis, Path], None] | None = None,
) -> tuple[CaseSummary, Analysis]:
    """Read a volume, predict it, find its doubtful regions and write the results folder.

    Args:
        source: Volume file or DICOM folder.
        output: Results folder to make.
        predictor: Model and settings.
        region_settings: What counts as a region; None: as the model states.
        channels: Volume files or DICOM folders of the model's other input channels, by name.
        name: What the case is called; None: as the source.
        series: Series instance UID, where a DICOM folder has several.
        scene: Write the Slicer scene too.
        formats: DICOM objects to write too; only of a CT that came from DICOM.
        overwrite: Replace results that are there.
        progress: Called with each step.
        cancelled: Asked between steps, and between tiles.
        warn: Called, before anything is computed, with those of the warnings that are known by then.
        more: Writes more files to the folder that it is called with.

    Raises:
        UserError: Whatever the user can mend; no folder is left then.
        Cancelled: `cancelled` said so; no folder is left then.
    """
    check_template()
    seconds: dict[str, float] = {}
    # The place is kept before the long computation; the volumes are written beside the steps that follow it.
    with FOLDER.reserve(output, overwrite) as place, ThreadPoolExecutor(1) as beside:
        with _stage("read", seconds, progress, cancelled):
            read = read_image(source, series)
            others = {channel: read_image(path) for channel, path in (channels or {}).items()}
        image, warnings = read.image, [*read.warnings, *(said for each in others.values() for said in each.warnings)]
        dicom_files = read.files if read.is_dicom else ()
        check_dicom_source(formats, dicom_files, "leave out its --format")
        images = {channel: each.image for channel, each in others.items()}
        mistaken = check_modalities(predictor.model.channels, image, images, predictor.settings.force)
        if warn:
            for known in (*warnings, *mistaken):
                warn(known)
        prediction = predictor.predict(image, progress, cancelled, channels=images)
        images.clear()  # what the results are made of is the first
        volumes = beside.submit(write_volumes, place.partial, prediction)
        analysis = _analysis(prediction, region_settings, progress, cancelled)
        prediction = analysis.prediction
        seconds |= analysis.seconds
        prediction.timings.update(seconds)  # so that the record has all of them
        with _stage("write", seconds, progress, cancelled):
            parts = Parts(place.partial)
            noticed = write_results(
                place,
                image,
                prediction,
                analysis.regions,
                source=source,
                name=name,
                sha256=read.sha256,
                series=series,
                channels=[
                    {"name": channel, "path": printable(str(absolute(path))), "sha256": others[channel].sha256}
                    for channel, path in (channels or {}).items()
                ],
                scene=scene,
                formats=formats,
                dicom_files=dicom_files,
                warnings=warnings,
                volumes=volumes,
                parts=parts,
                more=partial(more, analysis) if more else None,
            )
    summary = CaseSummary(
        name=name or source.name,
        folder=output,
        volumes_ml=prediction.volumes_ml(),
        intervals=prediction.volume_intervals(),
        regions=analysis.regions.ranked,
        expected_error_ml=prediction.expected_error_mm3 / 1000,
        seconds=seconds,
        device="{device}, {precision}, {engine}".format_map(prediction.provenance),
        warnings=[*warnings, *prediction.warnings, *noticed],
        problems=tuple(parts.problems),
        suitability=prediction.suitability or Suitability(judged=False),
    )
    return summary, analysis


def is_done(
    source: Path,
    output: Path,
    predictor: AnyPredictor,
    region_settings: RegionSettings | None = None,
    *,
    channels: Mapping[str, Path] | None = None,
    series: str | None = None,
    formats: Iterable[DicomFormat] = (),
) -> bool:
    """Whether a results folder holds what `run_case` would write: of the same image, model and settings.

    Device and engine do not count. Arguments as for `run_case`.

    Raises:
        ImageError: There are results, and the image cannot be read.
    """
    if not FOLDER.recognises(output):
        return False
    wanted = (
        _anywhere(predictor.settings),
        region_settings or predictor.model.card.region_settings,
        predictor.model.digest,
    )
    try:
        record = read_record(output)
        found = (
            _anywhere(PredictionSettings.from_dict(record["settings"])),
            RegionSettings.from_dict(record["regions"]["settings"]),
            record["model"]["digest"],
        )
        same = found == wanted
        values = [label["value"] for label in record["labels"]]
        same = same and record["files"].keys() >= {name for kind in formats for name in file_names(kind, values)}
        others = {each["name"]: each["sha256"] for each in record["input"].get("channels", [])}
        same = same and others == {channel: digest(path) for channel, path in (channels or {}).items()}
        return same and bool(record["input"]["sha256"] == digest(source, series))
    except (OSError, ValueError, KeyError, TypeError, SettingsError):  # of another version, damaged or altered
        return False


def _anywhere(settings: PredictionSettings) -> PredictionSettings:
    return replace(settings, device="auto", engine="auto", force=False)


def analyse(
    image: sitk.Image,
    predictor: AnyPredictor,
    region_settings: RegionSettings | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    channels: Mapping[str, sitk.Image] | None = None,
) -> Analysis:
    """Predict an image and find its doubtful regions; arguments and errors as for `Predictor.predict`.

    What is noticed of both together is added to the prediction's warnings.
    """
    prediction = predictor.predict(image, progress, cancelled, channels=channels)
    return _analysis(prediction, region_settings, progress, cancelled)


def _analysis(
    prediction: Prediction,
    region_settings: RegionSettings | None,
    progress: ProgressCallback | None,
    cancelled: CancelledCallback | None,
) -> Analysis:
    seconds = dict(prediction.timings)
    with _stage("regions", seconds, progress, cancelled):
        regions = find_regions(prediction, region_settings)
    problem = unsuitable(regions.ranked, prediction.volumes_ml())
    covered = regions.coverage.warning if regions.coverage is not None else None
    noticed = [*_without_covariance(prediction, regions.settings.measure), covered, problem]
    known = set(prediction.warnings)  # the computer that has predicted may have looked at regions too
    prediction.warnings.extend(each for each in noticed if each and each not in known)
    if problem and problem not in known and prediction.suitability is not None:
        prediction = prediction.judged(prediction.suitability.worsened(Level.UNUSUAL, problem))
    return Analysis(prediction, regions, seconds)


@reporting_out_of_memory()
def review_case(
    results: Path,
    decisions: Path,
    output: Path | None = None,
    *,
    ct: Path | None = None,
    formats: Iterable[str] = (review_export.Format.REPORT, review_export.Format.SEGMENTATION),
    patient_fields: bool = False,
    overwrite: bool = False,
    sign: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> tuple[ReviewedCase, review_export.Exported]:
    """Apply a reader's decisions to a results folder, and write what comes of it.

    Args:
        results: Results folder.
        decisions: JSON file with clicks and verdicts, or the `report.json` of an export.
        output: Folder to make; None: `review`, inside the results.
        ct: The CT; None: where it was when it was predicted.
        formats, patient_fields, overwrite, sign: As for `review_export.write_export`.

    Raises:
        UserError: Whatever the user can mend; no folder is left then.
    """
    folder = output or results / "review"
    review_export.FOLDER.check_name(folder)
    wanted = review_export.read_formats(formats)
    read = read_decisions(decisions)
    found = read_results(results)
    review_export.FOLDER.check(folder, overwrite)
    case, dicom_files = reviewed_case(found, read, ct)
    exported = review_export.write_export(
        case, folder, wanted, dicom_files=dicom_files, patient_fields=patient_fields, overwrite=overwrite, sign=sign
    )
    return case, exported


def open_review(results: Path, decisions: Path | None = None, ct: Path | None = None) -> ReviewedCase:
    """Open a results folder for review.

    Args:
        results: Results folder.
        decisions: What was decided before, as for `review_case`; None: nothing.
        ct: The CT; None: where it was when it was predicted.

    Raises:
        UserError: Whatever the user can mend.
    """
    read = read_decisions(decisions) if decisions else None
    return reviewed_case(read_results(results), read, ct)[0]


@reporting_out_of_memory()
def draw_sample(source: Path, model: Model, target: Path) -> None:
    """Predict an image and draw the result for a model's card, PNG; the picture does not name the image.

    Raises:
        UserError: Whatever the user can mend.
    """
    from MoBUncertaintyLib.inference.predictor import Predictor

    image = read_image(source).image
    analysis = analyse(image, Predictor(model, PredictionSettings()))
    draw_overlay(target, image, analysis.prediction, analysis.regions)


@contextmanager
def _stage(
    name: str, seconds: dict[str, float], progress: ProgressCallback | None, cancelled: CancelledCallback | None
) -> Iterator[None]:
    """Run a step that cannot be divided: told before and after, timed, and not begun once the user has cancelled."""
    if cancelled and cancelled():
        raise Cancelled(f"Cancelled before the step '{name}'.")
    if progress:
        progress(Progress(name, 0, 1, None))
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
    if progress:
        progress(Progress(name, 1, 1, 0.0))


def _without_covariance(prediction: Prediction, measure: Measure) -> list[str]:
    """Say what a reader of a stock nnU-Net's variance must know."""
    if prediction.has_variance:
        return []
    found = (
        "doubtful regions are found by it as you asked, so most are missed; entropy and p (1 - p) find them"
        if measure is Measure.VARIANCE
        else f"doubtful regions are found by {MEASURE_NAMES[measure]}"
    )
    return [f"This model has no covariance, so its variance shows only where tiles or folds disagree; {found}."]
