"""Laplace's approximation against scikit-learn's, and against numerical integration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import Kernel

from MoBUncertaintyLib.review.refinement.conditioning import Field, Wendland, mode, pairs_mm, solve, spread

KERNEL = Wendland(4.0)


def condition(
    field: Field, at: np.ndarray, signs: np.ndarray, strength: float = 1.0, variance_strength: float | None = None
) -> Field:
    """Condition a field of all voxels on the signs of those `at` some indices, which may come more than once."""
    own = Field(field.mean[at], field.deviation[at], field.places_mm[at])
    weights, explaining = solve(own, KERNEL, signs, strength, variance_strength or strength)
    shift, kept = spread(KERNEL.between(pairs_mm(own.places_mm, field.places_mm)), weights, explaining)
    return Field(field.mean + field.deviation * shift, field.deviation * np.sqrt(kept), field.places_mm)


class Correlated(Kernel):
    """Ours, of places with a deviation as the fourth coordinate, as scikit-learn has them."""

    def __init__(self):
        """Without parameters to fit."""

    def __call__(self, X, Y=None, eval_gradient=False):  # noqa: N803
        Y = X if Y is None else Y  # noqa: N806
        distances = np.linalg.norm(X[:, None, :3] - Y[None, :, :3], axis=-1)
        return X[:, 3:] * KERNEL(distances) * Y[:, 3]

    def diag(self, X):  # noqa: N803
        return X[:, 3] ** 2

    def is_stationary(self):
        return False


def field(random: np.random.Generator, voxels: int, size: float = 25, mean: float = 0.0) -> Field:
    return Field(
        random.normal(0, mean, voxels) if mean else np.zeros(voxels),
        random.uniform(0.3, 3, voxels),
        random.uniform(0, size, (voxels, 3)),
    )


def of_sklearn(prior: Field, at: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latent mean and variance (Rasmussen & Williams, algorithm 3.2) from the mode that scikit-learn found."""
    places = np.column_stack([prior.places_mm, prior.deviation])
    model = GaussianProcessClassifier(Correlated(), optimizer=None, max_iter_predict=500).fit(places[at], signs)
    inner = model.base_estimator_
    if hasattr(inner, "latent_mean_and_variance"):
        return inner.latent_mean_and_variance(places)
    across = inner.kernel_(inner.X_train_, places)
    half = np.linalg.solve(inner.L_, inner.W_sr_[:, None] * across)
    return across.T @ (inner.y_train_ - inner.pi_), inner.kernel_.diag(places) - (half**2).sum(0)


@pytest.mark.parametrize("clicks", [2, 3, 5, 12, 40])
@pytest.mark.parametrize("repeats", [1, 4])
def test_scikit_learn_finds_the_same_latent_mean_and_variance(clicks: int, repeats: int) -> None:
    random = np.random.default_rng(clicks)
    prior = field(random, 300)
    at, signs = np.arange(clicks), np.where(np.arange(clicks) % 2, 1, -1)
    mean, variance = of_sklearn(prior, np.tile(at, repeats), np.tile(signs, repeats))
    found = condition(prior, at, signs, strength=repeats)
    assert np.abs(found.mean - mean).max() < 1e-4
    assert np.abs(found.deviation**2 - variance).max() < 1e-4


@pytest.mark.parametrize("beta", [2, 5, 32])
def test_a_strength_is_as_many_equal_clicks(beta: int) -> None:
    random = np.random.default_rng(beta)
    prior = field(random, 50, mean=3.0)
    at, signs = np.arange(4), np.array([1, -1, -1, 1])
    once = condition(prior, at, signs, strength=beta)
    often = condition(prior, np.tile(at, beta), np.tile(signs, beta))
    assert np.abs(once.mean - often.mean).max() < 1e-7
    assert np.abs(once.deviation - often.deviation).max() < 1e-7


@settings(deadline=None, max_examples=40)
@given(
    mean=st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
    deviation=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
    distance=st.floats(0.5, 14),
    signs=st.tuples(st.sampled_from((-1, 1)), st.sampled_from((-1, 1))),
    strength=st.sampled_from((0.5, 1.0, 4.0, 32.0)),
)
def test_the_mode_and_its_curvature_are_those_of_the_tempered_posterior(
    mean: tuple, deviation: tuple, distance: float, signs: tuple, strength: float
) -> None:
    """Against a general minimiser and finite differences, which know nothing of the dual."""
    prior = Field(np.array(mean), np.array(deviation), np.array([[0.0, 0, 0], [distance, 0, 0]]))
    found = condition(prior, np.array([0, 1]), np.array(signs), strength)
    k = KERNEL(np.array([[0, distance], [distance, 0]])) * np.outer(deviation, deviation)
    y, m = np.array(signs), np.array(mean)
    half = np.linalg.cholesky(k)

    def energy(z: np.ndarray) -> float:
        return float(strength * np.logaddexp(0, -y * (m + half @ z)).sum() + 0.5 * z @ z)

    def slope(z: np.ndarray) -> np.ndarray:
        return -half.T @ (strength * y * expit(-y * (m + half @ z))) + z

    best = minimize(energy, np.zeros(2), jac=slope, method="BFGS", options={"gtol": 1e-9}).x
    assert np.abs(slope(best)).max() < 1e-5
    assert found.mean == pytest.approx(m + half @ best, abs=1e-4)
    step = 1e-5
    hessian = np.array([(slope(best + step * e) - slope(best - step * e)) / (2 * step) for e in np.eye(2)])
    covariance = half @ np.linalg.inv(hessian) @ half.T
    assert found.deviation**2 == pytest.approx(covariance.diagonal(), rel=1e-3, abs=1e-4)


def integrated(prior: Field, at: np.ndarray, signs: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the true posterior at all voxels: quadrature over the logits of one or two clicks."""
    k = KERNEL(np.linalg.norm(prior.places_mm[:, None] - prior.places_mm, axis=-1))
    k = k * np.outer(prior.deviation, prior.deviation)
    own = k[np.ix_(at, at)]
    half = np.linalg.cholesky(own)
    axes = np.meshgrid(*[np.linspace(-12, 12, 4001 if len(at) == 1 else 1201)] * len(at), indexing="ij")
    z = np.stack([axis.ravel() for axis in axes])
    u = half @ z
    log = -0.5 * (z**2).sum(0) - strength * np.logaddexp(0, -signs[:, None] * (prior.mean[at, None] + u)).sum(0)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    first = u @ weight
    second = (u * weight) @ u.T - np.outer(first, first)
    gain = np.linalg.solve(own, k[at])
    variance = k.diagonal() - np.einsum("in,ij,jn->n", gain, own - second, gain)
    return prior.mean + first @ gain, np.sqrt(variance)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 2), deviation=st.floats(0.2, 1.0), mean=st.floats(-3, 3))
def test_numerical_integration_agrees_where_laplace_is_accurate(
    seed: int, count: int, deviation: float, mean: float
) -> None:
    """Laplace's mean is the mode; for a click of strength 1 the two differ by little as long as the prior is narrow."""
    random = np.random.default_rng(seed)
    prior = Field(np.full(12, mean), np.full(12, deviation), random.uniform(0, 10, (12, 3)))
    at, signs = np.arange(count), random.choice([-1, 1], count)
    found = condition(prior, at, signs)
    mean_, deviation_ = integrated(prior, at, signs, 1.0)
    assert np.abs(found.mean - mean_).max() < 0.05 * deviation + 1e-3
    assert np.abs(found.deviation / deviation_ - 1).max() < 0.03


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 30),
    size=st.floats(1, 60),
    strengths=st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)),
)
def test_clicks_draw_their_voxels_to_their_side_and_leave_no_more_variance(
    seed: int, count: int, size: float, strengths: tuple[float, float]
) -> None:
    random = np.random.default_rng(seed)
    prior = field(random, 80, size, mean=6.0)
    at, signs = np.arange(count), random.choice([-1, 1], count)
    found = condition(prior, at, signs, *strengths)
    assert (found.deviation <= prior.deviation).all()
    assert np.isfinite(found.mean).all()
    far = np.linalg.norm(prior.places_mm[at, None] - prior.places_mm, axis=-1).min(0) >= KERNEL.reach_mm
    assert (found.mean[far] == prior.mean[far]).all()
    assert (found.deviation[far] == prior.deviation[far]).all()
    # At the mode all of the weights push to the clicks' sides.
    own = KERNEL(np.linalg.norm(prior.places_mm[at, None] - prior.places_mm[at], axis=-1))
    own = own * np.outer(prior.deviation[at], prior.deviation[at])
    weights, _ = mode(prior.mean[at], own, signs, strengths[0])
    assert weights * signs == pytest.approx(strengths[0] * expit(-signs * found.mean[at]), abs=1e-5 * strengths[0])


def test_the_stiffest_settings_end_at_the_mode_too() -> None:
    """Where rounding leaves no step that is better, the search for one must end."""
    random = np.random.default_rng(0)
    for _ in range(150):
        count = int(random.integers(1, 40))
        prior = Field(
            random.normal(0, 15, count), random.uniform(0.05, 20, count), random.uniform(0, 40, (count, 3)).round(-1)
        )
        k = KERNEL(np.linalg.norm(prior.places_mm[:, None] - prior.places_mm, axis=-1))
        k = k * np.outer(prior.deviation, prior.deviation)
        signs, strength = random.choice([-1, 1], count), float(np.exp(random.uniform(3, 9.2)))
        weights, _ = mode(prior.mean, k, signs, strength)
        moved = k @ weights
        left = k @ (strength * signs * expit(-signs * (prior.mean + moved)) - weights)
        assert np.abs(left).max() < 1e-2 * (1 + np.abs(moved).max())
