"""How well the variance ranks errors, by the closed form, as stored, by accurate quadrature and by the old closed form.

    python Testing/Benchmarks/tails.py VOLUMES [--cases N]

VOLUMES holds `images` and `labels` of the Medical Segmentation Decathlon's Task04 as the page of the results of
HippocampusAnterior says how to get them; the 50 cases are those that nobody trained or tuned on. All columns have the
same network, with the same mean m and variance s^2 of every logit, and differ in the moments of the probability that
are computed from them. Prints the mean over the cases of AURC, times 10^6, as a table, and ends with 1 where the stored
variance is more than 5 % off that of quadrature.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mob_training.evaluation.metrics.ranking import ErrorRanking
from MoBUncertaintyLib import PredictionSettings, find_model, load_model, read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.network import moments

MODEL = "HippocampusAnterior"
SCORES = Path(__file__).parents[2] / "training" / "results" / "HippocampusJoint" / "cases.csv.gz"
ALLOWED = 0.05

REACH = 9.0
"""Standard deviations that are integrated over; beyond lie 2e-19 of the mass."""
STEP = 0.5
"""Of the logistic function's argument: its poles at i pi leave an error of exp(-2 pi^2 / STEP) = 7e-18."""

Method = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def quadrature(mean: Tensor, variance: Tensor, voxels: int = 4096) -> tuple[Tensor, Tensor]:
    """Compute both moments in float64 by the trapezoidal rule.

    For the normal density and the logistic function, both analytic in a strip around the real axis, the rule converges
    geometrically with the step, whatever the variance; Gauss-Hermite's nodes would have to grow with the square of the
    deviation.
    """
    expectations, variances = [], []
    for m, v in zip(mean.double().flatten().split(voxels), variance.double().flatten().split(voxels), strict=True):
        deviation = v.sqrt()
        step = min(0.25, STEP / max(float(deviation.max()), 1e-6))
        # The square of sigma has its mass in the tails up to two deviations s beyond the density's.
        count = math.ceil((REACH + 2 * min(float(deviation.max()), 6.0)) / step)
        x = torch.arange(-count, count + 1, dtype=torch.float64) * step
        density = torch.exp(-0.5 * x.square())
        density /= density.sum()
        p = torch.sigmoid(m[:, None] + deviation[:, None] * x)
        expectations.append(p @ density)
        variances.append((p - expectations[-1][:, None]).square() @ density)
    return tuple(torch.cat(parts).view(mean.shape).to(mean.dtype) for parts in (expectations, variances))


def four_probits(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both as versions before 1.0 did, by a mixture of probits: 2e-5 off, absolutely, so wrong in the tails."""
    weights = (0.060968, 0.374193, 0.458337, 0.106502)
    slopes = (0.321077, 0.47514, 0.698778, 1.023129)
    expectation, slope = torch.full_like(mean, 0.5), torch.zeros_like(mean)
    for weight, c in zip(weights, slopes, strict=True):
        u = (2 * variance + 2 / c**2).rsqrt()
        expectation += 0.5 * weight * (u * mean).erf()
        slope += weight / math.sqrt(math.pi) * u * (-(u * mean).square()).exp()
    bound = expectation * (1 - expectation)
    return expectation, (bound - slope).clamp_min(0).minimum(bound)


def held_out() -> list[str]:
    """Return the names of the cases that the kept scores were computed on."""
    with gzip.open(SCORES, "rt", newline="") as file:
        return sorted({row["case"] for row in csv.DictReader(file)})


def aurc(predictor: Predictor, image: sitk.Image, truth: np.ndarray, method: Method, exact: bool) -> dict[str, float]:
    """Predict a case by a method; AURC of variance and of p (1 - p)."""
    with mock.patch.object(moments, "logistic_normal_moments", method):
        prediction = predictor.predict(image, exact=exact)
    error = prediction.segmentation != truth
    p, variance = prediction.probability[0].astype(float), prediction.variance[0]
    return {
        name: ErrorRanking.of(uncertainty, error).scores()["aurc"]
        for name, uncertainty in (("variance", variance), ("p (1 - p)", p * (1 - p)))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("--cases", type=int, help="only the first N")
    arguments = parser.parse_args()
    predictor = Predictor(load_model(find_model(MODEL)), PredictionSettings(device="cpu", tiling="full"))
    methods: dict[str, tuple[Method, bool]] = {
        "stored": (moments.logistic_normal_moments, False),
        "closed form": (moments.logistic_normal_moments, True),
        "quadrature": (quadrature, True),
        "four probits": (four_probits, True),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for case in held_out()[: arguments.cases]:
        image = read_image(arguments.volumes / "images" / f"{case}.nii.gz").image
        label = sitk.ReadImage(str(arguments.volumes / "labels" / f"{case}.nii.gz"))
        truth = sitk.GetArrayFromImage(label) == 1
        for name, (method, exact) in methods.items():
            rows[name].append(aurc(predictor, image, truth, method, exact))
    print(f"| AURC · 10⁶, mean of {len(rows['stored'])} cases | of variance | of p (1 - p) |\n| --- | --- | --- |")
    means = {name: {key: np.mean([row[key] for row in each]) for key in each[0]} for name, each in rows.items()}
    for name, each in means.items():
        print(f"| {name} | {1e6 * each['variance']:.1f} | {1e6 * each['p (1 - p)']:.1f} |")
    off = means["stored"]["variance"] / means["quadrature"]["variance"] - 1
    print(f"\nThe stored variance's is {off:+.1%} off that of quadrature; {ALLOWED:.0%} are allowed.")
    return int(abs(off) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
