"""Learn from simulated readers of validation cases how far the error reaches that a click corrects.

Their clicks, one after another, are shown to trees (`boosting`), which learn for the voxels around whether these have
the label of the nearest click. Some readers click the largest errors, some go through the list, and some click wherever
the network doubts, where a click may also confirm it. All see what conditioning makes of their clicks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from mob_training.evaluation.readers import readers
from mob_training.evaluation.readers.boosting import Boosting
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Refined, VoxelClick
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.click_trees import FEATURES, ClickTrees
from MoBUncertaintyLib.regions.measure import expected_error

CLICKS, OTHERS = 5, 2
"""Of a reader who clicks the largest errors, and of the other two."""
SHOWN = 4000
"""Voxels of a case that trees are shown, of all clicks together."""

Lesson = tuple[np.ndarray, np.ndarray]
"""Voxels around clicks: their `FEATURES` (F, N), and whether they have the label of the nearest click, (N,) bool."""


def lesson(case: ReadCase, settings: ClickSettings, seed: int) -> Lesson:
    """Let readers click in a case, with conditioning alone, and describe a sample of the voxels around their clicks."""
    random, correct = np.random.default_rng(seed), Refined(case.prediction, settings)
    features, truth = [np.empty((len(FEATURES), 0), np.float32)], [np.empty(0, bool)]
    for clicks in _clicks(case, correct, random):
        voxels, described = correct.describe(clicks)
        features.append(described.features)
        truth.append(case.truth[tuple(voxels[described.at].T)] == described.labels)
    together = np.concatenate(features, axis=1), np.concatenate(truth)
    some = random.permutation(len(together[1]))[:SHOWN]
    return together[0][:, some], together[1][some]


def learn(lessons: Sequence[Lesson]) -> ClickTrees:
    """Fit trees to lessons; they add to the logit that conditioning gives."""
    features, truth = (np.concatenate(parts, axis=-1) for parts in zip(*lessons, strict=True))
    return Boosting().fit(features, features[FEATURES.index("conditioned")], truth)


def _clicks(case: ReadCase, correct: Refined, random: np.random.Generator) -> Iterator[tuple[VoxelClick, ...]]:
    """Yield what readers have clicked, after each of their clicks."""
    for step in islice(readers.click_at_errors(case, correct), CLICKS):
        yield step.clicks
    for step in islice(readers.click_in_regions(case, correct), OTHERS):
        yield step.clicks
    doubt = expected_error(case.prediction.probability).ravel().astype(float)
    places = random.choice(doubt.size, OTHERS, replace=False, p=doubt / doubt.sum())
    voxels = np.transpose(np.unravel_index(places, case.truth.shape)).tolist()
    clicks = tuple(((z, y, x), int(case.truth[z, y, x])) for z, y, x in voxels)
    for count in range(1, OTHERS + 1):
        yield clicks[:count]
