"""Score what a model says of all voxels together: of the whole segmentation, of its volume, of how far errors reach.

Everything is computed on the network's grid, from the Gaussian of the logits that `inference.draws` blends there, and
the truth by its nearest voxel; what lies outside of the processed part of the image does not count. Each fold is one
Gaussian; several are their mixture.

A label is scored against the rest. For two classes its contrast is Gaussian; for more, eta_c - ln sum exp eta_others is
taken as linear around the mean. Labels are then independent given the logits, for every model alike, the deterministic
one included: so a sample is a sample of the logits, and then of the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp

from mob_training.contrasts import Contrast, contrasts
from mob_training.evaluation.metrics import defined_mean
from mob_training.evaluation.metrics.joint import joint_log_likelihood
from mob_training.evaluation.metrics.volumes import LAGS, autocovariance, correlation_length, volume_scores
from MoBUncertaintyLib.base.geometry import Box, bounding_box, shadows
from MoBUncertaintyLib.gaussian.distribution import DenseLoading, LogitGaussian
from MoBUncertaintyLib.inference.draws import blended_gaussian

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.model.card import Label

SAMPLES = 39
"""Of a volume: intervals of 50, 80 and 90 % lie between two of them."""
IN_VARIOGRAM = 10
"""Of these count for the correlation of samples."""
MARGIN = 3
"""Voxels around those whose label is in doubt."""
SURE = 1e-4
"""A voxel is in doubt if its probability is further from 0 and 1, or if it is wrong."""
LIKELY = 0.05
"""Samples are drawn in the box of what is further than that; beyond, a voxel counts with its probability."""
RESIDUALS = ("errors", "samples")
"""Truth, or a sample's labels, minus the mean probability: the rows of a case's autocovariances, (2, LAGS)."""


def pooled_correlations(sums: np.ndarray) -> dict[str, Any]:
    """Return the correlation of errors and samples by distance (`variogram`), and its lengths in mm.

    The autocovariances are summed over cases and labels; a distance that one of them lacks is lost.
    """
    with np.errstate(invalid="ignore"):
        curves = (sums / sums[:, :1]).tolist()
    return {"variogram": dict(zip(RESIDUALS, curves, strict=True)), "lengths": _lengths(sums)}


def joint_scores(
    predictor: Predictor,
    image: sitk.Image,
    truth: np.ndarray,
    scored: Sequence[Label] | None = None,
    samples: int = SAMPLES,
) -> tuple[dict[str, Any], np.ndarray]:
    """Score a case with the label map (z, y, x) for the labels that it has. Default: all of the model's.

    Return means over the labels: `log_likelihood` of the truth, and `gain`, by how much it exceeds that of the same
    voxels each for itself, both in nats; `volume`, of `volume_scores`, in mm3; `lengths` and their `gap`, how far
    errors and samples are correlated, in mm. And the autocovariances, summed over the labels.
    """
    folds = []
    for fold in predictor.folds:
        volume = blended_gaussian(predictor, image, fold=fold)
        true = nearest(volume.case.view(truth), tuple(volume.logits.mean.shape[2:]))
        folds.append(volume.logits)
    spacing = np.array(predictor.model.card.spacing, float)
    values = sorted(label.value for label in scored or predictor.model.card.labels)
    of_folds = [_likelihoods(gaussian, true, values) for gaussian in folds]
    labels = [_Label.of(value, true == value, own) for value, *own in zip(values, *of_folds, strict=True)]
    doubtful, likely = (
        np.logical_or.reduce([in_doubt(label.mean, label.truth, sure) for label in labels]) for sure in (SURE, LIKELY)
    )
    box = bounding_box(shadows(likely), [MARGIN] * 3) if likely.any() else (slice(0, 1),) * 3
    near = np.zeros_like(doubtful)
    near[box] = True
    doubtful &= near
    voxel_mm3, residual = float(spacing.prod()), np.zeros(doubtful.shape)
    errors = [autocovariance((label.truth - label.mean)[box], spacing.tolist()) for label in labels]
    sums = [np.stack([own, np.zeros(LAGS)]) for own in errors]
    elsewhere = [float(label.mean[~doubtful].sum()) for label in labels]
    volumes: list[list[float]] = [[] for _ in labels]
    for number, drawn in enumerate(_samples(folds, doubtful, box, samples)):
        for label, own, expected, mm3 in zip(labels, sums, elsewhere, volumes, strict=True):
            sample = drawn == label.value
            mm3.append(voxel_mm3 * (np.count_nonzero(sample) + expected))
            if number < IN_VARIOGRAM:
                residual[doubtful] = sample - label.mean[doubtful]
                own[1] += autocovariance(residual[box], spacing.tolist()) / IN_VARIOGRAM
    scores = [label.scores(*rest, voxel_mm3) for label, *rest in zip(labels, volumes, sums, strict=True)]
    return {name: _mean([one[name] for one in scores]) for name in scores[0]}, np.sum(sums, axis=0)


@dataclass(frozen=True, eq=False)
class _Label:
    """A label of a case, on the network's grid: its value, its mask and its probability (z, y, x).

    `joint` and `alone` are the log likelihoods of the truth, and of its voxels each for itself.
    """

    value: int
    truth: np.ndarray
    mean: np.ndarray
    joint: float
    alone: float

    @classmethod
    def of(cls, value: int, truth: np.ndarray, folds: list[tuple[float, np.ndarray]]) -> _Label:
        """Mix the likelihoods and the probabilities of the folds."""
        likelihoods, probabilities = zip(*folds, strict=True)
        marginals = [p.reshape(truth.shape) for p in probabilities]
        right = [np.where(truth, p, 1 - p).astype(float) for p in marginals]
        alone = _mixture([float(np.log(np.maximum(p, 1e-300)).sum()) for p in right])
        return cls(value, truth, np.mean(marginals, axis=0), _mixture(likelihoods), alone)

    def scores(self, volumes: list[float], sums: np.ndarray, voxel_mm3: float) -> dict[str, Any]:
        """Score the label, as `joint_scores` returns it; `volumes` of samples in mm3."""
        lengths = _lengths(sums)
        return {
            "log_likelihood": self.joint,
            "gain": round(self.joint - self.alone, 3) + 0.0,
            "volume": volume_scores(volumes, voxel_mm3 * np.count_nonzero(self.truth)),
            "lengths": lengths | {"gap": abs(lengths["errors"] - lengths["samples"])},
        }


def _lengths(sums: np.ndarray) -> dict[str, float]:
    return dict(zip(RESIDUALS, map(correlation_length, sums), strict=True))


def only(gaussian: LogitGaussian, truth: np.ndarray, values: Sequence[int]) -> Iterator[Contrast]:
    """Yield the contrasts of some labels, in ascending order, in a Gaussian of a batch of one; `truth` has them all."""
    left_out = torch.tensor([[value not in values for value in range(gaussian.num_classes)]])
    return contrasts(gaussian, torch.from_numpy(truth)[None], left_out)


def _likelihoods(gaussian: LogitGaussian, truth: np.ndarray, values: Sequence[int]) -> list[tuple[float, np.ndarray]]:
    """Compute the log likelihood of the truth of each label, and the label's probability at each voxel, (N,)."""
    return [(joint_log_likelihood(one), one.marginal().numpy()) for one in only(gaussian, truth, values)]


def in_doubt(mean: np.ndarray, truth: np.ndarray, sure: float = SURE) -> np.ndarray:
    """Mark the voxels whose label is in doubt or wrong."""
    return np.asarray((np.minimum(mean, 1 - mean) > sure) | ((mean > 0.5) != truth))


def _samples(folds: list[LogitGaussian], doubtful: np.ndarray, box: Box, count: int) -> Iterator[np.ndarray]:
    """Draw the label of each doubtful voxel, (N,), the folds in turn; noise is drawn in their box alone."""
    generator, uniform = torch.Generator().manual_seed(0), np.random.default_rng(0)
    mask = torch.from_numpy(doubtful[box])
    samplers = [part_of(gaussian, box).sampler_at(mask, generator) for gaussian in folds]
    for number in range(count):
        p = samplers[number % len(samplers)]().softmax(dim=0).numpy()
        yield (uniform.random(p.shape[1], dtype=np.float32) > p.cumsum(axis=0)[:-1]).sum(axis=0)


def part_of(gaussian: LogitGaussian, box: Box) -> LogitGaussian:
    """Cut a Gaussian to a box."""
    part = (..., *box)
    loading = None if gaussian.loading is None else DenseLoading(gaussian.loading.dense()[part])
    log_variance = None if gaussian.log_variance is None else gaussian.log_variance[part]
    return replace(gaussian, logits=gaussian.logits[part], log_variance=log_variance, loading=loading)


def nearest(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample a label map by its nearest voxel."""
    at = [((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(shape, array.shape, strict=True)]
    return array[np.ix_(*at)]


def _mixture(values: Sequence[float]) -> float:
    return float(logsumexp(values) - np.log(len(values)))


def _mean(values: list[Any]) -> Any:
    """Average numbers, or dictionaries of numbers."""
    if isinstance(values[0], dict):
        return {name: _mean([one[name] for one in values]) for name in values[0]}
    return defined_mean(values)
