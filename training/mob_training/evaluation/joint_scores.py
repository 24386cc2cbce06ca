"""Score what a model says of all voxels together: of the whole segmentation, of its volume, of how far errors reach.

Everything is computed on the network's grid, from the Gaussian of the logits that `inference.draws` blends there, and
the truth by its nearest voxel; what lies outside of the processed part of the image does not count. Each fold is one
Gaussian; several are their mixture.

A label is scored against the rest. For two classes its contrast is Gaussian; for more, eta_c - ln sum exp eta_others is
taken as linear around the mean. Labels are then independent given the logits, for every model alike, the deterministic
one included: so a sample is a sample of the logits, and then of the labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp

from mob_training.evaluation.metrics import (
    ContrastLaw,
    autocovariance,
    correlation_length,
    joint_log_likelihood,
    volume_scores,
)
from mob_training.evaluation.metrics.variogram import LAGS
from MoBUncertaintyLib.geometry import Box, bounding_box, shadows, shape_of
from MoBUncertaintyLib.inference.draws import blended_gaussian
from MoBUncertaintyLib.logistic_normal import logistic_normal_moments
from MoBUncertaintyLib.model.covariance import Scope, correlation
from MoBUncertaintyLib.network.distribution import DenseLoading, LogitGaussian
from MoBUncertaintyLib.network.partitions import cell_bounds

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.inference.predictor import Predictor

SAMPLES = 99
"""Of a volume: intervals of 50, 80 and 90 % lie between two of them."""
IN_VARIOGRAM = 10
"""Of these count for the correlation of samples."""
MARGIN = 3
"""Voxels around those whose label is in doubt."""
SURE = 1e-4
"""A voxel is in doubt if its probability is further from 0 and 1, or if it is wrong."""


@dataclass
class JointSums:
    """Autocovariances of errors and of samples, summed over cases and labels.

    Attributes:
        errors: Of truth minus mean probability, by distance.
        samples: Of a sample's labels minus the mean probability.
    """

    errors: np.ndarray = field(default_factory=lambda: np.zeros(LAGS))
    samples: np.ndarray = field(default_factory=lambda: np.zeros(LAGS))

    def add(self, other: JointSums) -> None:
        """Add those of another case; a distance that one of them lacks is lost."""
        self.errors, self.samples = self.errors + other.errors, self.samples + other.samples

    def scores(self) -> dict[str, Any]:
        """Return `variogram.errors` and `variogram.samples`, correlation by distance, and `lengths` of both in mm."""
        both = {"errors": self.errors, "samples": self.samples}
        with np.errstate(invalid="ignore"):
            curves = {name: (one / one[0]).tolist() for name, one in both.items()}
        return {"variogram": curves, "lengths": {name: correlation_length(one) for name, one in both.items()}}


def joint_scores(
    predictor: Predictor, image: sitk.Image, truth: np.ndarray, samples: int = SAMPLES
) -> tuple[dict[str, Any], JointSums]:
    """Score a case.

    Args:
        predictor: The model, and how to predict.
        image: The image.
        truth: Its label map, (z, y, x).
        samples: Number of samples of the volume.

    Returns:
        Means over the labels: `log_likelihood` of the truth, and `gain`, by how much it exceeds that of the same
        voxels each for itself, both in nats; `volume`, of `volume_scores`, in mm3; `lengths` and their `gap`, how far
        errors and samples are correlated, in mm. And the sums for all cases.
    """
    folds = []
    for fold in predictor.folds:
        volume = blended_gaussian(predictor, image, fold=fold)
        true = nearest(volume.case.view(truth), tuple(volume.logits.mean.shape[2:]))
        folds.append(volume.logits)
    spacing = np.array(predictor.model.card.spacing, float)
    each, sums = [], JointSums()
    for label in predictor.model.card.labels:
        scores, own = _label_scores(folds, label.value, true == label.value, spacing, samples)
        each.append(scores)
        sums.add(own)
    return {name: _mean([one[name] for one in each]) for name in each[0]}, sums


def _label_scores(
    folds: list[LogitGaussian], label: int, truth: np.ndarray, spacing: np.ndarray, samples: int
) -> tuple[dict[str, Any], JointSums]:
    laws = [contrast_law(gaussian, label) for gaussian in folds]
    marginals = [_marginal(law, truth.shape) for law in laws]
    mean = np.mean(marginals, axis=0)
    joint = _mixture([joint_log_likelihood(law, truth.ravel()) for law in laws])
    right = [np.where(truth, p, 1 - p).astype(float) for p in marginals]
    alone = _mixture([float(np.log(np.maximum(p, 1e-300)).sum()) for p in right])
    doubtful = in_doubt(mean, truth)
    box = bounding_box(shadows(doubtful), [MARGIN] * 3) if doubtful.any() else (slice(0, 1),) * 3
    voxel, inside = float(spacing.prod()), mean[box]
    elsewhere = float(mean.sum() - inside.sum())
    generator = np.random.default_rng(label)
    volumes, sums = [], JointSums(errors=autocovariance(truth[box] - inside, spacing.tolist()))
    for number, p in enumerate(_samples(folds, label, box, samples)):
        drawn = generator.random(p.shape, dtype=np.float32) < p
        volumes.append(voxel * (np.count_nonzero(drawn) + elsewhere))
        if number < IN_VARIOGRAM:
            sums.samples = sums.samples + autocovariance(drawn - inside, spacing.tolist()) / IN_VARIOGRAM
    lengths = {"errors": correlation_length(sums.errors), "samples": correlation_length(sums.samples)}
    return {
        "log_likelihood": joint,
        "gain": round(joint - alone, 3) + 0.0,
        "volume": volume_scores(volumes, voxel * np.count_nonzero(truth)),
        "lengths": lengths | {"gap": abs(lengths["errors"] - lengths["samples"])},
    }, sums


def marginal(gaussian: LogitGaussian, label: int) -> np.ndarray:
    """Compute the probability of a label at each voxel, (*S), as that of its contrast."""
    return _marginal(contrast_law(gaussian, label), tuple(gaussian.mean.shape[2:]))


def _marginal(law: ContrastLaw, shape: tuple[int, ...]) -> np.ndarray:
    return logistic_normal_moments(law.mean, law.variance())[0].reshape(shape)


def in_doubt(mean: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mark the voxels whose label is in doubt or wrong."""
    return np.asarray((np.minimum(mean, 1 - mean) > SURE) | ((mean > 0.5) != truth))


def contrast_law(gaussian: LogitGaussian, label: int) -> ContrastLaw:
    """Make the law of a label's contrast against the rest, of all voxels in the order of the array.

    Args:
        gaussian: In a batch of one.
        label: From 1 to C - 1.
    """
    logits = gaussian.mean[0]
    others = [c for c in range(len(logits)) if c != label]
    weights = torch.zeros_like(logits)
    weights[label] = 1
    weights[others] = -logits[others].softmax(dim=0)
    mean = logits[label] - logits[others].logsumexp(dim=0)
    own = (weights * gaussian.variance()[0].sqrt()).flatten(1)
    rows = own[:0]
    if gaussian.loading is not None:
        rows = torch.einsum("c...,cr...->r...", weights, gaussian.loading.dense()[0]).flatten(1)
    white, factors = own.square().sum(dim=0), rows
    if gaussian.scope is Scope.LOCAL:
        white, factors = torch.zeros_like(white), torch.cat((rows, own))
    elif gaussian.scope is Scope.VOXEL:
        white, factors = white + rows.square().sum(dim=0), rows[:0]
    places, kernel = np.indices(tuple(mean.shape)).reshape(3, -1).T, None
    if gaussian.lengths is not None:
        lengths = [float(length) for length in gaussian.lengths]

        def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.asarray(correlation((a[:, None] - b).astype(float), lengths, gaussian.shared_fraction))

    elif gaussian.scope is Scope.PARTITION:
        counts = gaussian.partitions if isinstance(gaussian.partitions, tuple) else (gaussian.partitions,) * 3
        for axis, (size, count) in enumerate(zip(mean.shape, counts, strict=True)):
            stops = [stop for _, stop in cell_bounds(size, count)]
            places[:, axis] = np.searchsorted(stops, places[:, axis], side="right")

        def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return (a[:, None] == b).all(axis=-1).astype(float)

    return ContrastLaw(mean.flatten().numpy(), white.numpy(), factors.numpy(), places, kernel)


def _samples(folds: list[LogitGaussian], label: int, box: Box, count: int) -> Iterator[np.ndarray]:
    """Draw the probability of a label in a box, the folds in turn."""
    cut = [part_of(gaussian, box) for gaussian in folds]
    generator = torch.Generator().manual_seed(label)
    for number in range(count):
        gaussian, inside = cut[number % len(cut)]
        yield gaussian.rsample(1, generator)[0, 0].softmax(dim=0)[label][inside].numpy()


def part_of(gaussian: LogitGaussian, box: Box) -> tuple[LogitGaussian, Box]:
    """Cut a Gaussian to a box, and say where the box is in what is left; cells must stay whole."""
    if gaussian.scope is Scope.PARTITION:
        return gaussian, box
    part = (..., *box)
    loading = None if gaussian.loading is None else DenseLoading(gaussian.loading.dense()[part])
    log_variance = None if gaussian.log_variance is None else gaussian.log_variance[part]
    cut = replace(gaussian, mean=gaussian.mean[part], log_variance=log_variance, loading=loading)
    return cut, tuple(slice(0, size) for size in shape_of(box))


def nearest(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample a label map by its nearest voxel."""
    at = [((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(shape, array.shape, strict=True)]
    return array[np.ix_(*at)]


def _mixture(values: list[float]) -> float:
    return float(logsumexp(values) - np.log(len(values)))


def _mean(values: list[Any]) -> Any:
    """Average numbers, or dictionaries of numbers."""
    if isinstance(values[0], dict):
        return {name: _mean([one[name] for one in values]) for name in values[0]}
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
