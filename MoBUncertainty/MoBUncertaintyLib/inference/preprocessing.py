"""Prepare the network's input from an image, and map results back: orientation, box, intensities, spacing.

The steps are nnU-Net's (`DefaultPreprocessor.run_case_npy`), in its order, with two additions. The image is
reoriented as the model's training images were (nnU-Net takes the axes as they are stored), and a CT is cropped to the
body, or to a region of interest with the context that the network needs.

Orientation, mirroring and nnU-Net's transposition are one signed permutation of the axes, which is a view in numpy:
nothing is copied or resampled, and results are written back through the same view of an empty volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.geometry import (
    LPS_TO_RAS,
    Bounds,
    Box,
    Grid,
    bounding_box,
    intersection,
    shadows,
    shape_of,
    whole,
    widened,
    within,
)
from MoBUncertaintyLib.images.modality import HOUNSFIELD_BELOW
from MoBUncertaintyLib.inference.resampling import Resampling, planes
from MoBUncertaintyLib.model.nnunet.dataset import label_values
from MoBUncertaintyLib.model.nnunet.plans import intensities, resolve

BODY_HU = -500.0
BODY_MARGIN_MM = 10.0
# The body is searched on a coarse grid, since a CT has 10^8 voxels and its box need not be exact.
BODY_GRID_MM = 4.0
# Components of at least this fraction of the largest belong to the patient: the second leg does, the table does not.
BODY_FRACTION = 0.25
# Normalisations of each voxel alone, which give the same values on a part of an image as on all of it.
POINTWISE = {"CTNormalization", "NoNormalization"}
# 4 GB per fp32 volume: beyond it the header's spacing is wrong, or the machine too small.
MAX_VOXELS = 10**9


@dataclass(frozen=True)
class Frame:
    """How the network's three axes lie in a stored volume.

    Attributes:
        image: The image.
        axes: For each network axis the stored array's axis (0, 1, 2 = z, y, x) that it runs along.
        flips: Whether it runs in the opposite direction.
    """

    image: sitk.Image
    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def of(cls, image: sitk.Image, orientation: str | None, transpose: Sequence[int] = (0, 1, 2)) -> Frame:
        """Make the frame of a model from the orientation of its training images and nnU-Net's transposition.

        Args:
            image: 3D image.
            orientation: Directions of the training images' axes, as `sitk.DICOMOrient` names them ("RAS": x to the
                right, y to anterior, z to superior); None takes the axes as they are stored. An oblique axis counts
                as the closest anatomical one.
            transpose: nnU-Net's `transpose_forward`.
        """
        permutation = np.eye(3)
        if orientation is not None:
            probe = sitk.Image([1, 1, 1], sitk.sitkUInt8)
            probe.SetDirection(image.GetDirection())
            oriented = sitk.DICOMOrient(probe, orientation)
            before, after = (np.reshape(one.GetDirection(), (3, 3)) for one in (probe, oriented))
            permutation = np.rint(np.linalg.solve(before, after))
        # SimpleITK's axes are x, y, z; those of its arrays, which nnU-Net transposes, are z, y, x.
        columns = [permutation[:, 2 - axis] for axis in transpose]
        axes = tuple(2 - int(np.abs(column).argmax()) for column in columns)
        return cls(image, axes, tuple(bool(column.sum() < 0) for column in columns))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the network's axes."""
        return tuple(self.image.GetSize()[2 - axis] for axis in self.axes)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing along the network's axes, mm."""
        return tuple(self.image.GetSpacing()[2 - axis] for axis in self.axes)

    def view(self, volume: np.ndarray) -> np.ndarray:
        """View a stored volume (z, y, x) in the network's axes; writing to the view writes to the volume."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return volume.transpose(self.axes)[steps]

    def stored(self, box: Box) -> Box:
        """Express a box, given in the network's axes, in those of the stored volume."""
        parts = [slice(0, 0)] * 3
        for part, axis, flip, size in zip(box, self.axes, self.flips, self.shape, strict=True):
            parts[axis] = slice(size - part.stop, size - part.start) if flip else part
        return tuple(parts)

    def along_stored(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Put numbers, one for each of the network's axes, in the order of the stored volume's."""
        z, y, x = (values[self.axes.index(axis)] for axis in range(3))
        return z, y, x

    def box(self, bounds: Bounds) -> Box:
        """Find the box of voxels with centres within (R min, R max, A min, A max, S min, S max), RAS mm.

        In an oblique image it is the bounding box of these voxels.

        Raises:
            SettingsError: The bounds are not in order, or lie outside the image.
        """
        low, high = np.reshape(bounds, (3, 2)).T
        if not (np.isfinite(bounds).all() and (low < high).all()):
            raise SettingsError("The region of interest must be six numbers in mm, each minimum below its maximum.")
        corners = np.stack(np.meshgrid(*np.reshape(bounds, (3, 2)), indexing="ij"), axis=-1).reshape(-1, 3)
        lps = corners * LPS_TO_RAS
        indices = np.array([self.image.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in lps])
        along = [indices[:, 2 - axis] for axis in self.axes]
        seen = [n - 1 - i if flip else i for i, n, flip in zip(along, self.shape, self.flips, strict=True)]
        box = []
        for i, size in zip(seen, self.shape, strict=True):
            start, stop = math.ceil(i.min() - 1e-6), math.floor(i.max() + 1e-6) + 1
            if start >= stop:  # thinner than a voxel
                start, stop = round(i.mean()), round(i.mean()) + 1
            start, stop = max(start, 0), min(stop, size)
            if start >= stop:
                raise SettingsError("The region of interest lies outside the image; move it onto the image.")
            box.append(slice(start, stop))
        return tuple(box)


@dataclass(frozen=True, eq=False)
class Case:
    """An image as the network sees it, with the way back to the image's own grid.

    Attributes:
        data: (C_in, *S) float32, normalised and resampled, in the network's axes.
        frame: How those axes lie in the image.
        box: Part of the image (in the network's axes, at the image's spacing) that `data` covers.
        target: Part of the image for which results are wanted; lies within `box`.
        warnings: What the user should know.
    """

    data: np.ndarray
    frame: Frame
    box: Box
    target: Box
    warnings: list[str] = field(default_factory=list)

    @property
    def grid(self) -> Grid:
        """The spacing of the voxels of `data`; its axes are the network's, and begin anywhere."""
        sizes = zip(self.frame.spacing, shape_of(self.box), self.data.shape[1:], strict=True)
        return Grid(np.array([step * size / new for step, size, new in sizes]), np.eye(3), np.zeros(3))

    @property
    def inner(self) -> Box:
        """The part of `data` whose voxels have their middle in `target`; one voxel at least along each axis."""
        box = []
        for part, size, new in zip(within(self.target, self.box), shape_of(self.box), self.data.shape[1:], strict=True):
            start, stop = (math.ceil(end * new / size - 0.5) for end in (part.start, part.stop))
            start = min(start, new - 1)
            box.append(slice(start, max(stop, start + 1)))
        return tuple(box)

    def planes(self, volumes: np.ndarray, part: Box | None = None) -> Iterator[np.ndarray]:
        """Resample results (C, *S) from the network's grid to planes of the image's grid, within `part` or `target`."""
        return planes(volumes, shape_of(self.box), within(part or self.target, self.box))

    def view(self, volume: np.ndarray, part: Box | None = None) -> np.ndarray:
        """View `part` or `target` of a volume of the image, (z, y, x), in the network's axes; it can be written to."""
        return self.frame.view(volume)[part or self.target]


class Preprocessor:
    """nnU-Net's preprocessing as its plans describe it, for the images of one case.

    Args:
        plans: Content of `plans.json`, checked by `plans.check_plans`; it is not changed.
        dataset: Content of `dataset.json`.
        configuration: For example `3d_fullres`.
        orientation: Orientation of the training images, see `Frame.of`.
    """

    def __init__(
        self, plans: dict[str, Any], dataset: dict[str, Any], configuration: str, orientation: str | None
    ) -> None:
        self.orientation = orientation
        self._plans, planned = plans, resolve(plans, configuration)
        self._patch, self._spacing = tuple(planned["patch_size"]), tuple(planned["spacing"])
        self._schemes, self._masked = planned["normalization_schemes"], planned["use_mask_for_norm"]
        self._data, self._labels = (Resampling.of(planned, what) for what in ("data", "seg"))
        self._values = label_values(dataset)
        self.is_pointwise = set(self._schemes) <= POINTWISE
        self.is_ct = self.is_pointwise and dataset["channel_names"]["0"].lower() == "ct"

    def prepare(
        self,
        images: sitk.Image | Sequence[sitk.Image],
        region: Bounds | None = None,
        body_box: bool = True,
        first_stage: np.ndarray | None = None,
    ) -> Case:
        """Make the network's input from checked images (see `images.check_image`).

        Args:
            images: Scalar 3D image, or one for each input channel, all on the same grid.
            region: Region of interest, RAS mm, to which the results are limited. The network sees half a tile more
                on each side, and statistics of the whole image where the normalisation needs them.
            body_box: Crop a CT to the body. Otherwise, and for other images, crop to the non-zero voxels, as nnU-Net
                does.
            first_stage: Label map (z, y, x) of the image by the first stage of a cascade; each of its labels becomes a
                further channel, 1 where the label is, else 0.

        Raises:
            SettingsError: The region of interest does not fit the image.
            ImageError: At the model's spacing the image is too large.
        """
        images = [images] if isinstance(images, sitk.Image) else images
        frame = Frame.of(images[0], self.orientation, self._plans["transpose_forward"])
        volumes = [frame.view(sitk.GetArrayViewFromImage(image)) for image in images]
        outer, mask, warnings = self._outer_box(volumes, frame, body_box)
        box: Box | None = outer
        target: Box | None = outer
        if region is not None:
            wanted = frame.box(region)
            context = [
                math.ceil(n * s / 2 / t)
                for n, s, t in zip(self._patch, self.spacing(frame), frame.spacing, strict=True)
            ]
            if intersection(wanted, outer) is None:
                if mask is not None:
                    beyond = [(side.start, n - side.stop) for side, n in zip(outer, frame.shape, strict=True)]
                    mask = np.pad(mask, beyond)
                outer = whole(frame.shape)
                warnings = [*warnings, "The region of interest contains only air or background; move it."]
            target = intersection(wanted, outer)
            box = intersection(widened(wanted, context, frame.shape), outer)
        assert box is not None and target is not None  # `wanted` meets `outer`
        grids = self._new_shape(box, frame), frame.spacing, self.spacing(frame)
        channels = []
        for channel, volume in enumerate(volumes):
            normalise = partial(self._normalised, channel, mask)
            if self.is_pointwise:
                channels.append(self._data.resample(volume[box], *grids, normalise))
            else:  # by statistics of the whole image
                channels.append(self._data.resample(normalise(volume[outer])[within(box, outer)], *grids))
        if first_stage is not None:
            labels = self._labels.resample(frame.view(first_stage)[box].astype(np.float32), *grids)
            channels += [labels == value for value in self._values]
        return Case(np.stack(channels).astype(np.float32, copy=False), frame, box, target, warnings)

    def spacing(self, frame: Frame) -> tuple[float, ...]:
        """Return the spacing along the network's axes, mm; that of slices which stay as they are is the image's."""
        return frame.spacing[: 3 - len(self._spacing)] + self._spacing

    def _outer_box(
        self, volumes: Sequence[np.ndarray], frame: Frame, body_box: bool
    ) -> tuple[Box, np.ndarray | None, list[str]]:
        """Find the part of the image to process, nnU-Net's mask of what lies in it or None, and warnings."""
        if not (self.is_ct and body_box):
            mask = ndimage.binary_fill_holes(np.logical_or.reduce([volume != 0 for volume in volumes]))
            inside = bounding_box(shadows(mask))
            return inside, mask[inside], []
        volume, warnings = volumes[0], []
        few = volume[::8, ::8, ::8]  # which tell of nearly every CT that it is one
        if few.min() > HOUNSFIELD_BELOW and volume.min() > HOUNSFIELD_BELOW:
            warnings.append("The model is for CT, but the image's values do not look like Hounsfield units.")
        box = find_body(volume, frame.spacing)
        if box is None:
            box = whole(volume.shape)
            warnings.append("No body was found in the image, so the whole image is processed.")
        return box, None, warnings

    def _new_shape(self, box: Box, frame: Frame) -> tuple[int, ...]:
        sizes = zip(shape_of(box), frame.spacing, self.spacing(frame), strict=True)
        shape = tuple(max(round(step / new_step * n), 1) for n, step, new_step in sizes)
        if math.prod(shape) > MAX_VOXELS:
            raise ImageError(
                f"At the model's spacing the image would have {' x '.join(map(str, shape))} voxels; "
                "choose a region of interest or check the spacing in its header."
            )
        return shape

    def _normalised(self, channel: int, mask: np.ndarray | None, volume: np.ndarray) -> np.ndarray:
        """Normalise a channel (*S) as the plans say: a copy as float32."""
        x = np.array(volume, np.float32, order="C")
        scheme, inside = self._schemes[channel], mask if self._masked[channel] and mask is not None else ...
        if scheme == "CTNormalization":
            of_cases = intensities(self._plans, channel)
            np.clip(x, of_cases["percentile_00_5"], of_cases["percentile_99_5"], out=x)
            x -= of_cases["mean"]
            x /= max(of_cases["std"], 1e-8)
        elif scheme == "ZScoreNormalization":
            values = x[inside]
            x[inside] = (values - values.mean()) / max(float(values.std()), 1e-8)
        elif scheme == "RescaleTo01Normalization":
            x -= x.min()
            x /= max(float(x.max()), 1e-8)
        return x


def find_body(volume: np.ndarray, spacing: Sequence[float]) -> Box | None:
    """Find the box around the patient in a CT (HU), with a margin of 10 mm; None if there is only air.

    The patient is the largest connected component above -500 HU, and others at least a quarter as large, since two legs
    are two components. Arms, or a table that touches the patient, only enlarge the box.
    """
    steps = [max(1, int(BODY_GRID_MM / s)) for s in spacing]
    coarse = volume[tuple(slice(None, None, step) for step in steps)] > BODY_HU
    parts, count = ndimage.label(coarse)
    if count == 0:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(sizes >= BODY_FRACTION * sizes.max())
    boxes = [ndimage.find_objects(parts)[index] for index in large]
    box = []
    for axis, (step, s, size) in enumerate(zip(steps, spacing, volume.shape, strict=True)):
        margin = math.ceil(BODY_MARGIN_MM / s)
        start = min(part[axis].start for part in boxes) * step - margin
        stop = max(part[axis].stop for part in boxes) * step + margin
        box.append(slice(max(start, 0), min(stop, size)))
    return tuple(box)
