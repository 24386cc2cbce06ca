"""A review that clicks change: the fake prediction with its two doubtful places, far enough apart for one click."""

from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.review import Review
from support.fake_case import PANCREAS, fake_case

CLICKS = ClickSettings(length_mm=3.0, strength=32.0, variance_strength=4.0)


def clicked_prediction(labels: tuple[Label, ...] = (PANCREAS,)) -> Prediction:
    """The fake prediction, which clicks change within 9 mm."""
    return replace(fake_case(labels=labels).prediction, click_settings=CLICKS, warnings=[])


def clicked_review(prediction: Prediction | None = None, labels: tuple[Label, ...] = (PANCREAS,)) -> Review:
    """A review of it whose two regions are described voxel by voxel."""
    case = fake_case(labels=labels)
    prediction = prediction or clicked_prediction(labels)
    settings = RegionSettings(threshold=0.1, grow_mm=3.0)
    return Review(prediction, RegionDescriber(prediction).describe_all(case.regions.whole_map(), settings))


def place(review: Review, region_id: str, number: int = 0) -> tuple[float, float, float]:
    """The middle of one of a region's voxels, RAS mm: number 0 is the most doubtful one."""
    region = review.region(region_id)
    error = np.abs(np.asarray(review.prediction.probability).sum(axis=0)[region.box] - 0.5)
    order = np.argsort(np.where(region.found.mask, error, 2), axis=None, kind="stable")
    index = np.array(np.unravel_index(order[number], error.shape)) + [part.start for part in region.box]
    r, a, s = review.prediction.grid.to_ras(index).tolist()
    return r, a, s


def region_at(review: Review, point_ras: tuple[float, ...]) -> ReviewRegion | None:
    """The region, as it was found, that a place lies in."""
    voxel = np.rint(review.prediction.grid.to_index(np.array(point_ras))).astype(int)
    at = tuple(slice(index, index + 1) for index in voxel.tolist())
    return next((each for each in review.regions if replace(each, mask=each.found.mask).mask_in(at).any()), None)


def everything(review: Review) -> tuple:
    """All that can be seen of a review with its maps."""
    box = whole_box(review)
    return (
        review.to_dict(),
        review.corrected().tobytes(),
        review.listed().whole_map().tobytes(),
        *(each.tobytes() for each in review.maps_in(box)),
        review.expected_error_mm3,
        review.conflicts,
        [review.refiner.effect(click, review.clicks) for click in review.clicks],
    )


def whole_box(review: Review) -> Box:
    return tuple(slice(0, size) for size in review.prediction.shape)


def resolve(review: Review, region_id: str, label: int = 1) -> int:
    """Click in a region until it is resolved; how many clicks that took."""
    for number in range(60):
        if review.region(region_id).resolved:
            return number
        region = review.region(region_id)
        error = np.where(region.mask, np.minimum(*sides_of(review, region.box)), -1)
        index = np.unravel_index(error.argmax(), error.shape)
        point = review.prediction.grid.to_ras(np.add(index, [part.start for part in region.box]))
        review.click([(float(point[0]), float(point[1]), float(point[2]))], label)
    raise AssertionError("never resolved")


def sides_of(review: Review, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Probability of foreground and of background as they are."""
    p = review.maps_in(box)[0].sum(axis=0)
    return p, 1 - p
