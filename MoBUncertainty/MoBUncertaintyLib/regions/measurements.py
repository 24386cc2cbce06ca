"""Measure the labels of a prediction, and how the measurements vary over samples of its segmentation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.base.geometry import Box, Grid, hull, nested, occupied
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.measurement import Wanted, read_wanted
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.regions.prediction import CancelledCallback, Prediction, Progress, ProgressCallback
from MoBUncertaintyLib.regions.samples import ChangingVoxels

SAMPLES = 200


@dataclass(frozen=True, eq=False)
class _Place:
    """Where some labels are measured: the box of all voxels that can have one, and their masks in it as segmented."""

    labels: Sequence[Label]
    box: Box
    grid: Grid
    masks: Sequence[np.ndarray]
    changing: Sequence[np.ndarray]  # of the voxels that change, those that can have each label
    at: Sequence[tuple[np.ndarray, ...]]  # where these are in the box

    @classmethod
    def of(cls, prediction: Prediction, labels: Sequence[Label], voxels: ChangingVoxels) -> _Place:
        segmented, boxes, changing = prediction.segmented_box, [], []
        for label in labels:
            boxes.append(nested(segmented, occupied(label.mask(prediction.segmentation[segmented]))))
            changing.append(np.flatnonzero(np.isin(voxels.labels, label.values).any(axis=0)))
            places = voxels.places[:, changing[-1]]
            if places.size:
                boxes.append(tuple(map(slice, places.min(axis=1).tolist(), (places.max(axis=1) + 1).tolist())))
        box = hull(boxes)
        start = np.array([axis.start for axis in box])
        grid = replace(prediction.grid, origin=prediction.grid.to_ras(start))
        masks = [label.mask(prediction.segmentation[box]) for label in labels]
        at = [tuple(voxels.places[:, own] - start[:, None]) for own in changing]
        return cls(labels, box, grid, masks, changing, at)

    def sampled(self, drawn: np.ndarray) -> list[np.ndarray]:
        """Make the masks of a sample, by the labels of the voxels that change."""
        masks = [mask.copy() for mask in self.masks]
        for label, mask, own, at in zip(self.labels, masks, self.changing, self.at, strict=True):
            mask[at] = np.isin(drawn[own], label.values)
        return masks


def measure(
    prediction: Prediction,
    wanted: Sequence[str],
    values: Mapping[str, np.ndarray] | None = None,
    samples: int = SAMPLES,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
) -> tuple[Measured, ...]:
    """Measure labels of the segmentation, and of samples of it.

    Args:
        prediction: As predicted, or as a reader has left it (`review.outcome.decided_prediction`). A segmentation that
            others have drawn is measured without samples.
        wanted: What is measured, such as `volume:Parotid_L` or `distance:Tumour:Aorta`.
        values: The `image` and the `dose`, in Gy, where a measurement needs them; (z, y, x) on the prediction's grid.
        samples: How many.
        progress: Called after each sample.
        cancelled: Asked before each sample.

    Returns:
        Each measurement once, in the order of `wanted`, with an interval where the model's card has one of calibration
        cases, and the case is like these.

    Raises:
        SettingsError: There is no such measurement or label, or an image or dose is lacking.
        Cancelled: `cancelled` said so.

    Example:
        >>> from MoBUncertaintyLib import find_model, load_model, measure, predict, read_image
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> image = read_image(RESOURCES / "SampleData" / "HeadNeckCT.nii.gz").image
        >>> prediction = predict(image, load_model(find_model("HeadNeckOrgans")))
        >>> volume, diameter = measure(prediction, ["volume:Parotid_L", "diameter:Parotid_L"])
        >>> volume.unit, len(volume.samples), volume.quantile(0.05) < volume.value < volume.quantile(0.95)
        ('ml', 200, True)
    """
    by_name = {label.name: label for label in prediction.labels}
    asked = read_wanted(wanted, list(by_name), values or ())
    voxels = ChangingVoxels.of(prediction, [by_name[name] for one in asked for name in one.labels])
    places = {
        names: _Place.of(prediction, [by_name[name] for name in names], voxels)
        for names in dict.fromkeys(one.labels for one in asked)
    }
    cut = {names: {kind: array[place.box] for kind, array in (values or {}).items()} for names, place in places.items()}

    def computed(masks: Mapping[tuple[str, ...], Sequence[np.ndarray]]) -> list[float]:
        return [one.compute(masks[one.labels], places[one.labels].grid, cut[one.labels]) for one in asked]

    stated, rows = computed({names: place.masks for names, place in places.items()}), []
    count, start = 0 if prediction.checked else samples, time.monotonic()
    for number, drawn in enumerate(voxels.samples(count), start=1):
        if cancelled and cancelled():
            raise Cancelled("Cancelled while measuring.")
        rows.append(computed({names: place.sampled(drawn) for names, place in places.items()}))
        if progress:
            left = (time.monotonic() - start) / number * (count - number)
            progress(Progress("measure", number, count, left))
    numbers = np.array(rows, float).reshape(-1, len(asked)).T
    return tuple(_measured(*each, prediction) for each in zip(asked, stated, numbers, strict=True))


def _measured(one: Wanted, stated: float, numbers: np.ndarray, prediction: Prediction) -> Measured:
    result = Measured.of(one.text, one.measurement.unit, stated, numbers)
    bounds = prediction.volume_bounds.measurements.get(one.text) if prediction.volume_bounds else None
    return (
        replace(result, interval=result.promised(bounds, one.measurement.least, one.measurement.most))
        if bounds
        else result
    )
