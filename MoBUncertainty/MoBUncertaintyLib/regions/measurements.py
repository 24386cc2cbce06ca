"""Measure the labels of a prediction, and how the measurements vary over samples of its segmentation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.base.geometry import Box, Grid, hull, nested, occupied
from MoBUncertaintyLib.measurements.conformal import short
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.measurements.measurement import Wanted, read_wanted
from MoBUncertaintyLib.measurements.volumes import VolumeBounds
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.regions.prediction import (
    CancelledCallback,
    Prediction,
    Progress,
    ProgressCallback,
    predicted_intervals,
)
from MoBUncertaintyLib.regions.region import Effect, Regions
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


@dataclass(frozen=True, eq=False)
class _Sampling:
    """What is measured of a prediction, and the voxels of it that change from sample to sample."""

    asked: Sequence[Wanted]
    voxels: ChangingVoxels
    places: Mapping[tuple[str, ...], _Place]
    values: Mapping[tuple[str, ...], Mapping[str, np.ndarray]]

    @classmethod
    def of(cls, prediction: Prediction, wanted: Sequence[str], values: Mapping[str, np.ndarray] | None) -> _Sampling:
        by_name, values = {label.name: label for label in prediction.labels}, values or {}
        asked = read_wanted(wanted, list(by_name), values)
        voxels = ChangingVoxels.of(prediction, [by_name[name] for one in asked for name in one.labels])
        places = {
            names: _Place.of(prediction, [by_name[name] for name in names], voxels)
            for names in dict.fromkeys(one.labels for one in asked)
        }
        cut = {names: {kind: array[place.box] for kind, array in values.items()} for names, place in places.items()}
        return cls(asked, voxels, places, cut)

    def compute(self, drawn: np.ndarray | None = None) -> list[float]:
        """Measure a sample; default: the segmentation."""
        masks = {names: place.masks if drawn is None else place.sampled(drawn) for names, place in self.places.items()}
        return [
            one.compute(masks[one.labels], self.places[one.labels].grid, self.values[one.labels]) for one in self.asked
        ]

    def samples(
        self, count: int, progress: ProgressCallback | None, cancelled: CancelledCallback | None
    ) -> Iterator[np.ndarray]:
        """Draw so many samples; arguments and errors as for `measure`."""
        start = time.monotonic()
        for number, drawn in enumerate(self.voxels.samples(count), start=1):
            if cancelled and cancelled():
                raise Cancelled("Cancelled while measuring.")
            yield drawn
            if progress:
                left = (time.monotonic() - start) / number * (count - number)
                progress(Progress("measure", number, count, left))


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
    sampling = _Sampling.of(prediction, wanted, values)
    count = samples if wanted and not prediction.checked else 0
    rows = [sampling.compute(drawn) for drawn in sampling.samples(count, progress, cancelled)]
    numbers = np.array(rows, float).reshape(count, len(sampling.asked)).T
    volumes = predicted_intervals(prediction)
    return tuple(
        _measured(*each, prediction.volume_bounds, volumes)
        for each in zip(sampling.asked, sampling.compute(), numbers, strict=True)
    )


def _measured(
    one: Wanted, value: float, numbers: np.ndarray, calibrated: VolumeBounds | None, volumes: Mapping[str, Interval]
) -> Measured:
    """Make a measurement with the interval that was calibrated for it or, of a volume, with the volume's own."""
    result = Measured.of(one.text, one.measurement.unit, value, numbers)
    if bounds := calibrated and calibrated.measurements.get(one.text):
        return replace(result, interval=result.promised(bounds, one.measurement.least, one.measurement.most))
    kind, name = one.text.split(":")[:2]
    return replace(result, interval=volumes.get(name)) if kind == "volume" else result


def effects(
    prediction: Prediction,
    regions: Regions,
    wanted: str,
    values: Mapping[str, np.ndarray] | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
) -> dict[int, Effect]:
    """Estimate what resolving each region does to a measurement, by the regions' numbers.

    That is the part of its variance over samples that goes away if each sample has the segmentation's labels in the
    region. Arguments and errors as for `measure`.
    """
    sampling = _Sampling.of(prediction, [wanted], values)
    segmented, where = sampling.voxels.labels[0], regions.whole_map()[tuple(sampling.voxels.places)]
    numbers = [region.number for region in regions.ranked]
    rows = []
    for drawn in sampling.samples(SAMPLES, progress, cancelled):
        row = dict.fromkeys((0, *numbers), sampling.compute(drawn)[0])
        for number in row.keys() & set(where[drawn != segmented].tolist()) - {0}:
            row[number] = sampling.compute(np.where(where == number, segmented, drawn))[0]
        rows.append([*row.values()])
    defined = np.array(rows)[np.isfinite(rows).all(axis=1)]
    now, *left = defined.var(axis=0).tolist() if len(defined) else [0.0] * (1 + len(numbers))
    fractions = [short(1 - variance / now) if now else 0.0 for variance in left]
    return {n: Effect(sampling.asked[0].text, fraction) for n, fraction in zip(numbers, fractions, strict=True)}
