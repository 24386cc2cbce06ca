"""The cases that a calibration is fitted to: unchanged, signed-off reviews of its predictions, and labelled images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import Cancelled, ImageError, ReviewError
from MoBUncertaintyLib.base.json_input import is_number
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import KEPT
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.images.inputs import Input, list_inputs
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.output.review_export import DECIDED, RECORD, read_export
from MoBUncertaintyLib.regions.prediction import CancelledCallback, Progress, ProgressCallback
from MoBUncertaintyLib.review.refinement.evidence import Evidence

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.predictor import Predictor

IMAGES, LABELS = "images", "labels"  # names of the two folders in a folder of labelled cases


@dataclass(frozen=True)
class SiteCase:
    """A case whose truth a site knows: from a review or, of a labelled image, whole.

    Attributes:
        place: Folder of the review's export, or file of the image.
        evidence: Of each label, where the truth is known.
        deviations: From the model's ordinary cases (`Suitability`); none if it was not compared with any.
        volumes: Of each label by its name, in the order of `evidence`: what the prediction states, and the truth in ml.
        labelled: The labels were drawn without the model's segmentation.
    """

    place: Path
    image_sha256: str | None
    evidence: tuple[Evidence, ...]
    deviations: Mapping[str, float]
    volumes: Mapping[str, tuple[StatedVolume, float]]
    labelled: bool = False

    @property
    def what(self) -> str:
        """Name it in a sentence."""
        return f"The image {self.place}" if self.labelled else f"The review in {self.place}"


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


def counted(cases: Sequence[SiteCase]) -> str:
    """Say how many cases there are of each kind, such as `5 reviewed`."""
    labelled = sum(case.labelled for case in cases)
    counts = {"reviewed": len(cases) - labelled, "labelled": labelled}
    return " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)


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
    model = record.get("model")
    if not isinstance(model, dict) or model.get("digest") != digest:
        name = printable(str(model.get("name") if isinstance(model, dict) else None))[:100]
        raise ReviewError(f"The review in {folder} belongs to another model, {name}.")
    if not isinstance(record.get(DECIDED), dict) or not record[DECIDED]:
        raise ReviewError(f"The review in {folder} was exported by an older version; export it again.")
    try:
        evidence = tuple(map(Evidence.from_text, record[DECIDED].values()))
        volumes = {str(row["name"]): _volumes(row) for row in record["labels"]}
        if len(volumes) != len(evidence):
            raise ValueError("its labels are not those of the decided voxels")
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "its labels are invalid"
        raise ReviewError(f"The review in {folder} cannot be used: {reason}; export it again.") from error
    if not any(label.voxels for label in evidence):
        raise ReviewError(f"The review in {folder} decides no voxel, so it cannot be used; leave it out.")
    sha256 = record["ct"].get("sha256") if isinstance(record.get("ct"), dict) else None
    return SiteCase(folder, sha256 if isinstance(sha256, str) else None, evidence, _deviations(record), volumes)


def error_growth(evidence: Sequence[Evidence], temperature: float, keep_probability: bool = False) -> float:
    """Compute the logarithm of the factor by which a temperature changes the expected error of a case."""

    def expected(scaled_by: float) -> float:
        maps = ((one, one.moments(scaled_by, keep_probability)[0]) for one in evidence)
        return sum(float(one.counts.sum(axis=0) @ np.minimum(p, 1 - p)) for one, p in maps)

    before, after = expected(1.0), expected(temperature)
    return math.log(after / before) if before > 0 and after > 0 else 0.0


def _volumes(row: Mapping[str, Any]) -> tuple[StatedVolume, float]:
    numbers = [row[name] for name in ("predicted_ml", "expected_error_ml", "corrected_ml")]
    if not all(is_number(number) and 0 <= number < math.inf for number in numbers):
        raise ValueError("its volumes are invalid")
    predicted, error, corrected = map(float, numbers)
    return StatedVolume(predicted, error), corrected


def _deviations(record: Mapping[str, Any]) -> dict[str, float]:
    suitability = record.get("suitability")
    deviations = suitability.get("deviations") if isinstance(suitability, dict) else None
    if not isinstance(deviations, dict):
        return {}
    return {name: float(value) for name, value in deviations.items() if is_number(value) and value >= 0}


def holds_labels(folder: Path) -> bool:
    """Whether a folder is one of labelled cases, as `mob-training attach-head` takes it too."""
    return (folder / IMAGES).is_dir() and (folder / LABELS).is_dir()


def predicted_cases(
    folders: Iterable[Path], predictor: Predictor, progress: ProgressCallback, cancelled: CancelledCallback
) -> list[Callable[[], SiteCase]]:
    """Make what reads and predicts each labelled case, for `gather`; raises `ImageError` if a folder holds no image.

    Args:
        folders: Each holds `images/NAME` and `labels/NAME`, volume files; a model of several input channels takes
            `images/NAME_0000`, `images/NAME_0001` and so on.
        predictor: Of the model.
        progress: Called with the cases that are done (stage `cases`) and, within a case, with each step.
        cancelled: Asked between cases and tiles.
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
    truth_file = _label_map(folder, case)
    if case.problem:
        raise ImageError(f"The image {case.path} cannot be used: {case.problem}.")
    read = read_image(case.path, case.series)
    truth = _read_truth(truth_file, read.image, [label.value for label in predictor.labels])
    others = {
        name: read_image(path).image for name, path in zip(predictor.model.channels[1:], case.channels, strict=False)
    }
    prediction = predictor.predict(read.image, progress, cancelled, exact=True, channels=others)
    volumes, ml, suitability = prediction.stated_volumes, prediction.grid.voxel_mm3 / 1000, prediction.suitability
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


def _label_map(folder: Path, case: Input) -> Path:
    """Find the label map of a case."""
    paths = [path for suffix in VOLUME_SUFFIXES if (path := folder / LABELS / f"{case.name}{suffix}").is_file()]
    if not paths:
        raise ImageError(f"The image {case.path} has no label map {folder / LABELS / case.name}.nii.gz.")
    return paths[0]


def _read_truth(path: Path, image: sitk.Image, values: list[int]) -> np.ndarray:
    """Read a label map, (z, y, x)."""
    labels = read_image(path).image
    if not on_same_grid(labels, image):
        raise ImageError(f"The label map {path} has a different grid from its image.")
    truth: np.ndarray = sitk.GetArrayFromImage(labels)
    if not np.isin(truth, values).any():
        raise ImageError(f"The label map {path} has none of the model's labels ({', '.join(map(str, values))}).")
    return truth
