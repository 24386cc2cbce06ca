"""Find the normal distribution of a label's logit against the rest, by the maps of a prediction.

Its sigma has the given mean and variance: a table, and Newton's method on what it gives.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from MoBUncertaintyLib.gaussian.moments import PIECE, logistic_normal_moments
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION

SURE = 20.0
"""A probability below sigma(-20), 2e-9, or as near to 1, stands for the logit -20 or 20, without variance: it says no
more than that the network was sure, and a click must be able to contradict it."""
MAX_DEVIATION = 20.0
"""Largest s that `normal_from_moments` gives; at p = 1/2 its variance is 0.92 of the most possible, p (1 - p)."""
MAX_LOGIT = 104.0
"""|m| for a probability of 0 or 1: sigma(-104) is 0 in float32."""
CONVERGED = 3e-4
"""A step of Newton's method to the mean below this leaves an error of its square, 1e-7."""
LOWEST_LOGIT = -36.0
"""Of the table that the inverse starts from; further out it starts from the tail's formula."""


def logits_of(
    probability: np.ndarray, variance: np.ndarray, rough: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find mean and variance of the logit from mean and variance of the probability; float32, of one shape.

    Where a mask `rough` says so, which is of probabilities below 1/2, they are but looked up in a table.
    """
    mean = np.where(probability < 0.5, np.float32(-SURE), np.float32(SURE))
    spread = np.zeros_like(mean)
    between = (probability > special.expit(-SURE)) & (probability < special.expit(SURE))
    varies = between & (variance > 0)
    between &= ~varies
    mean[between] = special.logit(probability[between].astype(float))
    if rough is not None:
        far = varies & rough
        mean[far], spread[far] = looked_up_normal(probability[far], variance[far])
        varies &= ~rough
    mean[varies], spread[varies] = normal_from_moments(probability[varies], variance[varies])
    return mean, spread


def movable(spread: np.ndarray, prior_deviation: float | None) -> np.ndarray:
    """Return the deviation that a click can move, from the variance of the logit."""
    if prior_deviation is not None:
        return np.full_like(spread, prior_deviation)
    return np.asarray(np.where(spread > 0, np.sqrt(spread), np.float32(DEFAULT_PRIOR_DEVIATION)))


def normal_from_moments(probability: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find mean and variance of the normal t with E[sigma(t)] = probability and Var[sigma(t)] = variance.

    The inverse of `logistic_normal_moments`: for a given probability the variance rises with s, from 0 to p (1 - p), so
    there is one such normal. It returns p to 1e-6 and, like 1 - p, to 1e-4 relatively, the variance to 1e-3 relatively.

    Args:
        probability, variance: Float arrays of one shape. A variance above that of s = `MAX_DEVIATION` is taken as that;
            a probability of exactly 0 or 1 gives m = -+`MAX_LOGIT` and s = 0, whatever its variance.

    Returns:
        m and s^2, float32.
    """
    p, spread = probability.reshape(-1), variance.reshape(-1)
    mean, square = np.empty(p.shape, np.float32), np.empty(p.shape, np.float32)
    for start in range(0, p.size, PIECE):
        part = slice(start, start + PIECE)
        # In float64, since both 1 - p and the square of a small p are needed.
        mean[part], square[part] = _inverse(p[part].astype(float), spread[part].astype(float))
    return mean.reshape(probability.shape), square.reshape(probability.shape)


def looked_up_normal(probability: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look the normal up in the table alone, three times as fast: m to 0.05 and s^2 to 2 %, most of them far better.

    Arguments and returns as for `normal_from_moments`; probabilities are those between 0 and 1/2.
    """
    mean, square = np.empty(probability.shape, np.float32), np.empty(probability.shape, np.float32)
    for start in range(0, probability.size, PIECE):
        part = slice(start, start + PIECE)
        logit, x, y = _coordinates(probability[part].astype(float), variance[part].astype(float))
        shift, growth = _interpolated(logit, x)
        mean[part], square[part] = logit + shift, np.minimum(y * np.exp(growth), MAX_DEVIATION**2)
    return mean, square


def _inverse(p: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q = np.minimum(p, 1 - p)
    possible = q >= np.finfo(np.float32).tiny
    q = np.where(possible, q, 0.25)
    # The tail's formulas, solved for rho - 1 by fixed-point iteration.
    ratio = np.minimum(variance, q) / (q * q)
    excess = ratio
    for _ in range(3):
        mass = np.minimum(q * (1 + excess), 0.5)
        z = mass / (1 - mass)
        correction = np.minimum(z * (2 + excess), 1)
        excess = ratio * ((1 + correction) / (1 + z)) ** 2
    v = np.log1p(np.minimum(excess, 0.5 / q))
    m = np.log(q * (1 + z)) - 0.5 * v
    others = np.flatnonzero(((correction > 0.001) | (q > 0.006)) & possible)
    if others.size:
        q = q[others]
        inside = np.flatnonzero(q > special.expit(LOWEST_LOGIT))
        m_others, v_others = m[others], v[others]
        m_others[inside], v_others[inside] = _by_table(q[inside], variance[others][inside])
        m[others], v[others] = _mean_of(q, v_others, m_others, steps=3), v_others
    m, v = np.where(possible, m, -MAX_LOGIT), np.where(possible, v, 0)
    return np.where(p > 0.5, -m, m), v


def _mean_of(q: np.ndarray, v: np.ndarray, m: np.ndarray, steps: int) -> np.ndarray:
    """Improve m so that E = q, by Newton's method on ln E, which is nearly straight; dE/dm = E (1 - E) - Var."""
    m, left = m.copy(), np.arange(m.size)
    for _ in range(steps):
        at = np.unravel_index(left, m.shape)
        expectation, variance = logistic_normal_moments(m[at], v[at])
        step = np.log(q[at] / expectation) / (1 - expectation - variance / expectation)
        m[at] += step
        left = left[np.abs(step) > CONVERGED]
    return m


def _by_table(q: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look the normal up, then subtract the table's own error, which the moments of what was found tell."""
    logit, x, y = _coordinates(q, variance)
    shift, growth = _interpolated(logit, x)
    m, log_v = logit + shift, np.log(y) + growth
    now_logit, now_x, now_y = _coordinates(*logistic_normal_moments(m, np.exp(log_v)))
    now_shift, now_growth = _interpolated(now_logit, now_x)
    m = m + (logit + shift) - (now_logit + now_shift)
    log_v = log_v + (np.log(y) + growth) - (np.log(now_y) + now_growth)
    log_v = np.minimum(log_v, 2 * np.log(MAX_DEVIATION))
    return m, np.exp(log_v)


def _coordinates(q: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute logit q, x and y, in which the pair is smooth.

    y = ln(1 + Var / (q (1 - q))^2) is s^2 for small s and in the tails; x = 1 - sqrt(1 - y / y_max), with y_max that of
    s = `MAX_DEVIATION`.
    """
    highest = _table()[0]
    bound = q * (1 - q)
    logit = np.log(q / (1 - q))
    position = (logit / LOWEST_LOGIT) * (len(highest) - 1)
    most = np.interp(position, np.arange(len(highest)), highest)
    y = np.clip(np.log1p(variance / (bound * bound)), 1e-30, most)
    return logit, 1 - np.sqrt(1 - y / most), y


def _interpolated(logit: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Look m - logit q and ln(s^2 / y) up, (2, N)."""
    _, table = _table()
    _, rows, columns = table.shape
    row, column = np.clip(logit / LOWEST_LOGIT, 0, 1) * (rows - 1), np.clip(x, 0, 1) * (columns - 1)
    top, left = np.minimum(row.astype(int), rows - 2), np.minimum(column.astype(int), columns - 2)
    down, right = row - top, column - left
    flat, place = table.reshape(2, -1), top * columns + left
    corner = [flat.take(place + step, axis=1) for step in (0, 1, columns, columns + 1)]
    upper = corner[0] + right * (corner[1] - corner[0])
    lower = corner[2] + right * (corner[3] - corner[2])
    result: np.ndarray = upper + down * (lower - upper)
    return result


@lru_cache(maxsize=1)
def _table(rows: int = 145, columns: int = 129) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the inverse: y_max for each logit q, and (2, rows, columns) over logit q and x."""
    logit = np.linspace(0, LOWEST_LOGIT, rows)[:, None]
    q = special.expit(logit)
    deviation = np.concatenate((np.linspace(0.02, 4, 200), np.geomspace(4.05, MAX_DEVIATION, 100)))
    v = np.broadcast_to(deviation**2, (rows, deviation.size)).copy()
    m = _mean_of(np.broadcast_to(q, v.shape), v, np.broadcast_to(logit, v.shape), steps=12)
    bound = q * (1 - q)
    y = np.log1p(logistic_normal_moments(m, v)[1] / bound**2)
    x = 1 - np.sqrt(1 - y / y[:, -1:])
    grid = np.linspace(0, 1, columns)
    values = np.stack((m - logit, np.log(v / y)))
    # At x = 0 both are 0.
    x, values = np.pad(x, ((0, 0), (1, 0))), np.pad(values, ((0, 0), (0, 0), (1, 0)))
    table = np.array([[np.interp(grid, *row) for row in zip(x, curves, strict=True)] for curves in values])
    return y[:, -1], table
