"""How far the readers of a case agree: Dice between their segmentations, and regions that they decided differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.errors import ImageError, ReviewError
from MoBUncertaintyLib.files.json_input import read_object
from MoBUncertaintyLib.images.reader import read_volume
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.cohort.readers import CaseReview
from MoBUncertaintyLib.output.review_export import RECORD, SEGMENTATION
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.review.record import read_mask
from MoBUncertaintyLib.review.region import Verdict


@dataclass(frozen=True)
class Agreement:
    """Agreement of readers who have signed; of more than two, of all pairs.

    Attributes:
        readers: Names of those who are compared.
        dice: Mean Dice between two readers' segmentations of each label, by its name.
        regions: Number of regions that all of them had in their lists.
        regions_different: Number of these that two of them decided differently: with other verdicts, or drawings, that
            gave the region's voxels other labels.
    """

    readers: tuple[str, ...]
    dice: Mapping[str, float]
    regions: int
    regions_different: int


@dataclass(frozen=True)
class _Reading:
    """What one reader made of a case: the segmentation, and the regions by where they lie."""

    segmentation: np.ndarray
    regions: Mapping[tuple[Any, ...], Mapping[str, Any]]


def agreement_of(reviews: Sequence[CaseReview], labels: Sequence[Label]) -> Agreement | None:
    """Compare the exports of signed reviews.

    Args:
        reviews: Of one case.
        labels: Of its prediction.

    Returns:
        None where there are fewer than two.

    Raises:
        ReviewError: One of them cannot be compared with the others.
    """
    signed = [each for each in reviews if each.signed and each.export and (each.export / SEGMENTATION).is_file()]
    if len(signed) < 2:
        return None
    try:
        pairs = list(combinations([_read(each) for each in signed], 2))
        found = {
            label.name: float(np.mean([_dice(label, a.segmentation, b.segmentation) for a, b in pairs]))
            for label in labels
        }
        common = set.intersection(*(set(each.regions) for pair in pairs for each in pair))
        different = sum(any(_differ(place, a, b) for a, b in pairs) for place in common)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, ImageError) as error:
        names = " and ".join(str(each.export) for each in signed)
        raise ReviewError(f"The reviews {names} cannot be compared; they are not of the same results.") from error
    return Agreement(tuple(each.reader for each in signed), found, len(common), different)


def _read(review: CaseReview) -> _Reading:
    assert review.export is not None
    record = read_object(review.export / RECORD)["review"]
    segmentation = sitk.GetArrayFromImage(read_volume(review.export / SEGMENTATION))
    regions = {(*each["first_voxel"], *each["size"], each["voxels"]): each for each in record["regions"]}
    return _Reading(segmentation, regions)


def _dice(label: Label, a: np.ndarray, b: np.ndarray) -> float:
    return dice(label.mask(a).astype(np.uint8), label.mask(b).astype(np.uint8))


def _differ(place: tuple[Any, ...], a: _Reading, b: _Reading) -> bool:
    decisions = [_decision(each.regions[place]) for each in (a, b)]
    if decisions[0] == decisions[1] != (Verdict.EDIT, None):
        return False
    box, mask = read_mask(a.regions[place], a.segmentation.shape)
    return bool((a.segmentation[box] != b.segmentation[box])[mask].any())


def _decision(entry: Mapping[str, Any]) -> tuple[str, int | None]:
    return "resolved" if entry["resolved"] else entry["verdict"], entry["label"]
