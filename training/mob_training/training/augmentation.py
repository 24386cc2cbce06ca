"""What is done to patches, so that few cases teach more; labels of the two sides follow the position.

Data sets that have erased what is around the body get what users' CTs have there: noisy air, table, head rest, mask.
The field of view is cropped, too: what is beyond the end of a scan is padded as it is at inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import (
    BrightnessAdditiveTransform,
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from scipy import ndimage
from torch import Tensor

from MoBUncertaintyLib.model.terminology import MODIFIERS, TISSUE, terminology

ANGLE = math.radians(15)
CT = "CTNormalization"
"""nnU-Net's name: HU are clipped, then mean and standard deviation of the organs are taken out."""
AIR_HU = -250.0
"""Where a data set's HU are clipped above this, air cannot be told from fat: its surroundings stay."""
AIR_RANGE = 100.0
"""HU above the lowest up to which a voxel is air: where an image was resampled, it overshoots beside the skin."""
SMALLEST = 0.5
"""Fraction of a patch, along one axis, that a cropped field of view leaves at least."""


@dataclass(frozen=True)
class Frame:
    """What the values and the axes of a CT's patches mean.

    Attributes:
        mean, deviation: Of the normalisation, HU.
        lowest: HU to which lower ones are clipped.
        posterior: The axis of the patch along the patient's depth, and 1 if its end is the back, -1 if its start is.
        height: The axis along the patient's height.
    """

    mean: float
    deviation: float
    lowest: float
    posterior: tuple[int, int]
    height: int

    @classmethod
    def of(cls, plans: dict[str, Any], configuration: str, orientation: str | None) -> Frame | None:
        """Read it from nnU-Net's plans, and the orientation of the stored axes, x first, such as `LPS`.

        Return None, so that nothing is made, for other images than CT, where air is clipped, or without an orientation.
        """
        schemes = plans["configurations"][configuration]["normalization_schemes"]
        intensities = plans["foreground_intensity_properties_per_channel"]["0"]
        if schemes != [CT] or orientation is None or intensities["percentile_00_5"] > AIR_HU:
            return None
        depth, direction = patch_axis(plans, orientation, "AP")
        height, _ = patch_axis(plans, orientation, "IS")
        return cls(intensities["mean"], intensities["std"], intensities["percentile_00_5"], (depth, direction), height)

    def value(self, hu: torch.Tensor | float) -> torch.Tensor:
        """Convert HU to what the network sees."""
        return (torch.as_tensor(hu, dtype=torch.float32).clamp_min(self.lowest) - self.mean) / self.deviation


class Surroundings(ImageOnlyTransform):
    """Put noisy air, and often a mask, a head rest and a table, where a patch is erased; the body stays as it is."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self.frame = frame

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        """Draw what there is, in voxels and HU."""
        return {
            "noise": np.random.uniform(0, 60),
            "mask": np.random.random() < 0.4 and np.random.uniform(-700, 0),
            "rest": np.random.random() < 0.4 and (np.random.randint(2, 6), np.random.uniform(-980, -400)),
            "table": np.random.random() < 0.5
            and (np.random.randint(1, 6), np.random.randint(3, 9), np.random.uniform(-800, 300)),
        }

    def _apply_to_image(self, img: torch.Tensor, **drawn: Any) -> torch.Tensor:
        axis, direction = self.frame.posterior
        outside = outside_of(img[0] <= self.frame.value(self.frame.lowest + AIR_RANGE), self.frame.height)
        if not outside.any() or outside.all():
            return img
        hu = torch.full(outside.shape, -1000.0)
        body = ~outside
        depth = torch.arange(body.shape[axis]).reshape([-1 if place == axis else 1 for place in range(3)])
        along = depth if direction > 0 else body.shape[axis] - 1 - depth  # rises towards the back
        places = torch.where(body, along, -1).flatten().sort().values
        back, middle = int(places[-1]), float(places[places >= 0].float().mean())
        if drawn["rest"] is not False:
            width, foam = drawn["rest"]
            hu[_around(body, width) & (along > middle)] = foam
            back += width
        if drawn["table"] is not False:
            gap, thickness, shell = drawn["table"]
            within = along - back - gap
            hu[((within > 0) & (within < thickness)).expand_as(hu)] = -930.0
            hu[((within == 0) | (within == thickness)).expand_as(hu)] = shell
        if drawn["mask"] is not False:
            hu[_around(body, 1) & (along <= middle)] = drawn["mask"]
        hu += drawn["noise"] * torch.randn(hu.shape)
        made = img.clone()
        made[0][outside] = self.frame.value(hu)[outside]
        return made


class FieldOfView(BasicTransform):
    """End the scan somewhere in a patch: voxels beyond are 0, as padding is at inference, and labels end there."""

    def get_parameters(self, **data: Any) -> dict[str, Any]:
        """Draw the axis, the end of it, and the voxels that are lost."""
        axis = np.random.randint(3)
        size = data["image"].shape[1 + axis]
        return {
            "axis": axis,
            "lost": np.random.randint(1, max(2, int(size * (1 - SMALLEST)))),
            "first": np.random.rand() < 0.5,
        }

    def _apply_to_image(self, img: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return _ended(img, 0, **drawn)

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **drawn: Any) -> torch.Tensor:
        return _ended(segmentation, -1, **drawn)


class Sharper(ImageOnlyTransform):
    """Sharpen, as a CT of finer voxels is where it was resampled, and as bone kernels do."""

    def get_parameters(self, **_: Any) -> dict[str, float]:
        """Draw the strength."""
        return {"strength": float(np.random.uniform(0, 1))}

    def _apply_to_image(self, img: torch.Tensor, strength: float) -> torch.Tensor:
        blurred = torch.nn.functional.avg_pool3d(img[None], 3, stride=1, padding=1, count_include_pad=False)[0]
        return img + strength * (img - blurred)


@dataclass(frozen=True)
class Mirroring:
    """Mirror patches from side to side; labels that are a pair change places, since they follow the position.

    Attributes:
        axis: The axis of a patch along the patient's width.
        partners: What each label becomes, from the background's on, (C,).
    """

    axis: int
    partners: tuple[int, ...]

    @classmethod
    def of(cls, plans: dict[str, Any], dataset: dict[str, Any]) -> Mirroring | None:
        """Read it from nnU-Net's plans and `dataset.json`.

        Return None, so that nothing is mirrored, without an orientation, and where the labels do not pair.
        """
        orientation, partners = dataset.get("orientation"), paired_labels(dataset["labels"])
        return cls(patch_axis(plans, orientation, "RL")[0], partners) if orientation and partners else None

    def mirrored(self, batch: dict[str, Any], chosen: Tensor) -> dict[str, Any]:
        """Mirror the chosen ones (B) of images (B, C_in, *S) and label maps (B, 1, *S); add which, as `mirrored`."""
        swapped = torch.tensor(self.partners)[batch["target"].long()]
        sample = chosen.reshape(-1, 1, 1, 1, 1)
        return batch | {
            "data": torch.where(sample, batch["data"].flip(self.axis + 2), batch["data"]),
            "target": torch.where(sample, swapped.flip(self.axis + 2), batch["target"]),
            "mirrored": chosen,
        }

    def missing(self, missing: Tensor, chosen: Tensor) -> Tensor:
        """Swap which labels the chosen cases (B) lack, (B, C)."""
        return torch.where(chosen[:, None], missing[:, self.partners], missing)


def paired_labels(labels: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return what each label of `dataset.json` becomes in a mirror, (C,), by the terminology of its name.

    Return None if there is no pair, a label has no partner, or its anatomy is unknown or of one side (a heart's left
    ventricle is no mirror image of the right one).
    """
    other = {MODIFIERS["left"]: MODIFIERS["right"], MODIFIERS["right"]: MODIFIERS["left"]}
    values = {}
    for name in labels:
        structure, modifier = (terminology(name)[0][key] for key in ("type", "modifier"))
        if name != "background" and (structure == TISSUE or {"left", "right"} & set(structure[2].lower().split())):
            return None
        values[structure, modifier] = labels[name]
    swapped = {value: values.get((structure, other.get(side, side))) for (structure, side), value in values.items()}
    partners = tuple(swapped.get(value) for value in range(len(labels)))
    return None if None in partners or partners == tuple(range(len(labels))) else partners


def patch_axis(plans: dict[str, Any], orientation: str, ends: str) -> tuple[int, int]:
    """Find the axis of a patch between two ends of the body, such as `AP`, by the orientation of the stored axes.

    Return it, and 1 if it ends at the second one, -1 if at the first.
    """
    stored = orientation[::-1]  # of arrays, z first
    letters = [stored[axis] for axis in plans["transpose_forward"]]
    place = next(place for place, letter in enumerate(letters) if letter in ends)
    return place, 1 if letters[place] == ends[1] else -1


def outside_of(low: torch.Tensor, height: int) -> torch.Tensor:
    """Return the part of the air (*S) that is outside of the body: what meets the edge of an axial slice.

    Airways are closed in axial slices, across which `height` is the axis, but meet the end of a scan.
    """
    planes = np.moveaxis(low.numpy(), height, 0)
    within = np.zeros((3, 3, 3), bool)
    within[1] = ndimage.generate_binary_structure(2, 1)
    pieces, _ = ndimage.label(planes, within)
    edge = np.ones(planes.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    outer = np.unique(pieces[:, edge])
    return torch.from_numpy(np.moveaxis(np.isin(pieces, outer[outer > 0]), 0, height))


def _around(body: torch.Tensor, width: int) -> torch.Tensor:
    """Return the layer around a mask (*S), so many voxels thick."""
    grown = body.float()[None, None]
    for _ in range(width):
        grown = torch.nn.functional.max_pool3d(grown, 3, stride=1, padding=1)
    return (grown[0, 0] > 0) & ~body


def _ended(volume: torch.Tensor, value: float, axis: int, lost: int, first: bool) -> torch.Tensor:
    made = volume.clone()
    made.narrow(1 + axis, 0 if first else made.shape[1 + axis] - lost, lost).fill_(value)
    return made


def training_transforms(patch: Sequence[int], frame: Frame | None = None) -> BasicTransform:
    """Compose the transforms of a training patch; with a frame, something is put around a CT's body.

    They are few and cheap: a network that sees some hundred patches has more to learn from the cases than from what is
    made of them.
    """
    turned = SpatialTransform(
        tuple(patch),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=0.3,
        rotation=(-ANGLE, ANGLE),
        p_scaling=0.3,
        scaling=(0.85, 1.15),
        p_synchronize_scaling_across_axes=1,
        padding_mode_image="border",
        border_mode_seg="border",
    )
    blurred = GaussianBlurTransform(
        blur_sigma=(0.4, 1.0), synchronize_channels=False, synchronize_axes=False, p_per_channel=1, benchmark=False
    )
    coarse = SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_channels=True,
        synchronize_axes=False,
        ignore_axes=None,
        allowed_channels=None,
        p_per_channel=1,
    )
    made = [(Surroundings(frame), 0.6), (Sharper(), 0.15)] if frame else []
    return ComposeTransforms(
        [
            *(RandomTransform(transform, apply_probability=often) for transform, often in made),
            turned,
            # Another scanner, another contrast, in standard deviations of the data set.
            MultiplicativeBrightnessTransform((0.9, 1.1), synchronize_channels=True),
            BrightnessAdditiveTransform(0, 0.05, synchronize_channels=False),
            RandomTransform(GaussianNoiseTransform((0, 0.1), synchronize_channels=True), apply_probability=0.15),
            RandomTransform(blurred, apply_probability=0.1),
            RandomTransform(coarse, apply_probability=0.1),
            RandomTransform(FieldOfView(), apply_probability=0.1),
            RemoveLabelTansform(-1, 0),
        ]
    )
