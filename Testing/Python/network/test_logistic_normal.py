"""Mean and variance of the logistic of a normal against quadrature, in the tails too; their constants; the inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.optimize import linprog

from MoBUncertaintyLib.gaussian import moments
from MoBUncertaintyLib.gaussian.logits import MAX_DEVIATION, looked_up_normal, normal_from_moments
from MoBUncertaintyLib.gaussian.moments import (
    ERFCX,
    ERFCX_SCALE,
    LOGISTIC,
    NARROW,
    SQUARED,
    complete_moments,
    fused_moments,
    logistic_normal_moments,
)

SMALL = 1e-14  # below this, variances have no digits to keep


def quadrature(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E and Var of sigma(mean + deviation z), z standard normal, mean <= 0, in float64 and relatively exact.

    By the trapezoidal rule for differences from sigma(mean), as far out as e^(2 deviation z) has its mass.
    """
    expectation, variance = np.empty(mean.shape), np.empty(mean.shape)
    for index, (m, s) in enumerate(zip(mean, deviation, strict=True)):
        step = min(0.1, 0.25 / max(s, 1e-9))
        z = np.arange(-np.ceil(10 / step), np.ceil((10 + 2 * s) / step) + 1) * step
        density = np.exp(-0.5 * z * z) * step / np.sqrt(2 * np.pi)
        growth = np.expm1(np.minimum(s * z, 700))
        q = special.expit(m)
        difference = q * (1 - q) * growth / (1 + q * growth)
        shift = density @ difference
        expectation[index] = q + shift
        variance[index] = density @ (difference - shift) ** 2
    return expectation, variance


@pytest.fixture(scope="module")
def grid() -> tuple[np.ndarray, ...]:
    """m <= 0, s, E and Var over the range in which they are promised, dense about the lines where methods change."""
    means = -np.concatenate(([0, 1e-3], np.linspace(0.1, 30, 95)))
    edge = np.sqrt(NARROW)
    deviations = [
        0.0,
        1e-3,
        0.01,
        0.1,
        *np.linspace(0.2, 4, 40),
        edge - 1e-3,
        edge,
        edge + 1e-3,
        *np.linspace(5, 20, 16),
    ]
    m, s = (values.ravel() for values in np.meshgrid(means, deviations))
    return m, s, *quadrature(m, s)


def test_the_oracle_is_scipys_quadrature():
    from scipy.integrate import quad

    for m, s in ((-20.0, 0.5), (-6.0, 0.2), (-3.0, 2.0), (0.0, 1.0), (-9.0, 3.0)):

        def moment(power: int, m=m, s=s) -> float:
            def integrand(z: float) -> float:
                return special.expit(m + s * z) ** power * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

            return quad(integrand, -12, 12 + 2 * s, points=[0, 2 * s, -m / s], limit=400, epsabs=0)[0]

        first = moment(1)
        expectation, variance = quadrature(np.array([m]), np.array([s]))
        assert expectation[0] == pytest.approx(first, rel=1e-9)
        assert variance[0] == pytest.approx(moment(2) - first**2, rel=1e-7)


def moments_of(kind: str, mean: np.ndarray, variance: np.ndarray) -> list[np.ndarray]:
    """By numpy, by torch, or as inference engines do, in the format named; as float64."""
    library, dtype = kind.split()
    pair = [values.astype(dtype) for values in (mean, variance)]
    if library == "fused":
        found = [each.numpy() for each in fused_moments(*map(torch.from_numpy, pair))]
        left = np.flatnonzero(found[1] < 0)
        assert ((pair[1] > NARROW)[left]).all() and 0 < len(left) < len(mean) / 2
        complete_moments(*pair, *found)
        return [each.astype(float) for each in found]
    if library == "torch":
        return [found.numpy().astype(float) for found in logistic_normal_moments(*map(torch.from_numpy, pair))]
    return [found.astype(float) for found in logistic_normal_moments(*pair)]


@pytest.mark.parametrize("kind", ["numpy float32", "numpy float64", "torch float32", "torch float64", "fused float32"])
def test_both_moments_are_relatively_accurate(grid, kind):
    m, s, expectation, variance = grid
    p, v = moments_of(kind, m, s**2)
    assert np.abs(p / expectation - 1).max() <= 1e-4
    assert np.abs(p - expectation).max() <= 5e-6
    counts = variance > SMALL
    assert np.abs(v[counts] / variance[counts] - 1).max() <= 1e-3
    assert np.abs(v - variance).max() <= 2e-5


@pytest.mark.parametrize("kind", ["numpy float32", "torch float32", "fused float32"])
def test_near_one_the_variance_keeps_its_digits_and_the_mean_those_that_float32_has(grid, kind):
    """1 - E has no more of them than a number near 1; E(-m) is tested above."""
    m, s, _, variance = grid
    counts = variance > SMALL
    low, v_low = moments_of(kind, m, s**2)
    high, v_high = moments_of(kind, -m, s**2)
    assert np.abs(high - (1 - low)).max() <= np.finfo(np.float32).eps / 2
    assert np.array_equal(v_low, v_high)
    assert np.abs(v_high[counts] / variance[counts] - 1).max() <= 1e-3


@given(m=st.floats(-200, 200, width=32), s2=st.floats(0, 1e6, width=32))
def test_variance_stays_in_its_possible_range(m, s2):
    """Up to float32's rounding of p near 1, and of the product near its bound."""
    p, variance = logistic_normal_moments(torch.tensor([m]), torch.tensor([s2]))
    assert 0 <= p <= 1
    assert 0 <= variance <= p * (1 - p) * (1 + 1e-6) + 2**-24


@given(m=st.floats(-20, 20, width=32), s2=st.floats(0, 400, width=32))
def test_swapping_the_classes_mirrors_the_mean_and_keeps_the_variance(m, s2):
    (p, q), variance = logistic_normal_moments(torch.tensor([m, -m]), torch.tensor([s2, s2]))
    assert abs(p + q - 1) < 1e-6
    assert variance[0] == variance[1]


@pytest.mark.parametrize("s2", [0.0, 1e-6, 0.3, 5.0, NARROW, 30.0, 1e4])
def test_gradients_are_finite_and_those_of_the_integral(s2):
    """d E / d m = E (1 - E) - Var, whatever the method; at m = 0, too."""
    m = torch.linspace(-80, 80, 33, dtype=torch.float64, requires_grad=True)
    v = torch.full((33,), s2, dtype=torch.float64, requires_grad=True)
    expectation, variance = logistic_normal_moments(m, v)
    slope, other = torch.autograd.grad(expectation.sum(), (m, v), retain_graph=True)
    assert torch.isfinite(other).all()
    lower = m.detach() <= 0
    wanted = (expectation * (1 - expectation) - variance)[lower]
    assert ((slope[lower] - wanted).abs() <= 2e-3 * wanted + 1e-12).all()
    assert torch.allclose(slope, slope.flip(0))
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(variance.sum(), (m, v)))


@pytest.mark.parametrize("size", [1, 3, 17, 1001])
def test_a_voxel_does_not_depend_on_those_that_are_computed_with_it(size):
    """To the bit: a part of an image that is computed anew must be what it was."""
    random = np.random.default_rng(size)
    mean = (5 * random.standard_normal(5000)).astype(np.float32)
    variance = random.uniform(0, 40, 5000).astype(np.float32)
    together = logistic_normal_moments(mean, variance)
    inverted = normal_from_moments(*together)
    part = slice(7, 7 + size)
    for alone, whole in (
        (logistic_normal_moments(mean[part].copy(), variance[part].copy()), together),
        (normal_from_moments(*(each[part].copy() for each in together)), inverted),
    ):
        assert all(np.array_equal(mine, theirs[part]) for mine, theirs in zip(alone, whole, strict=True))


def test_pieces_and_shapes_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    m, v = rng.normal(0, 8, (7, 5, 30)), rng.uniform(0, 12, (7, 5, 30))
    whole = logistic_normal_moments(m, v)
    monkeypatch.setattr(moments, "PIECE", 64)
    for found, wanted in zip(logistic_normal_moments(m, v), whole, strict=True):
        assert found.shape == m.shape
        assert np.allclose(found, wanted, rtol=1e-12, atol=0)


def minimax(function: np.ndarray, x: np.ndarray, degree: int, exact_at_1: bool) -> tuple[np.ndarray, float]:
    """The polynomial whose maximum relative error is least, by linear programming, and that error."""
    ratios = x[:, None] ** np.arange(degree + 1) / function[:, None]
    ones = np.ones((len(x), 1))
    found = linprog(
        [0] * (degree + 1) + [1],
        A_ub=np.block([[ratios, -ones], [-ratios, -ones]]),
        b_ub=np.concatenate((ones, -ones)),
        A_eq=[[1] * (degree + 1) + [0]] if exact_at_1 else None,
        b_eq=[1] if exact_at_1 else None,
        bounds=[(None, None)] * (degree + 1) + [(0, None)],
    )
    return found.x[:-1], found.x[-1]


@pytest.mark.parametrize(
    ("constants", "function", "error"),
    [
        (LOGISTIC, lambda u: 1 / (1 + u), 9e-6),
        (SQUARED[1:], lambda u: 1 / (1 + u) ** 2, 3.5e-4),
        (ERFCX, lambda t: special.erfcx((1 / t - 1) / ERFCX_SCALE) / t, 6e-6),
    ],
    ids=["logistic", "its square", "erfcx"],
)
def test_constants_are_those_of_the_minimax_polynomials(constants, function, error):
    x = (1 - np.cos(np.linspace(1e-3, np.pi, 400))) / 2
    fitted, least = minimax(function(x), x, len(constants) - 1, exact_at_1=constants is ERFCX)
    assert least < error
    assert np.abs(np.polynomial.polynomial.polyval(x, constants) / function(x) - 1).max() < error
    assert np.abs(fitted - constants).max() < 2e-3 * np.abs(constants).max()


def test_the_inverse_returns_both_moments(grid):
    m, s, _, _ = grid
    for sign in (-1, 1):
        p, v = (found.astype(np.float32) for found in logistic_normal_moments(sign * m, s**2))
        mean, square = normal_from_moments(p, v)
        assert mean.dtype == square.dtype == np.float32
        found_p, found_v = logistic_normal_moments(mean.astype(float), square.astype(float))
        exact = p.astype(float)  # float32 near 1 has another 1 - p than -m's p, so compare with what was given
        inside = (p > 0) & (p < 1)
        assert np.abs(found_p - exact).max() <= 1e-6
        lower, upper = inside & (p <= 0.5), inside & (p > 0.5)
        assert (np.abs(found_p - exact)[lower] <= 1e-4 * exact[lower]).all()
        assert (np.abs(found_p - exact)[upper] <= 1e-4 * (1 - exact)[upper]).all()
        # A step of float32 near 1 is more than 1e-3 of the variance's own scale where 1 - p is below 1e-4.
        counts = inside & (v > SMALL) & ((p <= 0.5) | (p < 1 - 1e-4))
        assert np.abs(found_v[counts] / v[counts] - 1).max() <= 1e-3
        if sign < 0:
            rough, spread = looked_up_normal(p[lower & counts], v[lower & counts])
            assert np.abs(rough - mean[lower & counts]).max() < 0.3
            assert np.median(np.abs(rough - mean[lower & counts])) < 5e-3
            assert np.abs(spread / square[lower & counts] - 1).max() < 0.05


def test_the_inverse_finds_the_normal_itself():
    rng = np.random.default_rng(0)
    m, v = rng.uniform(-6, 6, 5000), rng.uniform(0, 9, 5000)
    mean, square = normal_from_moments(*logistic_normal_moments(m, v))
    assert np.abs(mean - m).max() < 5e-3
    assert np.abs(square - v).max() < 2e-2


def test_the_inverse_of_what_no_normal_gives_is_near():
    p = np.array([0, 1, 0, 0.5, 0.3, 1e-20, 0.2, 0.2], np.float32)
    v = np.array([0, 0, 1e-3, 0.25, 0.9, 0, 0, 1e-12], np.float32)
    mean, square = normal_from_moments(p, v)
    assert np.isfinite(mean).all()
    assert np.array_equal(special.expit(mean[:3]), [0, 1, 0])
    assert (square[:3] == 0).all()
    assert square[3:5] == pytest.approx(MAX_DEVIATION**2)
    assert mean[3] == pytest.approx(0, abs=1e-3)
    assert logistic_normal_moments(mean, square)[0][4] == pytest.approx(0.3, rel=1e-4)
    assert mean[5] == pytest.approx(np.log(1e-20), rel=1e-5)
    assert mean[6] == pytest.approx(special.logit(0.2), rel=1e-5)
    assert square[5:] == pytest.approx([0, 0, 1e-12 / 0.16**2], abs=1e-20, rel=1e-3)


@given(p=st.floats(0, 1, width=32), v=st.floats(0, 0.25, width=32))
def test_the_inverse_is_always_finite_and_keeps_the_probability(p, v):
    mean, square = normal_from_moments(np.array([p], np.float32), np.array([v], np.float32))
    assert np.isfinite(mean[0])
    assert 0 <= square[0] <= MAX_DEVIATION**2 * (1 + 1e-6)
    assert logistic_normal_moments(mean, square)[0][0] == pytest.approx(p, abs=1e-6)
