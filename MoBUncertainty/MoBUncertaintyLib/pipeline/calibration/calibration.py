"""From a model and a site's signed-off reviews or labelled cases to a model of the site, or why it stays as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import CalibrationError, Cancelled, ImageError, ReviewError
from MoBUncertaintyLib.base.json_input import is_number
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.packages import check_pytorch
from MoBUncertaintyLib.base.publishing import KEPT
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.images.inputs import Input, list_inputs
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.network.export import check_exportable, check_new, export
from MoBUncertaintyLib.output.review_export import DECIDED, RECORD, read_export
from MoBUncertaintyLib.pipeline.calibration.fit import Calibration, SiteCase, calibrate, check_model
from MoBUncertaintyLib.regions.prediction import CancelledCallback, PredictionSettings, Progress, ProgressCallback
from MoBUncertaintyLib.review.refinement.evidence import Evidence

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.predictor import Predictor

IMAGES, LABELS = "images", "labels"  # names of the two folders in a folder of labelled cases
ADDED_NAME = ", calibrated"
LONGEST_NAME = 100


def calibrate_model(
    model: str | Path,
    folders: Iterable[Path],
    output: Path,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    device: str = "auto",
) -> tuple[Model, Calibration, list[str]]:
    """Calibrate a model, by its path or name, on a site's cases, and write it under another name; it stays as it is.

    Args:
        folders: Of signed-off reviews of the model's predictions (exports, or results with exports in them), or of
            labelled cases (`predicted_cases`), which are predicted on `device` as users' are.
        output: Model folder or `.zip` to make; must not exist.
        name: Of the new model. Default: that of the model, with `ADDED_NAME`.

    Returns:
        The new model, what was changed, and one sentence on each case that was not used.

    Raises:
        CalibrationError: There are too few cases, or the model would not be better.
        ReviewError, ImageError, ModelError, OutputError: A folder holds no case; as for `export`.
        Cancelled: `cancelled` said so.
    """
    check_pytorch("A calibration")
    check_new(output)
    old = load_model(find_model(model))
    check_model(old.card)
    check_exportable(old)
    paths = [*map(Path, folders)]
    labelled = [folder for folder in paths if holds_labels(folder)]
    reviews = find_reviews(folder for folder in paths if folder not in labelled)
    reads: list[Callable[[], SiteCase]] = [partial(read_review, folder, old.digest) for folder in reviews]
    if labelled:  # only that needs the network
        from MoBUncertaintyLib.inference.predictor import Predictor

        predictor = Predictor(old, PredictionSettings(device=device))
        reads += predicted_cases(labelled, predictor, progress or (lambda _: None), cancelled or (lambda: False))
    cases, refused = gather(reads)
    try:
        calibration = calibrate(cases, old.card)
    except CalibrationError as error:
        raise CalibrationError(" ".join([str(error), *refused])) from error
    earlier = old.card.volume_calibration
    intervals = calibration.intervals.calibration if calibration.intervals else None
    written = export(
        old.path,
        output,
        name=name or old.card.name[: LONGEST_NAME - len(ADDED_NAME)].rstrip() + ADDED_NAME,
        training={"calibration": calibration.description(old.card, old.digest)},
        regions=calibration.regions,
        click_settings=calibration.click_settings,
        fingerprint=calibration.fingerprint,
        volume_calibration=intervals or (earlier and earlier.divided(calibration.fit.temperature)),
        temperature=calibration.fit.temperature,
        half=None,
    )
    return written, calibration, refused


def find_reviews(folders: Iterable[Path]) -> list[Path]:
    """List exports: those given, and those in the folders or in results folders there; raises `ReviewError`."""
    reviews = []
    for folder in folders:
        inside = [folder / RECORD, *sorted(folder.glob(f"*/{RECORD}")), *sorted(folder.glob(f"*/*/{RECORD}"))]
        exports = [path.parent for path in inside if path.is_file()]
        exports = [export for export in exports if export == folder or not KEPT.fullmatch(export.name)]
        if not exports:
            raise ReviewError(f"{folder} holds no exported review; give folders with a {RECORD}.")
        reviews += exports
    return list(dict.fromkeys(reviews))


def gather(reads: Iterable[Callable[[], SiteCase]]) -> tuple[list[SiteCase], list[str]]:
    """Read cases, each image once; a `ReviewError` or `ImageError` becomes one of the sentences on what is refused."""
    cases: list[SiteCase] = []
    refused = []
    for read in reads:
        try:
            case = read()
            twice = [earlier for earlier in cases if case.image_sha256 and earlier.image_sha256 == case.image_sha256]
            if twice:
                raise ReviewError(f"{case.what} is of the same image as {twice[0].place}.")
            cases.append(case)
        except (ReviewError, ImageError) as error:
            refused.append(str(error))
    return cases, refused


def read_review(folder: Path, digest: str) -> SiteCase:
    """Read a review of a prediction of the model with this digest; raises `ReviewError` if it cannot be used."""
    record, signed_off = read_export(folder)
    if not signed_off:
        raise ReviewError(f"The review in {folder} is not signed off; sign it off and export it again.")
    model = _object(record, "model")
    if model.get("digest") != digest:
        name = printable(str(model.get("name")))[:100]
        raise ReviewError(f"The review in {folder} belongs to another model, {name}.")
    try:
        evidence = tuple(map(Evidence.from_text, _object(record, DECIDED).values()))
        volumes = {str(row["name"]): _volumes(row) for row in record["labels"]}
        if len(volumes) != len(evidence):
            raise ValueError("its labels are not those of the decided voxels")
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "its labels are invalid"
        raise ReviewError(f"The review in {folder} cannot be used: {reason}; export it again.") from error
    if not any(label.voxels for label in evidence):
        raise ReviewError(f"The review in {folder} decides no voxel, so it cannot be used; leave it out.")
    sha256, suitability = _object(record, "ct").get("sha256"), _object(record, "suitability")
    entries = _object(suitability, "deviations").items()
    deviations = {name: float(value) for name, value in entries if is_number(value) and value >= 0}
    return SiteCase(folder, sha256 if isinstance(sha256, str) else None, evidence, deviations, volumes)


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an entry of a record that should be an object, which is empty if it is none."""
    entry = record.get(name)
    return entry if isinstance(entry, dict) else {}


def _volumes(row: Mapping[str, Any]) -> tuple[StatedVolume, float]:
    numbers = [row[name] for name in ("network_ml", "network_error_ml", "corrected_ml")]
    if not all(is_number(number) and 0 <= number < math.inf for number in numbers):
        raise ValueError("its volumes are invalid")
    predicted, error, corrected = map(float, numbers)
    return StatedVolume(predicted, error), corrected


def holds_labels(folder: Path) -> bool:
    """Whether a folder is one of labelled cases, as `mob-training attach-head` takes it too."""
    return (folder / IMAGES).is_dir() and (folder / LABELS).is_dir()


def predicted_cases(
    folders: Iterable[Path], predictor: Predictor, progress: ProgressCallback, cancelled: CancelledCallback
) -> list[Callable[[], SiteCase]]:
    """Make what reads and predicts each labelled case, for `gather`; raises `ImageError` if a folder holds no image.

    Each folder holds `images/NAME` and `labels/NAME`, volume files; a model of several input channels takes
    `images/NAME_0000`, `images/NAME_0001` and so on. `progress` is called with the cases that are done (stage `cases`)
    and with each step of a case; `cancelled` is asked between cases and tiles.
    """
    channels = len(predictor.model.channels)
    cases = [(folder, case) for folder in folders for case in list_inputs(folder / IMAGES, None, channels)]
    began = time.monotonic()

    def tell(done: int) -> None:
        if cancelled():
            raise Cancelled("Cancelled between two cases.")
        left = (time.monotonic() - began) / done * (len(cases) - done) if done else None
        progress(Progress("cases", done, len(cases), left))

    def read(number: int) -> SiteCase:
        tell(number)
        try:
            return _predicted(*cases[number], predictor, progress, cancelled)
        finally:
            tell(number + 1)

    return [partial(read, number) for number in range(len(cases))]


def _predicted(
    folder: Path, case: Input, predictor: Predictor, progress: ProgressCallback, cancelled: CancelledCallback
) -> SiteCase:
    paths = [path for suffix in VOLUME_SUFFIXES if (path := folder / LABELS / f"{case.name}{suffix}").is_file()]
    if not paths:
        raise ImageError(f"The image {case.path} has no label map {folder / LABELS / case.name}.nii.gz.")
    if case.problem:
        raise ImageError(f"The image {case.path} cannot be used: {case.problem}.")
    read = read_image(case.path, case.series)
    truth = _read_truth(paths[0], read.image, [label.value for label in predictor.labels])
    others = {
        name: read_image(path).image for name, path in zip(predictor.model.channels[1:], case.channels, strict=False)
    }
    prediction = predictor.predict(read.image, progress, cancelled, exact=True, channels=others)
    volumes, suitability = prediction.compared(prediction.stated_volumes), prediction.suitability
    ml = prediction.grid.voxel_mm3 / 1000
    masks = [truth == label.value for label in prediction.labels]
    maps = zip(prediction.probability, prediction.variance, masks, strict=True)
    return SiteCase(
        case.path,
        read.sha256,
        tuple(Evidence.of_truth(p, v, mask) for p, v, mask in maps),
        suitability.to_dict()["deviations"] if suitability else {},
        {
            label.name: (volumes[label.name], float(np.count_nonzero(mask)) * ml)
            for label, mask in zip(prediction.labels, masks, strict=True)
        },
        labelled=True,
    )


def _read_truth(path: Path, image: sitk.Image, values: list[int]) -> np.ndarray:
    """Read a label map, (z, y, x)."""
    labels = read_image(path).image
    if not on_same_grid(labels, image):
        raise ImageError(f"The label map {path} has a different grid from its image.")
    truth: np.ndarray = sitk.GetArrayFromImage(labels)
    if not np.isin(truth, values).any():
        raise ImageError(f"The label map {path} has none of the model's labels ({', '.join(map(str, values))}).")
    return truth
