"""Fit which fraction of a local model's noise the whole volume shares, to the volumes of labelled cases.

The likelihood of voxels asks for short lengths, and hardly sees the little by which a whole outline is too far in or
out. A volume sees little else. So of some fractions the one is taken whose volumes have the best logarithmic score, as
normal distributions with the mean and the deviation of the samples (Dawid and Sebastiani 1999, Annals of Statistics
27): unlike the CRPS it is the same in every unit, so that small and large organs count alike. Marginals are the same
for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from mob_training.data.partial_labels import read_missing
from mob_training.evaluation.held_out import split_cases
from mob_training.evaluation.joint_scores import in_doubt, nearest, only, part_of
from MoBUncertaintyLib.base.geometry import bounding_box, shadows
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import blended_gaussian
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.regions.prediction import PredictionSettings

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""What is tried."""
SAMPLES = 80
"""Of each volume, in pairs."""


def fit_shared_fraction(model_path: Path, dataset: Path, device: str = "auto") -> float:
    """Fit the fraction on all cases of a raw data set that are not held out, by the first fold of a local model."""
    predictor = Predictor(load_model(model_path), PredictionSettings(device=device, tiling="full"))
    missing = read_missing(dataset, [label.name for label in predictor.model.card.labels])
    scores: list[np.ndarray] = []
    for name, image_path, truth_path in split_cases(dataset, "train", "val"):
        image, truth = read_image(image_path).image, sitk.GetArrayFromImage(read_volume(truth_path))
        volume = blended_gaussian(predictor, image)
        true = nearest(volume.case.view(truth), tuple(volume.logits.mean.shape[2:]))
        scores += [
            fraction_scores(volume.logits, label.value, true == label.value)
            for label in predictor.model.card.labels
            if label.value not in missing.get(name, ())
        ]
        print(f"{name}: volumes drawn")
    means = np.mean(scores, axis=0)
    for fraction, score in zip(FRACTIONS, means, strict=True):
        print(f"shared fraction {percent(fraction)}: mean -ln density of the volume {score:.3f}")
    return FRACTIONS[int(np.argmin(means))]


def fraction_scores(
    gaussian: LogitGaussian, label: int, truth: np.ndarray, fractions: Sequence[float] = FRACTIONS
) -> np.ndarray:
    """Compute ln s + (v - m)^2 / 2 s^2 of a label's true volume v for each fraction, in voxels; lower is better.

    The Gaussian is of a case, in a batch of one; its own fraction does not matter. All fractions have the same draws.
    """
    (contrast,) = only(gaussian, truth * np.uint8(label), [label])
    mean = contrast.marginal().numpy().reshape(truth.shape)
    doubtful = in_doubt(mean, truth)
    box = bounding_box(shadows(doubtful), [0] * 3) if doubtful.any() else (slice(0, 1),) * 3
    part = part_of(gaussian, box)
    counted = torch.from_numpy(doubtful[box])
    middle, elsewhere = part.mean[0][:, counted], float(mean.sum() - mean[doubtful].sum())
    generator, uniform = torch.Generator().manual_seed(label), np.random.default_rng(label)
    draws = [replace(part, shared_fraction=a).sampler_at(counted, generator) for a in (0.0, 1.0)]
    volumes = np.empty((len(fractions), SAMPLES))
    for sample in range(0, SAMPLES, 2):
        local, shared = (draw() - middle for draw in draws)
        # Each draw of what is shared with either sign: by chance it could go along with the few draws of the rest.
        for both, sign in enumerate((1, -1)):
            below = uniform.random(local.shape[1:], dtype=np.float32)
            for row, a in zip(volumes, fractions, strict=True):
                logits = middle + (1 - a) ** 0.5 * local + sign * a**0.5 * shared
                row[sample + both] = elsewhere + np.count_nonzero(below < logits.softmax(dim=0)[label].numpy())
    deviation = np.maximum(volumes.std(axis=1, ddof=1), 1.0)  # a volume is known to a voxel at best
    return np.asarray(np.log(deviation) + 0.5 * np.square((np.count_nonzero(truth) - volumes.mean(axis=1)) / deviation))
