"""What a model learns of clicks: boosted symmetric trees, held to scikit-learn's."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier

from mob_training.evaluation.readers.boosting import Boosting
from MoBUncertaintyLib.model.click_trees import FEATURES


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Features (F, N) of voxels, of which three matter, one of them wherever another is small; and their truth."""
    random = np.random.default_rng(0)
    features = random.normal(size=(len(FEATURES), 8000)).astype(np.float32)
    features[3] = 7  # says nothing
    logit = 3 * features[0] * (features[1] < 0) + 2 * np.abs(features[2]) - 2
    return features, random.random(8000) < expit(logit)


def loss(score: np.ndarray, truth: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(truth, -score, score)).mean())


def test_trees_predict_about_as_well_as_scikit_learns(drawn) -> None:
    features, truth = drawn
    learned, new = slice(0, 5000), slice(5000, None)
    trees = Boosting().fit(features[:, learned], np.zeros(5000, np.float32), truth[learned])
    other = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(features[:, learned].T, truth[learned])
    reference = loss(other.decision_function(features[:, new].T), truth[new])
    assert loss(trees.score(features[:, new]), truth[new]) < 1.02 * reference < 0.9 * loss(np.zeros(3000), truth[new])


def test_trees_add_what_is_lacking_to_a_score_and_nothing_to_a_right_one(drawn) -> None:
    features, _ = drawn
    right = 2 * features[5]
    truth = np.random.default_rng(1).random(len(right)) < expit(right)
    few = Boosting(trees=30)
    assert np.abs(few.fit(features, right, truth).score(features)).mean() < 0.25
    shifted = few.fit(features, right - 2, truth).score(features)
    assert 1.2 < shifted.mean() < 2.2
    assert few.fit(features, right, truth) == few.fit(features, right, truth), "the same cases teach the same"
