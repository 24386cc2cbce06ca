"""What is done to patches, so that few cases teach more; labels on the right and on the left are never swapped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from mob_training.training.budget.surroundings import FieldOfView, Frame, Sharper, Surroundings

ANGLE = math.radians(15)


class LinearIntensity(ImageOnlyTransform):
    """Multiply by a factor near 1 and add an offset, both of a whole patch: another scanner, another contrast."""

    def get_parameters(self, **_: object) -> dict[str, float]:
        """Draw factor and offset, in standard deviations of the data set."""
        return {
            "factor": float(torch.empty(1).uniform_(0.9, 1.1)),
            "offset": float(torch.empty(1).normal_(0, 0.1)),
        }

    def _apply_to_image(self, img: torch.Tensor, factor: float, offset: float) -> torch.Tensor:
        return img * factor + offset


class Noise(ImageOnlyTransform):
    """Add white noise, of up to a fifth of the data set's standard deviation."""

    def get_parameters(self, **_: object) -> dict[str, float]:
        """Draw the standard deviation."""
        return {"deviation": float(torch.empty(1).uniform_(0, 0.2))}

    def _apply_to_image(self, img: torch.Tensor, deviation: float) -> torch.Tensor:
        return img + deviation * torch.randn_like(img)


def training_transforms(
    patch: Sequence[int], mirror_axes: Sequence[int] = (), frame: Frame | None = None
) -> BasicTransform:
    """Compose the transforms of a training patch.

    They are few and cheap: a network that sees some hundred patches has more to learn from the cases than from what is
    made of them.

    Args:
        patch: Its size in voxels.
        mirror_axes: Axes of the patch along which it may be mirrored; none where labels have sides.
        frame: Of a CT, around whose body something is put; None: nothing is.
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
            LinearIntensity(),
            RandomTransform(Noise(), apply_probability=0.15),
            RandomTransform(blurred, apply_probability=0.1),
            RandomTransform(coarse, apply_probability=0.1),
            RandomTransform(FieldOfView(), apply_probability=0.1),
            *([MirrorTransform(allowed_axes=tuple(mirror_axes))] if mirror_axes else []),
            RemoveLabelTansform(-1, 0),
        ]
    )
