"""Scores of a prediction against the truth: small functions on arrays, which know nothing of models or files.

What is undefined is NaN (`null` in JSON) and has no say in a mean:

| score | undefined | and where it could seem so |
| --- | --- | --- |
| Dice, NSD | never | neither mask has a voxel: 1; only one of them: 0 |
| NLL, Brier, ECE, MCE | without a voxel | p is held 2^-23 away from 0 and 1 in NLL; bins without a voxel do not count |
| AUROC | unless there are both right and wrong voxels | all equally doubtful: 0.5 |
| AUPRC | without a wrong voxel | all equally doubtful: the share of wrong voxels |
| AURC, AUGRC | without a voxel | without a wrong voxel: 0 |
| GED | without a sample or a rater | two empty masks have the distance 0 |
"""

from mob_training.evaluation.metrics.calibration import BINS, Calibration, negative_log_likelihood
from mob_training.evaluation.metrics.overlap import dice, surface_dice
from mob_training.evaluation.metrics.ranking import ErrorRanking
from mob_training.evaluation.metrics.review_curve import review_curve
from mob_training.evaluation.metrics.samples import generalised_energy_distance, probability_error

__all__ = [
    "BINS",
    "Calibration",
    "ErrorRanking",
    "dice",
    "generalised_energy_distance",
    "negative_log_likelihood",
    "probability_error",
    "review_curve",
    "surface_dice",
]
