"""Every score against an oracle that was not written here, on random inputs and on the degenerate ones."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import pdist
from sklearn.metrics import auc, average_precision_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from mob_training.evaluation.case_scores import surface_scores
from mob_training.evaluation.metrics.calibration import Calibration, negative_log_likelihood
from mob_training.evaluation.metrics.ranking import ErrorRanking
from mob_training.evaluation.raters import generalised_energy_distance, probability_error
from MoBUncertaintyLib.regions.agreement import dice

SPACING = (3.0, 1.5, 2.0)


def blob(seed: int, shape=(14, 18, 16), share: float = 0.25) -> np.ndarray:
    """A smooth random mask that also meets the edges of the array."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 1 - share)


def probabilities(seed: int, size: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Single-precision probabilities, overconfident, and what came true."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.4, 1.0, size).astype(np.float32)
    return p, rng.uniform(size=size) < 0.7 * p + 0.1


EMPTY, BALL = np.zeros((14, 18, 16), bool), blob(0)
CERTAIN = {
    "certain and right": (np.array([0, 1, 1, 0], np.float32), np.array([0, 1, 1, 0], bool)),
    "certain, half wrong": (np.array([0, 1, 1, 0], np.float32), np.array([1, 1, 0, 0], bool)),
    "certain and wrong": (np.array([0, 1, 1, 0], np.float32), np.array([1, 0, 0, 1], bool)),
    "empty truth": (np.linspace(0, 0.99, 50, dtype=np.float32), np.zeros(50, bool)),
    "empty prediction": (np.zeros(50, np.float32), np.arange(50) < 7),
    "empty both": (np.zeros(50, np.float32), np.zeros(50, bool)),
}
INPUTS = {f"random {seed}": probabilities(seed) for seed in range(4)} | CERTAIN


# Overlap


@pytest.mark.parametrize("seed", range(4))
def test_dice_is_scikit_learns(seed):
    a, b = blob(seed), blob(seed + 10, share=0.4)
    assert dice(a, b) == pytest.approx(f1_score(b.ravel(), a.ravel()), abs=1e-12)


@pytest.mark.parametrize("score", [dice, lambda a, b: surface_scores(a, b, SPACING)["nsd"]])
def test_overlap_of_empty_masks(score):
    assert score(EMPTY, EMPTY) == 1
    assert score(EMPTY, BALL) == score(BALL, EMPTY) == 0
    assert score(BALL, BALL) == 1


@pytest.mark.parametrize("axis", range(3))
def test_surfaces_of_a_box_that_is_shifted_are_as_far_apart(axis):
    """By a voxel along an axis: two of its six sides, and the edges around them."""
    a = np.pad(np.ones((6, 12, 9), bool), 3)
    scores = surface_scores(np.roll(a, 1, axis), a, SPACING, SPACING[axis] - 0.1)
    assert scores["hd95_mm"] == pytest.approx(SPACING[axis])
    assert scores["median_mm"] == 0
    assert 0.5 < scores["nsd"] < 1
    assert surface_scores(np.roll(a, 1, axis), a, SPACING, SPACING[axis] + 0.1)["nsd"] == 1


def test_surfaces_of_an_empty_mask_have_no_distance():
    assert np.isnan(surface_scores(EMPTY, BALL, SPACING)["hd95_mm"])


# Calibration


@pytest.mark.parametrize("name", INPUTS)
def test_likelihood_is_scikit_learns(name):
    p, truth = INPUTS[name]
    ours = negative_log_likelihood(np.where(truth, p, 1 - p)) / truth.size
    assert ours == pytest.approx(log_loss(truth, p, labels=[False, True]), abs=1e-6)


@pytest.mark.parametrize("name", INPUTS)
def test_brier_is_scikit_learns(name):
    p, truth = INPUTS[name]
    ours = Calibration.of(p, truth).brier
    assert ours == pytest.approx(brier_score_loss(truth, p, pos_label=True, labels=[False, True]), abs=1e-6)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("norm", ["l1", "max"])
def test_calibration_errors_are_torchmetrics(name, norm):
    from torchmetrics.functional.classification import binary_calibration_error  # takes seconds

    p, truth = INPUTS[name]
    calibration = Calibration.of(p, truth)
    theirs = binary_calibration_error(torch.tensor(p), torch.tensor(truth).int(), n_bins=15, norm=norm)
    assert {"l1": calibration.ece, "max": calibration.mce}[norm] == pytest.approx(float(theirs), abs=1e-6)


def test_certainty_belongs_to_the_last_bin():
    """torchmetrics gives p = 1 a sixteenth bin; here the last of the fifteen takes it."""
    calibration = Calibration.of(np.array([0.95, 1.0]), np.array([True, False]))
    assert calibration.count.tolist() == [0] * 14 + [2]
    assert calibration.ece == calibration.mce == pytest.approx(0.475)


def test_calibration_of_cases_adds_up():
    p, truth = probabilities(5)
    together, parts = Calibration.of(p, truth), Calibration.of(p[:700], truth[:700])
    parts = parts + Calibration.of(p[700:], truth[700:])
    assert (parts.ece, parts.mce, parts.brier) == pytest.approx((together.ece, together.mce, together.brier))
    curve = parts.curve()
    edges = np.linspace(0, 1, 16)
    for b in range(15):
        inside = (p >= edges[b]) & (p < edges[b + 1])
        assert curve["count"][b] == inside.sum()
        assert curve["frequency"][b] == pytest.approx(truth[inside].mean())
        assert curve["confidence"][b] == pytest.approx(p[inside].mean(dtype=float))


def test_calibration_without_a_voxel_is_undefined():
    calibration = Calibration.of(np.zeros(0), np.zeros(0, bool))
    assert np.isnan([calibration.ece, calibration.mce, calibration.brier]).all()
    assert np.isnan(calibration.curve()["frequency"]).all()


# Ranking


def doubts(seed: int, ties: bool, size: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    doubt = rng.gamma(0.5, 0.1, size).astype(np.float32)
    if ties:
        doubt = np.round(doubt, 2)
    return doubt, rng.uniform(size=size) < np.clip(doubt, 0.01, 0.6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_auprc_are_scikit_learns(seed, ties):
    doubt, error = doubts(seed, ties)
    scores = ErrorRanking.of(doubt, error).scores()
    assert scores["auroc"] == pytest.approx(roc_auc_score(error, doubt), abs=1e-6)
    assert scores["auprc"] == pytest.approx(average_precision_score(error, doubt), abs=1e-6)


@pytest.mark.parametrize("doubt", [np.zeros(6), np.full(6, 0.25)])
def test_ranking_where_all_are_equally_certain(doubt):
    error = np.array([1, 0, 0, 1, 0, 0], bool)
    scores = ErrorRanking.of(doubt, error).scores()
    assert scores["auroc"] == roc_auc_score(error, doubt) == 0.5
    assert scores["auprc"] == pytest.approx(average_precision_score(error, doubt), abs=1e-12)
    assert scores["aurc"] == pytest.approx(1 / 3)
    assert scores["augrc"] == pytest.approx(1 / 6)


def test_ranking_without_errors_or_without_voxels():
    doubt = np.linspace(0, 0.2, 9)
    perfect = ErrorRanking.of(doubt, doubt > 1).scores()
    assert np.isnan([perfect["auroc"], perfect["auprc"]]).all()
    assert perfect["aurc"] == perfect["augrc"] == 0
    wrong = ErrorRanking.of(doubt, doubt >= 0).scores()
    assert np.isnan(wrong["auroc"])
    assert wrong["auprc"] == average_precision_score(doubt >= 0, doubt) == 1
    assert (wrong["aurc"], wrong["augrc"]) == pytest.approx((1, 0.5))
    assert np.isnan(list(ErrorRanking().scores().values())).all()


@pytest.mark.parametrize("seed", range(3))
def test_aurc_without_ties_is_the_area_under_the_curve(seed):
    """scikit-learn's trapezia, with the half steps at both ends that a mean over all coverages has beside them."""
    doubt, error = doubts(seed, ties=False)
    doubt, first = np.unique(doubt, return_index=True)
    error = error[first]
    risk = np.cumsum(error[np.argsort(doubt)]) / np.arange(1, len(doubt) + 1)
    coverage = np.arange(1, len(doubt) + 1) / len(doubt)
    expected = auc(coverage, risk) + (risk[0] + risk[-1]) / (2 * len(doubt))
    assert ErrorRanking.of(doubt, error).scores()["aurc"] == pytest.approx(expected, abs=1e-6)


def test_aurc_with_ties_is_the_mean_over_all_orders_of_the_tied():
    doubt = np.array([0.1, 0.1, 0.1, 0.0, 0.2, 0.2])
    error = np.array([1, 0, 0, 0, 1, 0], bool)
    areas = []
    for order in permutations(range(6)):
        if (np.diff(doubt[list(order)]) >= 0).all():
            areas.append((np.cumsum(error[list(order)]) / np.arange(1, 7)).mean())
    assert len(areas) == 12
    assert ErrorRanking.of(doubt, error).scores()["aurc"] == pytest.approx(np.mean(areas), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_augrc_follows_from_auroc_and_accuracy(seed, ties):
    """Traub et al. 2024: AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2, with scikit-learn's AUROC."""
    doubt, error = doubts(seed, ties)
    rate = error.mean()
    expected = (1 - roc_auc_score(error, doubt)) * (1 - rate) * rate + rate**2 / 2
    assert ErrorRanking.of(doubt, error).scores()["augrc"] == pytest.approx(expected, abs=1e-6)


def test_ranking_of_pooled_cases_is_exact():
    cases = [doubts(seed, ties=seed == 1) for seed in range(3)]
    pooled = ErrorRanking()
    for case in cases:
        pooled.add(ErrorRanking.of(*case))
    doubt, error = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    assert pooled.dropped == 0
    assert pooled.scores() == pytest.approx(ErrorRanking.of(doubt, error).scores(), abs=1e-12)
    assert pooled.scores()["auprc"] == pytest.approx(average_precision_score(error, doubt), abs=1e-6)


def test_ranking_that_outgrows_its_table_hardly_changes():
    pooled, cases = ErrorRanking(most=2**16), [doubts(seed, ties=False, size=60_000) for seed in range(4)]
    at_once = ErrorRanking(most=2**16)
    for case in cases:
        pooled.add(ErrorRanking.of(*case))
        pooled.table()  # merges
        at_once.add(ErrorRanking.of(*case))
    doubt, error = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    assert at_once.table()[1].sum() == len(doubt)
    assert pooled.dropped == at_once.dropped > 0
    assert len(at_once.keys) <= 2**16
    np.testing.assert_array_equal(at_once.table(), pooled.table())
    exact = ErrorRanking.of(doubt, error).scores()
    for name, tolerance in {"auroc": 1e-6, "aurc": 1e-6, "augrc": 1e-6, "auprc": 2e-5}.items():
        assert pooled.scores()[name] == pytest.approx(exact[name], abs=tolerance), name


def test_error_rate_by_uncertainty():
    binned = ErrorRanking.of(np.array([0, 0.01, 0.2, 0.25]), np.array([0, 1, 1, 1], bool)).binned(0.25, bins=5)
    assert binned["count"] == [2, 0, 0, 0, 2]
    assert binned["error"][::4] == [0.5, 1.0]
    assert binned["uncertainty"][::4] == pytest.approx([0.005, 0.225])
    assert np.isnan(binned["error"][2])


# Several raters


def test_energy_distance_is_one_of_jaccard_distances():
    """SciPy's Jaccard distance is 1 - IoU."""
    samples, raters = [blob(s).astype(np.uint8) for s in (1, 2, 3)], [blob(s).astype(np.uint8) for s in (3, 4)]
    flat = [np.ravel(m).astype(bool) for m in samples + raters]
    distance = np.zeros((5, 5))
    distance[np.triu_indices(5, 1)] = pdist(flat, "jaccard")
    distance += distance.T
    expected = 2 * distance[:3, 3:].mean() - distance[:3, :3].mean() - distance[3:, 3:].mean()
    assert generalised_energy_distance(samples, raters) == pytest.approx(expected, abs=1e-6)


def test_energy_distance_of_one_distribution_and_of_nothing():
    maps = [blob(s).astype(np.uint8) for s in (1, 2)]
    empty = np.zeros_like(maps[0])
    assert generalised_energy_distance(maps, maps[::-1]) == pytest.approx(0, abs=1e-12)
    assert generalised_energy_distance([empty], [empty]) == 0
    assert generalised_energy_distance([empty], [maps[0]]) == 2
    assert np.isnan(generalised_energy_distance([], maps))
    assert np.isnan(generalised_energy_distance(maps, []))


def test_energy_distance_of_two_classes_is_their_mean():
    a, b = blob(1), blob(2)
    both = np.where(a, 1, np.where(b, 2, 0))
    alone = [generalised_energy_distance([both == c], [np.zeros_like(both)], (True,)) for c in (1, 2)]
    assert generalised_energy_distance([both], [np.zeros_like(both)], (1, 2)) == np.mean(alone) == 2


def test_error_of_the_probability():
    found = probability_error(np.array([0.2, 0.5, 1.0]), np.array([0.0, 1.0, 1.0]), np.array([1, 1, 0], bool))
    assert found == pytest.approx({"mae": 0.35, "rmse": np.sqrt((0.04 + 0.25) / 2), "bias": -0.15})
    assert np.isnan(list(probability_error(np.zeros(3), np.zeros(3), np.zeros(3, bool)).values())).all()
