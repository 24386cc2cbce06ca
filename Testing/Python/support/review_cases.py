"""Small reviews: regions on a grid of few voxels."""

import json
from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region, Regions
from MoBUncertaintyLib.review.review import Review
from support.fake_case import PANCREAS, region_row, regions_of

SHAPE = (5, 6, 7)


GRID = Grid.from_matrix(np.diag([1.0, 1.25, 2.0, 1.0]))


def predicted_as(segmentation: np.ndarray, grid: Grid = GRID) -> Prediction:
    """A prediction that is certain of its segmentation, of one label more than it needs."""
    values = range(1, int(segmentation.max(initial=0)) + 2)
    labels = tuple(replace(PANCREAS, value=value, name=f"organ {value}") for value in values)
    probability = np.stack([segmentation == value for value in values]).astype(np.float32)
    return Prediction(segmentation, probability, np.zeros_like(probability), grid, labels)


def region(number: int, error: float = 100.0, voxels: int = 10) -> Region:
    """A row as `regions.RegionFinder` makes it."""
    volume = GRID.voxel_mm3 * voxels
    return region_row(number, (1.0, 2.0, float(number)), volume_mm3=volume, expected_error_mm3=error)


def found(labels: np.ndarray, minimum_mm3: float = 0.0, errors: dict[int, float] | None = None) -> Regions:
    """Regions of a label map, with less expected error for each label than for the one before."""
    labels = labels.astype(np.uint16)
    values = [int(value) for value in np.unique(labels) if value]
    rows = [region(value, (errors or {}).get(value, 1000.0 - value), int((labels == value).sum())) for value in values]
    return regions_of(labels, rows, minimum_mm3=minimum_mm3)


def label_map(*boxes: tuple[slice, ...]) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint16)
    for number, box in enumerate(boxes, 1):
        labels[box] = number
    return labels


def state(review: Review) -> tuple:
    """All that can be seen of a review."""
    stored = json.dumps(review.to_dict(), sort_keys=True)
    return stored, review.corrected().tobytes(), review.listed().whole_map().tobytes()


def describe_as_in(review: Review):
    """Describes regions as they are described in a review."""
    known = {(str(each.box), each.mask.tobytes()): vars(each.region) for each in review.regions}

    def describe(box, mask):
        values = known[str(box), mask.tobytes()]
        return {name: value for name, value in values.items() if name not in ("rank", "number")}

    return describe


def stored_again(review: Review, record: dict | None = None) -> Review:
    """The review that was stored as a record, with the regions' numbers as they are in `review`."""
    data = json.loads(json.dumps(record or review.to_dict()))
    return Review.from_dict(data, review.prediction, describe_as_in(review))


LEFT, MIDDLE, RIGHT = np.s_[1:3, 1:4, 0:2], np.s_[1:3, 1:4, 2:4], np.s_[2:5, 2:6, 5:7]
