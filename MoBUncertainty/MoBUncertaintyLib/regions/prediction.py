"""A prediction, and how it is made: values that need no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.geometry import Bounds, Box, Grid, hull, intersection, occupied, whole
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.drawn import Agreement, DrawnBounds
from MoBUncertaintyLib.measurements.interval import Interval, LabelVolume
from MoBUncertaintyLib.measurements.volumes import StatedVolume, VolumeBounds
from MoBUncertaintyLib.model.card import Fold, Label
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.fingerprint import Level, Measures, Suitability
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.findings import Checked
from MoBUncertaintyLib.regions.measure import error_in

if TYPE_CHECKING:
    import SimpleITK as sitk

MAX_SAMPLES = 10_000  # of Monte Carlo: at that many the standard error of a probability is 0.005 at most

Maps = np.ndarray | Sequence[np.ndarray]
"""One float32 map (z, y, x) for each label: an array (C - 1, z, y, x), or the maps one by one where each lies in memory
of its own, as those of files and of Slicer's volumes do."""


class Tiling(StrEnum):
    """Which tiles are predicted."""

    FULL = "full"  # a grid of overlapping tiles, as nnU-Net does
    ADAPTIVE = "adaptive"  # the fewest that cover the volume, then more that are centred on what is found


class EngineName(StrEnum):
    """What runs the network."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Number format of the backbone; heads and moments are always fp32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class PredictionSettings:
    """How to predict; raises `SettingsError` for a value out of range.

    The tiling `full` predicts a grid of tiles; `adaptive` covers the image with few, and places more so that what is
    found lies in the middle of a tile: in the fraction 1 - overlap of it, along each axis. Only the labels that are
    wanted take memory and are written; the segmentation has them where they are the most probable of all classes.
    """

    samples: int | None = None  # K for Monte Carlo; default: a closed form, and K = 30 where there is none
    seed: int = 0
    overlap: float = 0.5  # fraction of a tile that its neighbour covers too; nnU-Net's tile_step_size is 1 - overlap
    tiling: str = "adaptive"
    mirror: bool = False  # average over mirrored tiles; only for models that were trained with mirroring
    device: str = "auto"  # CUDA, then MPS, then CPU; or cuda, cuda:1, mps, xpu (Intel's GPU, by OpenVINO), cpu
    engine: str = "auto"  # on a CPU OpenVINO where it is installed, else PyTorch
    precision: str = "auto"
    folds: tuple[Fold, ...] | None = None  # to average; default: all
    region_of_interest: Bounds | None = None  # results are wanted there only, and are 0 elsewhere
    body_box: bool = True  # process a CT's body only; results are 0 outside
    labels: tuple[str, ...] | None = None  # names of those that are wanted; default: all
    force: bool = False  # predict an image of another modality than the model takes, too; its result is not usable

    def __post_init__(self) -> None:
        if self.samples is not None and not 1 <= self.samples <= MAX_SAMPLES:
            raise SettingsError(f"Monte Carlo takes 1 to {MAX_SAMPLES} samples, not {self.samples}.")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"The seed must be a whole number from 0 to 2^63 - 1, not {self.seed}.")
        if not 0 <= self.overlap <= 0.9:
            raise SettingsError(f"The overlap of tiles must be from 0 to 0.9, not {self.overlap:g}.")
        for name, choices in (("tiling", Tiling), ("engine", EngineName), ("precision", Precision)):
            if (value := getattr(self, name)) not in set(choices):
                raise SettingsError(f"The {name} must be one of {', '.join(choices)}, not {value!r}.")
        if self.region_of_interest is not None and len(self.region_of_interest) != 6:
            raise SettingsError("The region of interest must be six numbers in mm: R, A and S, each from and to.")
        if self.labels is not None and not self.labels:
            raise SettingsError("The list of labels is empty; name at least one, or leave it out to get all.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PredictionSettings:
        """Read what JSON made of `dataclasses.asdict`; raises `SettingsError` or `ValueError`."""
        return from_json(cls, values)


@dataclass(frozen=True)
class Progress:
    """How far a command is: `done` of `total` steps of a stage, such as the tiles of `network`.

    The total is 0, and the estimated `seconds_left` None, where nothing is known yet.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None


ProgressCallback = Callable[[Progress], None]
CancelledCallback = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The segmentation of an image, and how certain it is, voxel by voxel of that image.

    The labels may be some of the model's; then 0 in the segmentation is everything else, and what is computed from the
    maps takes everything else as one class. Raises `ImageError` if the maps are not one for each label, or not of the
    segmentation's shape.
    """

    segmentation: np.ndarray  # (z, y, x) uint8, the value of each voxel's most probable label; 0 is background
    probability: Maps  # E[p] of each label, in the order of `labels`
    variance: Maps  # Var[p], likewise
    grid: Grid
    labels: tuple[Label, ...]  # what the values of the segmentation stand for
    provenance: dict[str, Any] = field(default_factory=dict)  # what made it, ready for JSON
    warnings: list[str] = field(default_factory=list)  # what the user should know, one sentence each
    timings: dict[str, float] = field(default_factory=dict)  # seconds of each stage
    click_settings: ClickSettings = field(default_factory=ClickSettings)  # how a reader's click changes it
    measures: Measures | None = None  # by which it is compared with ordinary cases, unless it was read from a file
    overlapping: bool = False  # the labels overlap: the probability of one includes that of others
    rival: np.ndarray | None = None  # E[p] of the most probable other class, (z, y, x) float32, if asked for
    predicted_part: Box | None = None  # of the image; default: all of it
    covariance: Covariance | None = None  # of the model, if known
    correlation_mm: tuple[float, float, float] | None = None  # of local noise, along the array's axes
    shared_fraction: float = 0.0  # of the variance of local noise, that all voxels share
    one_piece: tuple[str, ...] = ()  # names of the labels that are of one piece, in samples too
    network_mm: tuple[float, float, float] | None = None  # the network's voxels, along the array's axes
    region_settings: RegionSettings = field(default_factory=RegionSettings)  # by which regions are, or were found
    suitability: Suitability | None = None  # whether the model suits the case, if that was looked at
    stated_bounds: VolumeBounds | None = None  # how intervals of volumes are made, of a model with calibration cases
    network_volumes: Mapping[str, StatedVolume] = field(default_factory=dict)  # in the network's voxels, if known
    checked: Checked | None = None  # the segmentation is this one, drawn by others; the maps are the model's
    second: np.ndarray | None = None  # label map of `checked.second`, while the two are compared
    agreement: Mapping[str, Agreement] = field(default_factory=dict)  # of each label with the truth, as expected
    measured: tuple[Measured, ...] = ()  # what was wanted to know of its labels beside their volumes

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.probability) == len(self.variance):
            raise ImageError("Probability and variance must have one map for each label; predict again.")
        if any(one.shape != self.segmentation.shape for maps in (self.probability, self.variance) for one in maps):
            raise ImageError("Probability, variance and segmentation differ in their number of voxels; predict again.")

    def __repr__(self) -> str:
        size, labels = " x ".join(map(str, self.shape)), ", ".join(label.name for label in self.labels)
        case = f", {self.suitability.level.value} case" if self.suitability else ""
        return f"<Prediction of {labels}: {size} voxels{case}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the image's array, (z, y, x)."""
        return self.segmentation.shape

    @property
    def processed_box(self) -> Box:
        """The part of the image that was predicted; outside of it all maps are 0."""
        everything = whole(self.shape)
        return intersection(self.predicted_part, everything) or hull(()) if self.predicted_part else everything

    @cached_property
    def segmented_box(self) -> Box:
        """The part of the image where a label is segmented, a hundredth of a CT; one voxel if none is."""
        return occupied(self.segmentation)

    @property
    def has_variance(self) -> bool:
        """Whether the model has a predictive variance: without a covariance there is but the disagreement of tiles."""
        return self.covariance is not Covariance.DETERMINISTIC

    @property
    def region_kind(self) -> str:
        """What its regions are: doubtful or, of a segmentation that is checked, improbable or differing."""
        if not self.checked:
            return "doubtful"
        return "differing" if self.checked.second else "improbable"

    def annotated(self, **changes: Any) -> Prediction:
        """Return it with other fields (`provenance` is added to) that say nothing of its voxels; keep its sums."""
        provenance = self.provenance | changes.pop("provenance", {})
        result = replace(self, provenance=provenance, **changes)
        names = {field.name for field in fields(self)}
        vars(result).update({name: value for name, value in vars(self).items() if name not in names})
        return result

    def with_click_length(self) -> Prediction:
        """Return it with a length of clicks by the size of its labels, where neither card nor model has one."""
        if self.correlation_mm is not None:
            return self
        return self.annotated(click_settings=self.click_settings.sized(self.volumes_ml().values()))

    def exclusive(self) -> Prediction:
        """Return it with the probability of each value of the segmentation, where the maps are of overlapping labels.

        With labels one within the other, as tumour and enhancing tumour, that of the outer value is what its label is
        more probable than those within it; the variance is that of the label. Together they are the probability of any.
        """
        if not self.overlapping:
            return self
        probability = np.array([np.asarray(volume) for volume in self.probability], np.float32)
        inner = np.zeros_like(probability[0])
        for p in probability[::-1]:  # the later labels lie within
            inner, p[:] = np.maximum(inner, p), np.maximum(p - inner, 0)
        return replace(self, probability=probability, overlapping=False)

    @property
    def volume_bounds(self) -> VolumeBounds | None:
        """How intervals of its volumes are made; None where nothing is promised: to unlike cases, and of drawings."""
        return None if self.checked else self.bounds

    @property
    def bounds(self) -> VolumeBounds | None:
        """What calibration cases promise; None to cases that are unlike them."""
        unlike = self.suitability is not None and self.suitability.level is not Level.ORDINARY
        return None if unlike else self.stated_bounds

    def volumes_ml(self) -> dict[str, float]:
        """Measure the segmented volume of each label, by its name."""
        segmented = self.segmentation[self.segmented_box]
        voxels = np.sum([np.bincount(plane.ravel(), minlength=256) for plane in segmented], axis=0)  # of all labels
        unit = self.grid.voxel_mm3 / 1000
        return {label.name: unit * int(voxels[list(label.values)].sum()) for label in self.labels}

    def volumes(self) -> dict[str, LabelVolume]:
        """Measure the volume of each label, by its name, with its interval where one can be stated."""
        intervals = predicted_intervals(self)
        return {name: LabelVolume(ml, intervals.get(name)) for name, ml in self.volumes_ml().items()}

    def to_sitk(self) -> sitk.Image:
        """Make an image of the segmentation."""
        from MoBUncertaintyLib.images.grid import image_on

        return image_on(self.grid, self.segmentation)

    @cached_property
    def expected_error_mm3(self) -> float:
        """The volume expected to be labelled wrongly, background included: 1 - p of the label of each voxel, summed."""
        if self.overlapping:
            return self.exclusive().expected_error_mm3
        if self.checked:
            slices, *plane = hull([self.processed_box, self.segmented_box])
            layers = ((slice(z, z + 1), *plane) for z in range(slices.start, slices.stop))
            return self.grid.voxel_mm3 * sum(float(error_in(layer, self).sum(dtype=float)) for layer in layers)
        total, processed = 0.0, [p_map[self.processed_box] for p_map in self.probability]
        best = np.empty(processed[0].shape[1:], np.float32)
        for planes in zip(*processed, strict=True):  # slice by slice in one array: a CT's volume takes 0.3 GB
            np.subtract(1, sum(planes[1:], planes[0]), out=best)
            for p in planes:
                np.maximum(best, p, out=best)
            total += float(np.subtract(1, best, out=best).sum(dtype=float))
        return self.grid.voxel_mm3 * total

    @cached_property
    def stated_volumes(self) -> dict[str, StatedVolume]:
        """The volume of each label, and what of it is expected to be labelled wrongly or missing, by its name.

        With p the label's probability, a voxel is wrong about it with the probability 1 - p where the segmentation has
        the label, and p elsewhere. With one label the integral of that is `expected_error_mm3`.
        """
        volumes = self.volumes_ml()
        if len(self.labels) == 1:
            return {name: StatedVolume(volume, self.expected_error_mm3 / 1000) for name, volume in volumes.items()}
        box, unit = self.processed_box, self.grid.voxel_mm3 / 1000
        stated_volumes = {}
        for label in self.labels:
            maps = [self.probability[n][box] for n in channels_of(self, label)]
            planes = zip(self.segmentation[box], *maps, strict=True)
            wrong = (np.abs(label.mask(plane) - sum(p[1:], p[0])).sum(dtype=float) for plane, *p in planes)
            stated_volumes[label.name] = StatedVolume(volumes[label.name], unit * sum(map(float, wrong)))
        return stated_volumes

    def compared(self, stated: Mapping[str, StatedVolume]) -> dict[str, StatedVolume]:
        """Compute what is stated of labels, before or within a review, in the network's voxels, to compare cases.

        Interpolation changes volume and error. What a review adds counts as it is; of the error it leaves a fraction.
        """
        compared = dict(stated)
        for name in stated.keys() & self.network_volumes.keys():
            network, before, now = self.network_volumes[name], self.stated_volumes[name], stated[name]
            ml = max(network.ml + (now.ml - before.ml), 0.0) if now.ml else 0.0
            compared[name] = StatedVolume(ml, network.error_ml * (now.error_ml / max(before.error_ml, 1e-9)))
        return compared


def channels_of(prediction: Prediction, label: Label) -> list[int]:
    """List the maps of a prediction whose sum is the probability of a label, by their places among all."""
    places = {other.value: place for place, other in enumerate(prediction.labels)}
    values = (label.value,) if prediction.overlapping else label.values
    return [places[value] for value in values if value in places]


def drawn_bounds(prediction: Prediction, label: Label) -> DrawnBounds | None:
    """Return what calibration cases say of drawn segmentations of a label; None without them."""
    bounds = prediction.bounds
    return bounds.labels[label.name].drawn if bounds and label.name in bounds.labels else None


def predicted_intervals(prediction: Prediction) -> dict[str, Interval]:
    """Compute the interval of each label's volume, by its name, where one can be stated."""
    bounds = prediction.volume_bounds
    return bounds.intervals(prediction.compared(prediction.stated_volumes)) if bounds else {}
