"""Where a segmentation that others have drawn is improbable: what `check` lists in the place of doubtful regions.

A region is a piece in which the model finds another label more probable than the one that was drawn, and its rank is
by the logarithm of how much more probable, summed over its voxels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.base.geometry import hull, nested, occupied, widened
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber, boxes_of
from MoBUncertaintyLib.regions.measure import any_label, values_in
from MoBUncertaintyLib.regions.pieces import compact_pieces
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region, Regions

IMPROBABLE = 0.05
"""A region has at least the smallest volume of voxels whose label is less probable than this."""
_LEAST = 1e-6  # probability: a network is never as sure as its numbers


def settings_of(settings: RegionSettings) -> RegionSettings:
    """Return settings of doubtful regions as those of improbable ones."""
    return replace(settings, measure=Measure.ERROR, threshold=None)


def find_discrepancies(prediction: Prediction, drawn: np.ndarray) -> Regions:
    """Find the places where a segmentation is improbable, the worst first.

    Args:
        prediction: Of the image; its region settings are those of `settings_of`, of which length and volume count.
        drawn: The segmentation (z, y, x), with the values of the prediction's labels.
    """
    settings, spacing = prediction.region_settings, prediction.grid.spacing
    likely = [occupied(probability, IMPROBABLE) for probability in prediction.probability]
    box = widened(hull([occupied(drawn), *likely]), (1, 1, 1), prediction.shape)
    probability = np.array(values_in(box, prediction.probability), np.float32)
    background = np.clip(1 - any_label(probability), 0, 1)
    own, best = background, np.maximum(background, probability.max(axis=0))
    for label, of_label in zip(prediction.labels, probability, strict=True):
        own = np.where(drawn[box] == label.value, of_label, own)
    own = np.maximum(own, _LEAST)
    gain = np.log(np.maximum(best, own) / own)
    pieces = compact_pieces(gain > 0, gain, spacing, settings.length_mm)
    count = int(pieces.max(initial=0)) + 1
    scores = np.bincount(pieces.ravel(), gain.ravel(), minlength=count)
    sizes = np.bincount(pieces[own < IMPROBABLE], minlength=count) * prediction.grid.voxel_mm3
    order = [piece for piece in np.argsort(-scores, kind="stable").tolist() if piece and sizes[piece]]
    order = [piece for piece in order if sizes[piece] >= settings.minimum_mm3][: settings.max_regions]
    ranks = np.zeros(count, np.uint16)
    ranks[order] = np.arange(1, len(order) + 1)
    region_map, describe = ranks[pieces], RegionDescriber(prediction)
    regions = []
    for rank, place in enumerate(boxes_of(region_map), start=1):
        assert place is not None
        described = describe(nested(box, place), region_map[place] == rank)
        regions.append(Region(rank=rank, number=rank, **described))
    return Regions(tuple(regions), region_map, box, prediction.shape, settings)
