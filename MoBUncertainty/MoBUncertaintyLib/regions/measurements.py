"""Measure the labels of a prediction, and how the measurements vary over samples of its segmentation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from MoBUncertaintyLib.base.errors import Cancelled, SettingsError
from MoBUncertaintyLib.base.geometry import Box, Grid, hull, nested, occupied, shape_of
from MoBUncertaintyLib.measurements.conformal import short
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.measurements.measurement import Part, Wanted, read_wanted
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
class _DrawnPart(Part):
    """A part of a sample, whose values inside are collected without a search through its box."""

    collected: np.ndarray | None = None

    @property
    def inside(self) -> np.ndarray:
        """The values in the first label, (N,)."""
        return super().inside if self.collected is None else self.collected


@dataclass(frozen=True, eq=False)
class _Spot:
    """A label in a box: its mask as segmented, and where it changes from sample to sample."""

    mask: np.ndarray
    drawn: np.ndarray  # its mask in the latest sample
    bound: Box  # the part of the box where it can be
    voxels: np.ndarray  # of those that change, which can have the label
    at: np.ndarray  # where these are in the box, flat
    has: np.ndarray  # whether a value of the segmentation is the label's, (256,)

    @classmethod
    def of(cls, label: Label, prediction: Prediction, changing: ChangingVoxels, box: Box) -> _Spot:
        has = np.zeros(256, bool)
        has[list(label.values)] = True
        voxels = np.flatnonzero(has[changing.labels].any(axis=0))
        start = np.array([axis.start for axis in box])
        at = np.ravel_multi_index(tuple(changing.places[:, voxels] - start[:, None]), shape_of(box))
        mask = label.mask(prediction.segmentation[box])
        possible = mask.copy()
        possible.reshape(-1)[at] = True
        return cls(mask, mask.copy(), occupied(possible), voxels, at, has)

    def draw(self, labels: np.ndarray) -> np.ndarray:
        """Turn the mask into that of a sample; return which of the voxels that change have the label."""
        chosen: np.ndarray = self.has[labels[self.voxels]]
        self.drawn.reshape(-1)[self.at] = chosen
        return chosen


@dataclass(frozen=True, eq=False)
class _Place:
    """Where some labels are measured: the box of all voxels that can have one."""

    grid: Grid
    spots: Sequence[_Spot]
    values: Mapping[str, np.ndarray]  # in the box
    fixed: Mapping[str, np.ndarray]  # inside the first label, where it does not change
    moving: Mapping[str, np.ndarray]  # where it may

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        labels: Sequence[Label],
        changing: ChangingVoxels,
        values: Mapping[str, np.ndarray],
    ) -> _Place:
        segmented, boxes = prediction.segmented_box, []
        for label in labels:
            boxes.append(nested(segmented, occupied(label.mask(prediction.segmentation[segmented]))))
            places = changing.places[:, np.isin(changing.labels, label.values).any(axis=0)]
            if places.size:
                boxes.append(tuple(map(slice, places.min(axis=1).tolist(), (places.max(axis=1) + 1).tolist())))
        box = hull(boxes)
        grid = replace(prediction.grid, origin=prediction.grid.to_ras(np.array([axis.start for axis in box])))
        spots = [_Spot.of(label, prediction, changing, box) for label in labels]
        inner = spots[0].mask.copy()
        inner.reshape(-1)[spots[0].at] = False
        own = {kind: array[box] for kind, array in values.items()}
        fixed = {kind: array[inner] for kind, array in own.items()}
        moving = {kind: array[np.unravel_index(spots[0].at, array.shape)] for kind, array in own.items()}
        return cls(grid, spots, own, fixed, moving)

    def parts(self, drawn: np.ndarray | None) -> dict[str | None, Part]:
        """Make what is measured of a sample, or else of the segmentation: without values, and with those of a kind."""
        bounds = [spot.bound for spot in self.spots]
        if drawn is None:
            masks = [spot.mask for spot in self.spots]
            return {None: Part(masks, self.grid, bounds=bounds)} | {
                kind: Part(masks, self.grid, array, bounds) for kind, array in self.values.items()
            }
        chosen, *_ = [spot.draw(drawn) for spot in self.spots]
        masks = [spot.drawn for spot in self.spots]
        parts: dict[str | None, Part] = {None: Part(masks, self.grid, bounds=bounds)}
        for kind, array in self.values.items():
            inside = np.concatenate([self.fixed[kind], self.moving[kind][chosen]])
            parts[kind] = _DrawnPart(masks, self.grid, array, bounds, inside)
        return parts


@dataclass(frozen=True, eq=False)
class _Sampling:
    """What is measured of a prediction, and the voxels of it that change from sample to sample."""

    asked: Sequence[Wanted]
    voxels: ChangingVoxels
    places: Mapping[tuple[str, ...], _Place]

    @classmethod
    def of(cls, prediction: Prediction, wanted: Sequence[str], values: Mapping[str, np.ndarray] | None) -> _Sampling:
        by_name, values = {label.name: label for label in prediction.labels}, values or {}
        asked = read_wanted(wanted, list(by_name), values)
        voxels = ChangingVoxels.of(prediction, [by_name[name] for one in asked for name in one.labels])
        places = {}
        for names in dict.fromkeys(one.labels for one in asked):
            kinds = {one.measurement.of for one in asked if one.labels == names}
            own = {kind: array for kind, array in values.items() if kind in kinds}
            places[names] = _Place.of(prediction, [by_name[name] for name in names], voxels, own)
        return cls(asked, voxels, places)

    def compute(self, drawn: np.ndarray | None = None) -> list[float]:
        """Measure a sample; default: the segmentation."""
        parts = {names: place.parts(drawn) for names, place in self.places.items()}
        return [one.measure(parts[one.labels][one.measurement.of]) for one in self.asked]

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
    region. Arguments and errors as for `measure`; raises `SettingsError` of a segmentation that others have drawn, too.
    """
    if prediction.checked:
        raise SettingsError(
            "Regions of a drawn segmentation are ranked by how improbable they are; leave out what else to rank by."
        )
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
