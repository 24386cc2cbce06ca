"""Labelled cases that a calibration is fitted to: each image is predicted, and its truth counted everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.calibration.cases import SiteCase
from MoBUncertaintyLib.errors import Cancelled, ImageError
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.images.inputs import Input, list_inputs
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES
from MoBUncertaintyLib.prediction import CancelledCallback, Prediction, Progress, ProgressCallback
from MoBUncertaintyLib.refinement.evidence import Evidence

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.predictor import Predictor

IMAGES, LABELS = "images", "labels"
"""Names of the two folders in a folder of labelled cases."""


def holds_labels(folder: Path) -> bool:
    """Whether a folder is one of labelled cases, as `mob-training attach-head` takes it too."""
    return (folder / IMAGES).is_dir() and (folder / LABELS).is_dir()


class LabelledCases:
    """Predicts labelled cases, and tells how far it is.

    Args:
        folders: Each holds `images/NAME` and `labels/NAME`, volume files; a model of several input channels takes
            `images/NAME_0000`, `images/NAME_0001` and so on.
        predictor: Of the model.
        progress: Called with the cases that are done (stage `cases`) and, within a case, with each step.
        cancelled: Asked between cases and tiles.

    Raises:
        ImageError: A folder holds no image.
    """

    def __init__(
        self,
        folders: list[Path],
        predictor: Predictor,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
    ) -> None:
        self._predictor = predictor
        self._progress, self._cancelled = progress or (lambda _: None), cancelled or (lambda: False)
        channels = len(predictor.model.channels)
        self._cases = [(folder, each) for folder in folders for each in list_inputs(folder / IMAGES, None, channels)]
        self._began = time.monotonic()

    def reads(self) -> list[Callable[[], SiteCase]]:
        """Make what reads and predicts each case, for `cases.gather`."""
        return [partial(self._read, number) for number in range(len(self._cases))]

    def _read(self, number: int) -> SiteCase:
        self._tell(number)
        try:
            return self._predicted(*self._cases[number])
        finally:
            self._tell(number + 1)

    def _predicted(self, folder: Path, case: Input) -> SiteCase:
        truth_file = _label_map(folder, case)
        if case.problem:
            raise ImageError(f"The image {case.path} cannot be used: {case.problem}.")
        read = read_image(case.path, case.series)
        truth = _read_truth(truth_file, read.image, [label.value for label in self._predictor.labels])
        others = dict(zip(self._predictor.model.channels[1:], map(_image, case.channels), strict=False))
        prediction = self._predictor.predict(read.image, self._progress, self._cancelled, exact=True, channels=others)
        return _compare(prediction, truth, case.path, read.sha256)

    def _tell(self, done: int) -> None:
        if self._cancelled():
            raise Cancelled("Cancelled between two cases.")
        total = len(self._cases)
        left = (time.monotonic() - self._began) / done * (total - done) if done else None
        self._progress(Progress("cases", done, total, left))


def _image(path: Path) -> sitk.Image:
    return read_image(path).image


def _label_map(folder: Path, case: Input) -> Path:
    """Find the label map of a case."""
    found = [path for suffix in VOLUME_SUFFIXES if (path := folder / LABELS / f"{case.name}{suffix}").is_file()]
    if not found:
        raise ImageError(f"The image {case.path} has no label map {folder / LABELS / case.name}.nii.gz.")
    return found[0]


def _read_truth(path: Path, image: sitk.Image, values: list[int]) -> np.ndarray:
    """Read a label map, (z, y, x)."""
    labels = read_image(path).image
    if not on_same_grid(labels, image):
        raise ImageError(f"The label map {path} lies on another grid than its image.")
    truth: np.ndarray = sitk.GetArrayFromImage(labels)
    if not np.isin(truth, values).any():
        raise ImageError(f"The label map {path} has none of the model's labels ({', '.join(map(str, values))}).")
    return truth


def _compare(prediction: Prediction, truth: np.ndarray, place: Path, sha256: str) -> SiteCase:
    stated, ml = prediction.stated_volumes(), prediction.grid.voxel_mm3 / 1000
    suitability = prediction.suitability
    return SiteCase(
        place,
        sha256,
        tuple(
            Evidence.of_truth(p, v, truth == label.value)
            for label, p, v in zip(prediction.labels, prediction.probability, prediction.variance, strict=True)
        ),
        dict(suitability.deviations) if suitability else {},
        {
            label.name: (stated[label.name], float(np.count_nonzero(truth == label.value)) * ml)
            for label in prediction.labels
        },
        labelled=True,
    )
