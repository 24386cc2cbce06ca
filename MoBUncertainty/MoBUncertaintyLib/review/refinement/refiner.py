"""A prediction refined by clicks: what the posterior of the set of clicks says of every voxel in reach.

The logit of a label against the rest is normal at each voxel: mean m and deviation s are those whose moments are the
stored probability and variance (`logits`). A click moves the logit by a Gaussian process with deviation c and
correlation k (`conditioning`); c is s, or the settings' `prior_deviation`. The variance that is reported is s^2 times
the fraction of c^2 that is left: where a click's reach ends nothing jumps, and a model without variance keeps
p = sigma(m). So that the expected error is honest, the logit grows where clicks explain it
(`spreading.refined_maps`). With more than two classes each label is conditioned against the rest, +1 where a click
gives that label and -1 where it gives another; where the probabilities then exceed 1 together, they are scaled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, common_parts, hull, intersection
from MoBUncertaintyLib.base.method_cache import cached_method
from MoBUncertaintyLib.model.card import overlap
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION, ClickSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click, Clicked, gather, voxels_of
from MoBUncertaintyLib.review.refinement.conditioning import Field, solve
from MoBUncertaintyLib.review.refinement.kernel import kernel_of, pairs_mm
from MoBUncertaintyLib.review.refinement.logits import movable
from MoBUncertaintyLib.review.refinement.spreading import Inputs, Maps, Posterior, Spreading


@dataclass(frozen=True, eq=False)
class Refinement:
    """Maps after clicks, where they may differ from the prediction's.

    Attributes:
        box: Where in the image.
        probability, variance: (C - 1, *box) float32.
        segmentation: (*box) uint8.
        reached: (*box) bool: in reach of a click. All other voxels are bit for bit the prediction's.
        conflicts: Ids of clicks whose label the posterior contradicts at one of their voxels.
    """

    box: Box
    probability: np.ndarray
    variance: np.ndarray
    segmentation: np.ndarray
    reached: np.ndarray
    conflicts: frozenset[str]

    def paste(self, prediction: Prediction) -> Prediction:
        """Copy a prediction, with this in it."""
        segmentation = prediction.segmentation.copy()
        segmentation[self.box] = self.segmentation
        probability, variance = (np.array(maps) for maps in (prediction.probability, prediction.variance))
        probability[(slice(None), *self.box)] = self.probability
        variance[(slice(None), *self.box)] = self.variance
        return replace(prediction, segmentation=segmentation, probability=probability, variance=variance)


@dataclass(frozen=True, eq=False)
class _Reading:
    """A set of clicks: its voxels, where they reach, and what follows of them."""

    clicked: Clicked
    reach: Box
    posterior: Posterior
    inputs: Inputs
    conflicts: frozenset[str]


class Refiner:
    """Refines one prediction by any sets of clicks; keeps what it computed.

    Args:
        settings: How a click changes its surroundings. Default: the prediction's own.
    """

    def __init__(self, prediction: Prediction, settings: ClickSettings | None = None) -> None:
        self.prediction = prediction
        self.settings = settings or prediction.click_settings
        if self.settings.prior_deviation is None and not prediction.has_variance:
            # The little that tiles disagree by is no measure of what the model does not know.
            self.settings = replace(self.settings, prior_deviation=DEFAULT_PRIOR_DEVIATION)
        self.kernel = kernel_of(prediction, self.settings)
        self._spreading = Spreading(prediction, self.kernel, self.settings)
        self._spacing = prediction.grid.spacing
        self._values = np.array([label.value for label in prediction.labels])

    def voxels_of(self, click: Click) -> np.ndarray:
        """Find the voxels of a click, see `clicks.voxels_of`.

        Raises:
            ReviewError: It leaves the part of the image that was predicted, or gives no label of the prediction.
        """
        if overlap(self.prediction.labels):
            raise ReviewError(
                "The labels of this model overlap, so a click does not say which of them it means; predict one label "
                "alone, and review that."
            )
        return self._voxels(click)

    def reach(self, clicks: Iterable[Click]) -> Box:
        """Return the hull of the boxes in which the clicks may change anything; an empty box without clicks."""
        return self._read(tuple(clicks)).reach

    def conflicts(self, clicks: Iterable[Click]) -> frozenset[str]:
        """List the ids of clicks whose label the posterior of all of them contradicts at one of their voxels."""
        return self._read(tuple(clicks)).conflicts

    def changed(self, before: Iterable[Click], after: Iterable[Click]) -> list[Box]:
        """List boxes outside of which two sets of clicks give the same maps, bit for bit."""
        sides = [self._read(tuple(clicks)) for clicks in (before, after)]
        old, new = ({key: block.box for block, key in side.inputs.values()} for side in sides)
        boxes = [each[key] for each, other in ((old, new), (new, old)) for key in each if key not in other]
        decrees = [
            set(map(tuple, np.column_stack([side.clicked.voxels, side.clicked.labels]).tolist())) for side in sides
        ]
        return boxes + [tuple(slice(at, at + 1) for at in voxel) for *voxel, _ in decrees[0] ^ decrees[1]]

    def refine(self, clicks: Iterable[Click], box: Box | None = None) -> Refinement:
        """Compute the maps after a set of clicks, in any order.

        Args:
            box: Only there. Default: where they may change anything.

        Raises:
            ReviewError: As for `voxels_of`.
        """
        reading = self._read(tuple(clicks))
        box = reading.reach if box is None else box
        maps = Maps.of(self.prediction, box)
        for own, block in self._spreading.blocks(reading.posterior, reading.inputs, box):
            if common := common_parts(box, own):
                maps.insert(block, *common)
        self._decree(maps, box, reading.clicked)
        return Refinement(box, maps.probability, maps.variance, maps.segmentation, maps.reached, reading.conflicts)

    @cached_method(4096)
    def _voxels(self, click: Click) -> np.ndarray:
        if click.label and click.label not in self._values:
            raise ReviewError(f"The prediction has no label {click.label}; click with one of its labels.")
        prediction = self.prediction
        return voxels_of(click, prediction.grid, prediction.shape, prediction.processed_box)

    @cached_method(64)
    def _read(self, clicks: tuple[Click, ...]) -> _Reading:
        ordered = sorted(clicks, key=lambda click: click.order)
        labels, places = [click.label for click in ordered], [self.voxels_of(click) for click in ordered]
        clicked = gather(labels, places, self.prediction.grid, self.prediction.shape, self.kernel.length_mm / 2)
        posterior = self._posterior(clicked)
        wrong = self._spreading.labels_at(posterior, clicked.voxels) != clicked.labels
        conflicts = frozenset(ordered[owner].click_id for owner in np.unique(clicked.owners[wrong]))
        reach = self._reach(clicked)
        return _Reading(clicked, reach, posterior, self._spreading.inputs(posterior, reach), conflicts)

    def _reach(self, clicked: Clicked) -> Box:
        if not len(clicked.points):
            return hull(())
        margin = np.floor(self.kernel.box_mm / self._spacing).astype(int)
        low, high = (clicked.points.min(0) - margin).tolist(), (clicked.points.max(0) + margin + 1).tolist()
        return intersection(tuple(map(slice, low, high)), self.prediction.processed_box) or hull(())

    def _posterior(self, clicked: Clicked) -> Posterior:
        """Solve groups of points that cannot feel each other, one by one."""
        points, count = clicked.points, len(clicked.points)
        table = np.zeros((len(self._values), count, count + 1), np.float32)
        places = points * self._spacing
        near = self.kernel.between(pairs_mm(places, places)) > 0
        groups, group = connected_components(csr_array(near)) if count else (0, [])
        for number in range(groups):
            own = np.flatnonzero(group == number)
            weights, precision = self._solved(points[own].tobytes(), clicked.point_labels[own].tobytes())
            table[:, own, -1], table[:, own[:, None], own] = weights, precision
        return Posterior(points, table)

    @cached_method(1024)
    def _solved(self, points: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
        voxels, label = np.frombuffer(points, np.intp).reshape(-1, 3), np.frombuffer(labels, np.int64)
        strengths = self.settings.strength, self.settings.variance_strength
        solved = []
        for value, mean, variance in zip(self._values, *self._spreading.logits_at(voxels), strict=True):
            field = Field(mean, movable(variance, self.settings.prior_deviation), voxels * self._spacing)
            signs = np.where(label == value, 1, -1)
            solved.append(solve(field, self.kernel, signs, *strengths))
        weights, precision = zip(*solved, strict=True)
        return np.array(weights), np.array(precision)

    def _decree(self, maps: Maps, box: Box, clicked: Clicked) -> None:
        """Give clicked voxels their labels."""
        start = [part.start for part in box]
        index = clicked.voxels - start
        inside = ((index >= 0) & (index < maps.reached.shape)).all(1)
        at, labels = tuple(index[inside].T), clicked.labels[inside]
        maps.segmentation[at] = labels
        maps.reached[at] = True
        maps.variance[(slice(None), *at)] = 0
        maps.probability[(slice(None), *at)] = labels == self._values[:, None]
