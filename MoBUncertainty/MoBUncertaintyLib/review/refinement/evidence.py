"""Voxels whose true label is known, counted by what was predicted there: enough to calibrate, and no image.

What is predicted at a voxel is the normal distribution of the logit of a label against the rest (`logits`). Mean and
deviation are rounded to `STEP`. Voxels that are doubtful and not decided are counted too.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.gaussian.logits import SURE, logits_of
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments

STEP = 0.25
DOUBTFUL = 1e-4
"""A voxel that nobody has decided counts if its probability is at least so far from 0 and 1."""
_LARGEST = 2**16
"""Kinds of voxels, and steps of a mean or deviation, that a file may hold."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The voxels of one label.

    Of K kinds (K, 5) int64: mean and deviation of the logit in steps, and how many voxels were predicted so that do not
    have the label, have it, and of which nobody has decided.
    """

    kinds: np.ndarray

    @classmethod
    def of(
        cls, probability: np.ndarray, variance: np.ndarray, decided: tuple[np.ndarray, ...], labelled: np.ndarray
    ) -> Evidence:
        """Count voxels of maps as predicted, N of them decided (their index); `labelled` (N,): as having the label."""
        doubtful = (probability > DOUBTFUL) & (probability < 1 - DOUBTFUL)
        doubtful[decided] = False
        p, v = (np.concatenate([each[decided], each[doubtful]]) for each in (probability, variance))
        decisions = np.full(len(p), 2)
        decisions[: len(labelled)] = labelled
        return cls(_counted(_steps(p, v), decisions))

    @classmethod
    def of_truth(cls, probability: np.ndarray, variance: np.ndarray, labelled: np.ndarray) -> Evidence:
        """Count all voxels of an image whose truth is known, but for those where the network was sure, and right.

        How sure it was there no map says, so no temperature can be judged by them. The maps (z, y, x) are as predicted,
        not rounded.
        """
        parts = [np.empty((0, 5), np.int64)]
        for p, v, true in zip(probability, variance, labelled, strict=True):  # slice by slice, for a CT's size
            possible = (p > 0) | true
            steps, labels = _steps(p[possible], v[possible]), true[possible].astype(int)
            sure = np.abs(steps[:, 0]) * STEP >= SURE
            counts = ~(sure & ((steps[:, 0] > 0) == labels))
            parts.append(_counted(steps[counts], labels[counts]))
        together = np.concatenate(parts)
        kinds, index = np.unique(together[:, :2], axis=0, return_inverse=True)
        sums = np.zeros((len(kinds), 3), np.int64)
        np.add.at(sums, index.ravel(), together[:, 2:])
        return cls(np.column_stack([kinds, sums]))

    @property
    def voxels(self) -> int:
        """How many voxels were decided."""
        return int(self.kinds[:, 2:4].sum())

    @cached_property
    def logits(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the logit of each kind, (K,)."""
        mean, deviation = (self.kinds[:, :2] * STEP).T
        return mean, deviation**2

    @property
    def counts(self) -> np.ndarray:
        """How many voxels of each kind are decided, without and with the label, and how many are not, (3, K)."""
        return self.kinds[:, 2:].T

    def moments(self, temperature: float = 1.0, keep_probability: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Compute mean and variance of the probability of each kind, the logits divided by a temperature; (K,) each.

        The logit becomes a normal with the mean m / T and the variance s^2 / T^2. If the model gives each voxel the
        probability that its mean logits have, whatever the noise (`CovarianceSpec`), it is the logit of the probability
        that is divided, and m follows.
        """
        mean, square = self.logits
        divided = mean / temperature, square / temperature**2
        if not keep_probability or temperature == 1:
            return logistic_normal_moments(*divided)
        p, _ = logistic_normal_moments(mean, square)
        rest, _ = logistic_normal_moments(-mean, square)  # 1 - p has its digits only so
        _, variance = logistic_normal_moments(*divided)
        return 1 / (1 + np.exp((np.log(rest) - np.log(p)) / temperature)), variance

    def to_text(self) -> str:
        """Pack it for JSON."""
        return base64.b64encode(zlib.compress(self.kinds.astype("<i4").tobytes(), 9)).decode()

    @classmethod
    def from_text(cls, text: Any) -> Evidence:
        """Invert `to_text`; raises `ValueError`."""
        try:
            packed = zlib.decompressobj()
            content = packed.decompress(base64.b64decode(text, validate=True), 20 * _LARGEST)
            kinds = np.frombuffer(content, "<i4").reshape(-1, 5).astype(np.int64)
        except (TypeError, ValueError, zlib.error) as error:
            raise ValueError("the decided voxels are not as they should be") from error
        if not packed.eof or np.abs(kinds[:, :2]).max(initial=0) > _LARGEST or kinds[:, 1:].min(initial=0) < 0:
            raise ValueError("the decided voxels are not as they should be")
        return cls(kinds)


def _steps(probability: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Round mean and deviation of the logit of N voxels to steps, (N, 2)."""
    mean, square = logits_of(probability.astype(np.float32), variance.astype(np.float32))
    return np.rint(np.stack([mean, np.sqrt(square)], axis=1) / STEP).astype(np.int64)


def _counted(steps: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Count N voxels by their steps and by the decision on them: 0, 1 or 2; (K, 5) as `Evidence.kinds`."""
    kinds, index = np.unique(steps, axis=0, return_inverse=True)
    counts = [np.bincount(index.ravel()[decisions == one], minlength=len(kinds)) for one in range(3)]
    return np.column_stack([kinds, *counts])
