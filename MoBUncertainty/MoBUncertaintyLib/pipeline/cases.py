"""From a file to a results folder: what the commands and the worker share. Shows nothing itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import Cancelled, ImageError, OutputError, SettingsError, reporting_out_of_memory
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import absolute
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.modality import check_modalities
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.images.reader import digest, read_image
from MoBUncertaintyLib.inference.maps.members import AnyPredictor
from MoBUncertaintyLib.inference.suitability import unsuitable
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.measurement import Values, read_wanted
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.model.region_settings import MEASURE_NAMES, Measure, RegionSettings
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Outcome, read_case, read_intact
from MoBUncertaintyLib.output.formats import Format, check_source, dicom_names
from MoBUncertaintyLib.output.pages.templates import require_installed
from MoBUncertaintyLib.output.pictures.overlay import draw_overlay
from MoBUncertaintyLib.output.results_folder import FOLDER, Written, write_results, write_volumes
from MoBUncertaintyLib.pipeline.drawing import Drawing, is_of, read_drawing
from MoBUncertaintyLib.regions.agreement import expected_agreement
from MoBUncertaintyLib.regions.discrepancy import find_differences, find_discrepancies, settings_of
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.measurements import effects, measure
from MoBUncertaintyLib.regions.prediction import (
    CancelledCallback,
    Prediction,
    PredictionSettings,
    Progress,
    ProgressCallback,
)
from MoBUncertaintyLib.regions.region import Effect
from MoBUncertaintyLib.review.outcome import decided_prediction

OWN = "predicted.nii.gz"
"""The model's own segmentation, beside one that was checked."""
OTHER_RESULTS = "Results of an earlier run, with another image, model or other settings, were kept."


@dataclass(frozen=True)
class Job:
    """What is done to each case alike."""

    predictor: AnyPredictor  # model and settings
    regions: RegionSettings | None = None  # what counts as a doubtful region. Default: as the model states
    series: str | None = None  # series instance UID, where a DICOM folder has several and the case does not name one
    channels: Mapping[str, Path] = field(default_factory=dict)  # files of other input channels, as the user named them
    scene: bool = True
    formats: Sequence[Format] = ()  # DICOM objects to write too; only of an image that came from DICOM
    overwrite: bool = False
    skip_existing: bool = False  # keep results that are there, whatever they are of
    more: Callable[[Case, Path], None] | None = None  # writes more files of a case to the folder that it is called with
    names: Mapping[str, str] = field(default_factory=dict)  # the model's labels by the names in segmentations to check
    measurements: tuple[str, ...] = ()  # what to measure of each case, as `regions.measurements.measure` takes it
    dose: Path | None = None  # to measure, of one case
    rank_by: str | None = None  # the measurement by which regions are ranked; default: expected error

    def files_of(self, case: Input) -> Mapping[str, Path]:
        """Name the files of the other channels: as the user has, or as their numbers in nnU-Net's layout say."""
        return self.channels or dict(zip(self.predictor.model.channels[1:], case.channels, strict=False))


@reporting_out_of_memory()
def run_case(
    job: Job,
    case: Input,
    folder: Path,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[Case, Written]:
    """Read an image, predict it, find its doubtful regions and write the results folder, whole or not at all.

    A case with a segmentation is checked: that is what the results are of, and where it is improbable are its regions
    or, with another one, where both differ.
    `cancelled` is asked between steps and tiles; `warn` is called, before anything is computed, with the warnings of
    the images. Raises `UserError`, and `Cancelled` if `cancelled` says so.
    """
    require_installed()
    from MoBUncertaintyLib.images.dose import read_dose  # needs pydicom

    predictor, series, seconds = job.predictor, case.series or job.series, dict[str, float]()
    # The place is kept before the long computation; the volumes are written beside the steps that follow it.
    with FOLDER.reserve(folder, job.overwrite) as place, ThreadPoolExecutor(1) as beside:
        with _stage("read", seconds, progress, cancelled):
            read = read_image(case.path, series)
            others = {channel: read_image(path) for channel, path in job.files_of(case).items()}
            dose = read_dose(job.dose, read.image, read.files) if job.dose else None
            drawing = None
            if case.segmentation:
                drawing = read_drawing(case.segmentation, read, predictor.labels, job.names, case.against)
        images = {channel: other.image for channel, other in others.items()}
        warnings = [*read.warnings, *(sentence for other in others.values() for sentence in other.warnings)]
        warnings += drawing.warnings if drawing else ()
        channels = tuple(
            {"name": name, "path": printable(str(absolute(path))), "sha256": others[name].sha256}
            for name, path in job.files_of(case).items()
        )
        slices = read.files if read.is_dicom else ()
        source = Source(case.path, case.entry, read.sha256, series, channels, slices)
        check_source(job.formats, slices, "leave out its --format")
        contradictions = check_modalities(predictor.model.channels, read.image, images, predictor.settings.force)
        for sentence in (*warnings, *contradictions):
            warn(sentence)
        prediction = predictor.predict(read.image, progress, cancelled, channels=images)
        prediction = prediction.annotated(
            warnings=[*warnings, *prediction.warnings], timings=seconds | prediction.timings
        )
        own = prediction
        if drawing:
            with _stage("check", prediction.timings, progress, cancelled):
                prediction = drawing.held_against(own)
        images.clear()  # what the results are made of is the first
        volumes = beside.submit(write_volumes, place.partial, prediction)
        predicted = _with_regions(read.image, prediction, source, job.regions, progress, cancelled)
        if job.measurements or job.rank_by:
            start, now = time.monotonic(), predicted.prediction
            made = measure_case(predicted, job.measurements, job.rank_by, dose, progress, cancelled)
            if job.rank_by:
                predicted = replace(predicted, regions=predicted.regions.by_effect(made.effects))
            now.warnings.extend(made.warnings)
            now.timings["measure"] = time.monotonic() - start
            used = {"path": printable(str(absolute(job.dose))), "sha256": digest(job.dose)} if job.dose else None
            now = now.annotated(measured=made.measured, provenance={"dose": used} if used else {})
            predicted = replace(predicted, prediction=now)
        with _stage("write", predicted.prediction.timings, progress, cancelled):
            more = partial(job.more, predicted) if job.more else None
            if drawing:
                more = partial(_write_own, own)
            written = write_results(place, predicted, job.formats, scene=job.scene, volumes=volumes, more=more)
    return predicted, written


def kept_case(job: Job, case: Input, folder: Path) -> CohortCase | None:
    """Describe results that need not be made again, if a folder holds them; raises `UserError` if unreadable."""
    if job.overwrite or not FOLDER.recognises(folder):
        return None
    try:
        record = read_intact(folder)
    except OutputError:
        if job.skip_existing:
            raise
        return None
    try:
        same = _is_of(record, job, case)
    except ImageError:
        if not job.skip_existing:
            raise
        same = False
    if not (same or job.skip_existing):
        return None
    warnings = () if same else (OTHER_RESULTS,)
    return read_case(case.entry or case.path.name, folder, Outcome.KEPT, warnings, record)


def _is_of(record: Mapping[str, Any], job: Job, case: Input) -> bool:
    """Whether results are of the same image, model and settings but for the device; raises `ImageError`."""
    model, settings = job.predictor.model, _anywhere(job.predictor.settings)
    regions = job.regions or model.card.region_settings
    wanted = settings, settings_of(regions) if case.segmentation else regions, model.digest
    try:
        made = (
            _anywhere(PredictionSettings.from_dict(record["settings"])),
            RegionSettings.from_dict(record["regions"]["settings"]),
            record["model"]["digest"],
        )
        values = [label["value"] for label in record["labels"]]
        files = {name for kind in job.formats for name in dicom_names(kind, values)}
        if made != wanted or not record["files"].keys() >= files:
            return False
        others = {entry["name"]: entry["sha256"] for entry in record["input"].get("channels", [])}
        if others != {channel: digest(path) for channel, path in job.files_of(case).items()}:
            return False
        if not is_of(record.get("checked"), case.segmentation, job.names, case.against):
            return False
        measured = tuple(entry["name"] for entry in record.get("measured", []))
        if measured != job.measurements or record.get("dose", {}).get("sha256") != (job.dose and digest(job.dose)):
            return False
        if record["regions"]["count"] and record["regions"].get("ranked_by") != job.rank_by:
            return False
        return bool(record["input"]["sha256"] == digest(case.path, case.series or job.series))
    except (OSError, ValueError, KeyError, TypeError, SettingsError):  # altered
        return False


def _anywhere(settings: PredictionSettings) -> PredictionSettings:
    return replace(settings, device="auto", engine="auto", force=False)


def _write_own(prediction: Prediction, folder: Path) -> None:
    """Write the model's own segmentation beside the one that is checked."""
    write_nifti(folder / OWN, prediction.segmentation, prediction.grid)


@reporting_out_of_memory()
def check(
    image: str | Path,
    segmentation: str | Path,
    model: Model | Path | str,
    settings: PredictionSettings | None = None,
    names: Mapping[str, str] | None = None,
    against: str | Path | None = None,
) -> Case:
    """Hold the segmentation of an image, by any tool or hand, against a model.

    Args:
        image: Its file or DICOM folder.
        segmentation: Its file, or a folder with a mask for each label.
        model: The model, its path, or its name as for `find_model`.
        settings: How to predict.
        names: The model's labels by the names that they have in the segmentation, where these differ.
        against: A second segmentation of the image, likewise. Default: none.

    Returns:
        A case whose segmentation is the first one, and whose regions are where it is improbable or, with a second one,
        where the two differ: first those where the second is more probable.

    Raises:
        UserError: Whatever the user can mend.

    Example:
        >>> from MoBUncertaintyLib import check
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> data = RESOURCES / "SampleData"
        >>> case = check(data / "HeadNeckCT.nii.gz", data / "HeadNeckCT-contours.seg.nrrd", "HeadNeckOrgans")
        >>> case.prediction.checked.unmatched, case.regions.ranked[0].rank
        ((), 1)
    """
    from MoBUncertaintyLib.inference.predictor import Predictor

    read, predictor = read_image(image), Predictor(loaded(model), settings)
    second = Path(against) if against else None
    drawing = read_drawing(Path(segmentation), read, predictor.labels, names or {}, second)
    source = Source(Path(image), "", read.sha256, dicom_files=read.files if read.is_dicom else ())
    return replace(analyse(read.image, predictor, drawing=drawing), source=source)


def analyse(
    image: sitk.Image,
    predictor: AnyPredictor,
    region_settings: RegionSettings | None = None,
    progress: ProgressCallback | None = None,
    channels: Mapping[str, sitk.Image] | None = None,
    drawing: Drawing | None = None,
) -> Case:
    """Predict an image and find its doubtful regions, or where a drawing is improbable; errors as for `predict`."""
    prediction = predictor.predict(image, progress, channels=channels)
    if drawing:
        with _stage("check", prediction.timings, progress, None):
            prediction = drawing.held_against(prediction)
    return _with_regions(image, prediction, Source(), region_settings, progress, None)


def _with_regions(
    image: sitk.Image,
    prediction: Prediction,
    source: Source,
    settings: RegionSettings | None,
    progress: ProgressCallback | None,
    cancelled: CancelledCallback | None,
) -> Case:
    with _stage("regions", prediction.timings, progress, cancelled):
        if prediction.checked:
            settings = settings_of(settings or prediction.region_settings)
            prediction = prediction.annotated(region_settings=settings)
            if prediction.second is None:
                regions = find_discrepancies(prediction, prediction.segmentation)
            else:
                regions = find_differences(prediction)
        else:
            regions = find_regions(prediction, settings)
    problem = None if prediction.checked else unsuitable(regions.ranked, prediction)
    covered = regions.coverage.warning if regions.coverage is not None else None
    noticed = [*_without_covariance(prediction, regions.settings.measure), covered, problem]
    before = set(prediction.warnings)  # the computer that has predicted may have looked at regions too
    prediction.warnings.extend(sentence for sentence in noticed if sentence and sentence not in before)
    if problem and problem not in before and prediction.suitability is not None:
        prediction = prediction.annotated(suitability=prediction.suitability.worsened(Level.UNUSUAL, problem))
    if not prediction.checked:
        prediction = prediction.annotated(agreement=expected_agreement(prediction, prediction.segmentation))
    return Case(image, prediction, regions, source)


@dataclass(frozen=True)
class Measurements:
    """What was measured in a case.

    Attributes:
        measured: In the order wanted.
        effects: What resolving each region does to the measurement that ranks, by the region's number.
        warnings: Sentences for the user.
    """

    measured: tuple[Measured, ...]
    effects: Mapping[int, Effect]
    warnings: list[str]


def measure_case(
    case: Case,
    wanted: Sequence[str],
    rank_by: str | None = None,
    dose: np.ndarray | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
) -> Measurements:
    """Measure a case as predicted or, if its review is begun, as reviewed; with `rank_by`, estimate effects on that.

    `dose` is as `images.dose.read_dose` reads it; the rest, and errors, as for `regions.measurements.measure`.
    """
    prediction, regions = case.prediction, case.regions
    if case.begun:
        prediction, regions = decided_prediction(case.begun), case.begun.listed()
    ranking, values = (rank_by,) if rank_by else (), _values(case, dose)

    def part(number: int) -> ProgressCallback | None:
        """Report the samples of one of the rounds: those that are measured, and those that rank."""

        def report(step: Progress) -> None:
            assert progress is not None
            rounds = 1 + len(ranking)
            progress(replace(step, done=step.done + number * step.total, total=rounds * step.total))

        return progress and report

    measured = measure(prediction, wanted, values, progress=part(0), cancelled=cancelled)
    by_number = effects(prediction, regions, rank_by, values, part(1), cancelled) if rank_by else {}
    return Measurements(measured, by_number, _uncovered(prediction, (*wanted, *ranking), dose))


def _uncovered(prediction: Prediction, wanted: Sequence[str], dose: np.ndarray | None) -> list[str]:
    """Warn of labels in which a dose is measured, and which it does not cover."""
    if dose is None:
        return []
    named = read_wanted(wanted, [label.name for label in prediction.labels], tuple(Values))
    dosed = {label for one in named if one.measurement.of is Values.DOSE for label in one.labels}
    masks = {label.name: label.mask(prediction.segmentation) for label in prediction.labels if label.name in dosed}
    beyond = [name for name, mask in masks.items() if np.isnan(dose[mask]).any()]
    return [f"The dose does not cover all of {', '.join(beyond)}; elsewhere 0 Gy counts."] if beyond else []


def _values(case: Case, dose: np.ndarray | None) -> dict[str, np.ndarray]:
    """Gather what can be measured in the labels; beyond the dose 0 Gy counts."""
    image = {"image": sitk.GetArrayViewFromImage(case.image)}
    return image if dose is None else image | {"dose": np.nan_to_num(dose)}


@reporting_out_of_memory()
def draw_sample(source: Path, model: Model, target: Path) -> None:
    """Draw the result of an image for a model's card, PNG, without the image's name; raises `UserError`."""
    from MoBUncertaintyLib.inference.predictor import Predictor

    case = analyse(read_image(source).image, Predictor(model, PredictionSettings()))
    draw_overlay(target, case.image, case.prediction, case.regions)


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
    way = (
        "doubtful regions are found by the variance, as you chose, so most are missed; use entropy or p (1 - p) instead"
        if measure is Measure.VARIANCE
        else f"doubtful regions are found by {MEASURE_NAMES[measure]}"
    )
    return [f"This model has no covariance, so its variance shows only where tiles or folds disagree; {way}."]
