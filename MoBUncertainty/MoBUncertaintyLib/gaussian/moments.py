"""Compute mean and variance of sigma(t), t normal, in closed form; numpy arrays and torch tensors alike.

Both moments are accurate relatively, in the tails too, where ranking voxels by their variance needs them. No one method
is, so three share the work; each computes only the voxels that need it. All take m <= 0, where E <= 1/2 has the digits;
E(-m) = 1 - E(m) and the variance is the same.

- *Tails*, where hardly any of the mass has sigma(t) other than e^t: the moments of a log-normal variable, corrected to
  the first order. Most voxels of an image are there.
- *Narrow*, s <= 3 otherwise: the trapezoidal rule, on differences from sigma(m) that nothing cancels in. Up to
  s = 1.75 half the nodes are enough.
- *Wide*, the rest: sigma(t) is a polynomial in e^-|t| on either side of 0, and the integrals of exponentials over half
  a normal are values of erfcx.

Nothing here imports torch: tensors bring their functions with them. The constants are fitted again by
Testing/Python/network/test_logistic_normal.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Values = TypeVar("Values", np.ndarray, "Tensor")

NARROW = 3.0**2
"""Variance of the logit up to which the trapezoidal rule holds."""
NARROWER = 1.75**2
"""The same of half its nodes."""


def _rule(step: float, pairs: int) -> tuple[float, tuple[float, ...]]:
    """Return the step in units of s, and the weights of the nodes on each side of m."""
    density = np.exp(-0.5 * (step * np.arange(-pairs, pairs + 1)) ** 2)
    return step, tuple((density / density.sum())[pairs + 1 :].tolist())


RULE, COARSE_RULE = _rule(0.48, 18), _rule(0.75, 9)
"""Up to `NARROW` and `NARROWER`; fewer nodes are wrong there."""

# Minimax polynomials, by relative error: u / (1 + u) = sum_k LOGISTIC_k u^k to 9e-6 and its square, with SQUARED, to
# 3.5e-4, 0 <= u <= 1 and k from 1 and 2; erfcx(x) = sum_k ERFCX_k t^k, k from 1, t = 1 / (1 + 0.4 x), to 6e-6, x >= 0,
# and exactly at 0, so that E(0) is 1/2.
LOGISTIC = (0.99999125, -0.99913343, 0.9854083, -0.90305752, 0.66776958, -0.3226806, 0.0717068)
SQUARED = (0.0, 0.99965318, -1.9771206, 2.7282956, -2.6850719, 1.601741, -0.41758394)
ERFCX = (0.22567711, 0.22563529, 0.20725203, 0.18061708, 0.071397377, 0.18349538, -0.094074267)
ERFCX_SCALE = 0.4

LOG2_E = 1.4426950408889634
PIECE = 2**15
"""Values of an array at once, so that intermediate results stay in a CPU's cache."""


def logistic_normal_moments(mean: Values, variance: Values) -> tuple[Values, Values]:
    """Compute E[sigma(t)] and Var[sigma(t)] for t ~ N(mean, variance), in closed form; any common shape.

    Up to |m| = 30 and s = 20, min(E, 1 - E) is right to 1e-4 and the variance, wherever it exceeds 1e-14, to 1e-3,
    relatively, also in float32. There E above 1/2 is as near to 1 - E(-m) as the format allows, while its variance
    keeps its digits: it can exceed E (1 - E) by what E was rounded by. Differentiable.
    """
    m, v = mean.reshape(-1), variance.reshape(-1)
    if not isinstance(mean, np.ndarray):
        expectation, spread = _flat_moments(_Tensors, m, v)
    else:
        expectation, spread = np.empty_like(m), np.empty_like(m)
        for start in range(0, m.size, PIECE):
            part = slice(start, start + PIECE)
            expectation[part], spread[part] = _flat_moments(_Arrays, m[part], v[part])
    return expectation.reshape(mean.shape), spread.reshape(mean.shape)


def fused_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both by arithmetic alone, tail and narrow voxels both ways, as accurately as `logistic_normal_moments`.

    For inference engines, which make loops of it that take 20 ns for a voxel, but cannot select voxels quickly.

    Returns:
        E and Var; a variance of -1 where the voxel is a wide one: `complete_moments` computes those.
    """
    xp: Any = _Fused
    m, edge = -abs(mean), _edge(xp, variance)
    inner, outer = _narrow(xp, m, xp.minimum(variance, NARROW)), _tail(xp, m, variance, edge)
    tail = m < edge
    expectation = outer[0].where(tail, inner[0])
    spread = outer[1].where(tail, inner[1].where(variance <= NARROW, inner[1] * 0 - 1))
    return (1 - expectation).where(mean > 0, expectation), spread


def complete_moments(mean: np.ndarray, variance: np.ndarray, expectation: np.ndarray, spread: np.ndarray) -> None:
    """Compute, in place, what `fused_moments` left out of E and Var; (N,) arrays."""
    left = np.flatnonzero(spread < 0)
    for start in range(0, left.size, PIECE):
        part = left[start : start + PIECE]
        expectation[part], spread[part] = _mirrored(_Arrays, _wide, mean[part], variance[part])


def _edge(xp: Any, variance: Any) -> Any:
    """Return the m left of which the tail's formula holds: what it leaves out is 1e-5 of E, or 3e-4 of Var > 1e-14."""
    return -xp.maximum(5 + 2 * variance, xp.minimum(4.6 + 3 * variance, 16.2 + variance))


def _flat_moments(xp: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
    """Compute both for (N,) voxels, each by its method."""
    edge = _edge(xp, variance)
    expectation, spread = _mirrored(xp, _tail, mean, variance, edge)
    others = xp.indices(-abs(mean) >= edge)
    m, v = xp.selected(mean, others), xp.selected(variance, others)
    wide, coarse = v > NARROW, v <= NARROWER
    if xp.waits(mean):  # for the number of voxels of each method: so both, where only some have either
        inner = _mirrored(xp, _narrow, m, xp.minimum(v, NARROW))
        outer = _mirrored(xp, _wide, m, v.clamp_min(NARROW))
        for target, narrow, other in zip((expectation, spread), inner, outer, strict=True):
            xp.put(target, others, xp.where(wide, other, narrow))
        return expectation, spread
    for mask, method in ((coarse, _narrower), (~(wide | coarse), _narrow), (wide, _wide)):
        chosen = xp.indices(mask)  # also if there are none: compilers cannot branch on that
        there = xp.selected(others, chosen)
        moments = _mirrored(xp, method, xp.selected(m, chosen), xp.selected(v, chosen))
        xp.put(expectation, there, moments[0])
        xp.put(spread, there, moments[1])
    return expectation, spread


def _mirrored(xp: Any, method: Any, mean: Any, variance: Any, *edge: Any) -> tuple[Any, Any]:
    """Run a method for m <= 0 on both sides of 0."""
    upper = xp.positive(xp.sign(mean))
    side = 1 - 2 * upper  # not where(), which is slow in torch
    expectation, spread = method(xp, side * mean, variance, *edge)
    return xp.add_product(upper, side, expectation), spread


class _Arrays:
    """What the formulas need beyond arithmetic, for numpy."""

    exp, expm1, sqrt, where, maximum, minimum = np.exp, np.expm1, np.sqrt, np.where, np.maximum, np.minimum
    indices, selected, put, sign = np.flatnonzero, np.take, np.put, np.sign

    @staticmethod
    def apart(function: Any, *given: Any) -> Any:
        """Call a function whose loop engines are to keep apart from what comes before and after it."""
        return function(*given)

    @staticmethod
    def waits(_: Any) -> bool:
        """Whether the host waits for a device each time that it selects voxels."""
        return False

    @staticmethod
    def positive(x: Any) -> Any:
        """Compute max(x, 0)."""
        return np.maximum(x, 0)

    @staticmethod
    def add(a: Any, b: Any, weight: float) -> Any:
        """Compute a + weight b."""
        return a + weight * b

    @staticmethod
    def add_product(a: Any, b: Any, c: Any, weight: float = 1.0) -> Any:
        """Compute a + weight b c."""
        product = b * c
        if weight != 1:
            product *= weight
        product += a
        return product


class _Tensors:
    """The same for torch, differentiable."""

    apart = _Arrays.apart

    @staticmethod
    def waits(values: Any) -> Any:
        return not values.is_cpu

    @staticmethod
    def exp(x: Any) -> Any:
        return (x * LOG2_E).exp2()  # three times as fast as exp()

    @staticmethod
    def sign(x: Any) -> Any:
        return x.sign()

    @staticmethod
    def positive(x: Any) -> Any:
        return x.clamp_min(0)

    @staticmethod
    def expm1(x: Any) -> Any:
        return x.expm1()

    @staticmethod
    def sqrt(x: Any) -> Any:
        return x.clamp_min(1e-30).sqrt()  # the slope at 0 is infinite

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        return a.where(condition, b)

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return a.maximum(b)

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        return a.clamp_max(b) if isinstance(b, float) else a.minimum(b)

    @staticmethod
    def indices(mask: Any) -> Any:
        return mask.nonzero().squeeze(1)

    @staticmethod
    def selected(values: Any, indices: Any) -> Any:
        return values.index_select(0, indices)

    @staticmethod
    def put(values: Any, indices: Any, others: Any) -> None:
        values.scatter_(0, indices, others)

    @staticmethod
    def add(a: Any, b: Any, weight: float) -> Any:
        return a.add(b, alpha=weight)

    @staticmethod
    def add_product(a: Any, b: Any, c: Any, weight: float = 1.0) -> Any:
        return a.addcmul(b, c, value=weight)


class _Fused(_Tensors):
    """The same as inference engines know it."""

    @staticmethod
    def apart(function: Any, *given: Any) -> Any:
        """Call a function between two reshapes, at which OpenVINO ends the loops that it makes of arithmetic.

        A loop can keep about ten values of a voxel. Together with what comes before and after there would be more, and
        most nodes would become loops of their own, which wait for memory.
        """
        shape = given[0].shape
        return (moment.reshape(shape) for moment in function(*(values.reshape(1, -1) for values in given)))

    @staticmethod
    def exp(x: Any) -> Any:
        return x.exp()

    @staticmethod
    def expm1(x: Any) -> Any:
        series = 1 + x / 6  # engines compute e^x - 1, which has no digits near 0
        for n in range(5, 1, -1):
            series = 1 + x / n * series
        return (x * series).where(x < 0.4, x.exp() - 1)

    @staticmethod
    def add_product(a: Any, b: Any, c: Any, weight: float = 1.0) -> Any:
        """Compute a + weight b c, as a sum that OpenVINO needs few registers for.

        Of x y + z it computes x and y before z. If the sum so far were z, all its terms would be computed before the
        first is added, and only with AVX-512 does a processor have registers for them.
        """
        return a + b * c if weight == 1 else weight * (1 / weight * a + b * c)


def _tail(xp: Any, m: Any, v: Any, edge: Any) -> tuple[Any, Any]:
    """Compute both where sigma(t) is nearly u = e^t, m <= edge; elsewhere something finite.

    E[u^k] = y_k = exp(k m + k^2 v / 2). To the first order in what u / (1 + u) = u - u^2 ... adds,

        E = y_1 - y_2,     Var = (y_2 - y_1^2) - 2 (y_3 - y_1 y_2) = y_1^2 (rho - 1) (1 - 2 y_1 rho (rho + 1))

    with rho = e^v; as 1 / (1 + x) in place of 1 - x they stay positive.
    """
    excess = xp.expm1(xp.minimum(v, 40.0))
    first = xp.exp(xp.minimum(m, edge) + 0.5 * v)
    z = xp.add_product(first, first, excess)
    # Less than 1e-18 is 0 for the variance: CPUs take 50 times as long for numbers below 1e-38 as for others.
    shrunk = xp.positive(first / (1 + z * (2 + excess)) - 1e-18)
    return first / (1 + z), shrunk * (shrunk * excess)


def _narrower(xp: Any, m: Any, v: Any) -> tuple[Any, Any]:
    return _narrow(xp, m, v, COARSE_RULE)


def _narrow(xp: Any, m: Any, v: Any, rule: tuple[float, tuple[float, ...]] = RULE) -> tuple[Any, Any]:
    """Compute both by the trapezoidal rule, node by pair of nodes at m +- a, of the differences from q = sigma(m).

    With c = q (1 - q), h = 2 cosh a - 2 and r = h / (h + 1 / c), from 0 to 1, the two differences sum to (1 - 2 q) r
    and their squares to 2 c r + (1 - 2 q)^2 r^2. So, with S the weighted sum of r over the pairs, and D that of r^2
    less S^2,

        E = q + (1 - 2 q) S,     Var = 2 c S + (1 - 2 q)^2 D

    where all terms are positive and nothing cancels.
    """
    size, weights = rule
    e = xp.exp(m)
    growth = xp.expm1(size * xp.sqrt(v))
    first = growth * growth / (1 + growth)
    total, spread = xp.apart(lambda *given: _sums(xp, weights, *given), 2 + e + 1 / e, first)
    q = e / (1 + e)
    skew = 1 - 2 * q
    return q + skew * total, skew * skew * spread + 2 * q / (1 + e) * total


def _sums(xp: Any, weights: tuple[float, ...], inverse: Any, first: Any) -> tuple[Any, Any]:
    """Compute S and D from 1 / c and the first h.

    For nodes at equal steps the next h needs no function: it grows by d, and d by h_1 (h + 2). D comes from a running
    mean of r (West 1979), which rounds less than a sum of squares, and of which no more is alive than an engine's
    registers hold.
    """
    h = growth = first
    mean, spread, sum_of_weights = h / (h + inverse), 0 * h, weights[0]
    for weight in weights[1:]:
        growth = xp.add_product(growth, first, h + 2)
        h = h + growth
        difference = h / (h + inverse) - mean
        before, sum_of_weights = sum_of_weights, sum_of_weights + weight
        spread = xp.add_product(spread, difference, difference, weight * before / sum_of_weights)
        mean = xp.add(mean, difference, weight / sum_of_weights)
    return sum_of_weights * mean, xp.add_product(spread, mean, mean, sum_of_weights - sum_of_weights**2)


def _wide(xp: Any, m: Any, v: Any) -> tuple[Any, Any]:
    """Compute both by exponentials on either side of t = 0.

    With u = e^-|t|, sigma(t) is u / (1 + u) = sum_k a_k u^k for t < 0 and 1 minus that for t > 0; its square likewise,
    with coefficients b_k. Completing the square, with G = exp(-m^2 / 2 s^2) / 2,

        E[e^(k t); t < 0] = G erfcx(x),  x = (m + k s^2) / (s sqrt 2);  E[e^(-k t); t > 0] = G erfcx((k s^2 - m) / ...)

    Where x < 0, erfcx(x) = 2 exp(x^2) - erfcx(-x).
    """
    slope = 0.5**0.5 * xp.sqrt(v)
    shift = m / (2 * slope)
    factor = 0.5 * xp.exp(-shift * shift)
    first = second = _erfcx(-shift)
    for k, (a, b) in enumerate(zip(LOGISTIC, SQUARED, strict=True), start=1):
        x = k * slope + shift
        below, above = _erfcx(abs(x)), _erfcx(k * slope - shift)
        if k <= 3:  # only for these can x be negative: else the voxel is in the tail
            below = xp.where(x < 0, 2 * xp.exp(xp.minimum(x * x, 40.0)) - below, below)
        first = first + a * (below - above)
        second = second + b * below + (b - 2 * a) * above
    expectation = factor * first
    return expectation, xp.positive(factor * second - expectation * expectation)


def _erfcx(x: Any) -> Any:
    """Compute exp(x^2) erfc(x) of arrays or tensors x >= 0: torch has no such function on every device."""
    t = 1 / (1 + ERFCX_SCALE * x)
    result = ERFCX[-1] * t
    for coefficient in ERFCX[-2::-1]:
        result = (result + coefficient) * t
    return result
