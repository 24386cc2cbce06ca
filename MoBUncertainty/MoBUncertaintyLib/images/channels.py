"""Bring the images of a case, one for each input channel of a model, onto one grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.images.modality import contradictions, modality_of
from MoBUncertaintyLib.images.reader import check_image

T = TypeVar("T")
SAME_GRID = 0.1
"""Fraction of a voxel by which the corners of two images on the same grid may lie apart: headers are rounded."""


def in_order(names: Sequence[str], first: T, others: Mapping[str, T]) -> list[T]:
    """Put what belongs to the channels of a model in their order.

    Args:
        names: Of the channels.
        first: What belongs to the one channel that `others` does not name: the first, usually.
        others: What belongs to the others, by their names; upper and lower case are the same.

    Raises:
        SettingsError: A name is unknown, or another number of channels than one is left.
    """
    named = {name.casefold(): value for name, value in others.items()}
    folded = [name.casefold() for name in names]
    if unknown := [name for name in others if name.casefold() not in folded]:
        raise SettingsError(
            f"The model has no input channel {printable(unknown[0])}; its channels are {', '.join(names)}."
        )
    left = [name for name in names if name.casefold() not in named]
    if len(left) > 1:
        raise SettingsError(
            f"The model takes {len(names)} images of each case ({', '.join(names)}), and {' and '.join(left[1:])} is "
            f"missing; give it too (--channel {left[1]}=FILE, or a volume for each channel in the panel)."
        )
    if not left:
        raise SettingsError(
            f"All input channels are named ({', '.join(names)}); leave one to the image that is predicted."
        )
    return [named.get(name, first) for name in folded]


def other_modalities(names: Sequence[str], first: sitk.Image, others: Mapping[str, sitk.Image]) -> list[str]:
    """Say in a sentence for each image that it is of another modality than its channel; arguments as for `in_order`."""
    return contradictions(names, [modality_of(each) for each in in_order(names, first, others)])


def check_modalities(
    names: Sequence[str], first: sitk.Image, others: Mapping[str, sitk.Image], force: bool
) -> list[str]:
    """Refuse an image of another modality than its channel, or return the sentences that say so if they are forced.

    Raises:
        ImageError: There is one, and nobody forces it.
        SettingsError: As for `in_order`.
    """
    sentences = other_modalities(names, first, others)
    if sentences and not force:
        raise ImageError(f"{sentences[0].rstrip('.')}, or predict this one nevertheless with --force.")
    return sentences


def aligned(images: Mapping[str, sitk.Image], grid: sitk.Image) -> tuple[dict[str, sitk.Image], list[str]]:
    """Check images and resample those that lie on another grid.

    Args:
        images: By the name of their channel.
        grid: The image on whose grid they shall lie.

    Returns:
        The images, and sentences for the user.

    Raises:
        ImageError: One cannot be used, or does not overlap the grid.
    """
    checked, warnings = {}, []
    for name, image in images.items():
        try:
            checked[name], notes = check_image(image)
        except ImageError as error:
            raise ImageError(f"The image of {printable(name)}: {error}") from error
        warnings += [f"The image of {printable(name)}: {each}" for each in notes]
        if not on_same_grid(checked[name], grid):
            checked[name], covered = _resampled(checked[name], grid)
            if not covered:
                raise ImageError(
                    f"The image of {printable(name)} does not overlap the first image; check that both show the same "
                    "patient in the same position."
                )
            part = "" if covered > 0.99 else f", of which it covers {percent(covered)}"
            warnings.append(
                f"The image of {printable(name)} has another grid; it was resampled to the first image's{part}."
            )
    return checked, warnings


def on_same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether the voxels of two images lie in the same places, as far as headers tell."""
    if one.GetSize() != other.GetSize():
        return False
    corners = itertools.product(*((0, size - 1) for size in one.GetSize()))
    apart = [
        np.subtract(*(image.TransformIndexToPhysicalPoint(corner) for image in (one, other))) for corner in corners
    ]
    return bool(np.linalg.norm(apart, axis=1).max() <= SAME_GRID * min(other.GetSpacing()))


def _resampled(image: sitk.Image, grid: sitk.Image) -> tuple[sitk.Image, float]:
    """Interpolate linearly; what lies outside the image gets its smallest value. Returns the fraction inside too."""
    smallest = float(sitk.GetArrayViewFromImage(image).min())
    moved = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, np.nan, sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(moved)
    outside = np.isnan(values)
    values[outside] = smallest
    filled = sitk.GetImageFromArray(values)
    filled.CopyInformation(grid)
    return filled, 1 - float(outside.mean())
