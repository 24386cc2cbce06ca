"""Calibration of a probability: negative log-likelihood, Brier score, calibration curve and its errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15
CLIP = float(np.finfo(np.float32).eps)
"""Distance of clipped probabilities from 0 and 1, as in scikit-learn: the resolution of single precision."""


def negative_log_likelihood(probability: np.ndarray) -> float:
    """Sum -ln p over voxels, p the predicted probability of the true class, any shape.

    Divide by the number of voxels for scikit-learn's `log_loss`. p is held within [2^-23, 1 - 2^-23].
    """
    return float(-np.log(np.clip(np.asarray(probability, np.float64), CLIP, 1 - CLIP)).sum())


@dataclass(eq=False)
class Calibration:
    """Sums from which calibration is computed; those of several cases add up (`+`), so no volume is kept.

    Bin b of n holds the voxels with b / n <= p < (b + 1) / n, the last one also p = 1.

    Attributes:
        count: Voxels in each bin, (n,).
        confidence: Sum of their probabilities, (n,).
        positives: How many of them are foreground, (n,).
        squares: Sum of (p - y)^2 over all voxels.
        log_loss: Sum of -ln p of what is true, foreground or not.
    """

    count: np.ndarray
    confidence: np.ndarray
    positives: np.ndarray
    squares: float
    log_loss: float

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Calibration:
        """Bin the voxels of one case.

        Args:
            probability: Of the foreground class, in [0, 1], any shape.
            truth: Mask of that class, the same shape.
            bins: n.
        """
        p, y = np.asarray(probability, np.float64).ravel(), np.asarray(truth, bool).ravel()
        edges = np.linspace(0, 1, bins + 1)
        index = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
        return cls(
            np.bincount(index, minlength=bins),
            np.bincount(index, weights=p, minlength=bins),
            np.bincount(index[y], minlength=bins),
            float(np.square(p - y).sum()),
            negative_log_likelihood(np.where(y, p, 1 - p)),
        )

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(
            self.count + other.count,
            self.confidence + other.confidence,
            self.positives + other.positives,
            self.squares + other.squares,
            self.log_loss + other.log_loss,
        )

    @property
    def voxels(self) -> int:
        return int(self.count.sum())

    @property
    def nll(self) -> float:
        """Mean of -ln p of what is true; NaN without a voxel."""
        return self.log_loss / self.voxels if self.voxels else float("nan")

    @property
    def brier(self) -> float:
        """Mean of (p - y)^2; NaN without a voxel."""
        return self.squares / self.voxels if self.voxels else float("nan")

    @property
    def gaps(self) -> np.ndarray:
        """|mean probability - fraction of foreground| of each bin, (n,); 0 for an empty bin."""
        return np.abs(self.confidence - self.positives) / np.maximum(self.count, 1)

    @property
    def ece(self) -> float:
        """Expected calibration error (l1): the gaps' mean over voxels; NaN without a voxel."""
        return float(self.gaps @ self.count) / self.voxels if self.voxels else float("nan")

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest gap; NaN without a voxel."""
        return float(self.gaps.max()) if self.voxels else float("nan")

    def curve(self) -> dict[str, list[float]]:
        """Return `confidence` (mean probability), `frequency` (of foreground) and `count` of each bin, as plain lists.

        The first two are NaN for an empty bin.
        """
        divisor = np.where(self.count, self.count, np.nan)
        return {
            "confidence": (self.confidence / divisor).tolist(),
            "frequency": (self.positives / divisor).tolist(),
            "count": self.count.tolist(),
        }
