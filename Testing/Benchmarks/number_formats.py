"""What number formats and engines change in predictions, beside PyTorch in float32 on the CPU.

    python Testing/Benchmarks/number_formats.py OUTPUT.md [--device cuda]
    python Testing/Benchmarks/number_formats.py OUTPUT.md --way openvino,float32 --model MODEL --cases FILE ...

Each case is predicted in each way that the device has, or in one, and each row is the worst of the cases so far. By
default PhantomPancreas predicts a phantom's CT of 64 x 64 x 64 voxels. `mob-training phantom` makes others.

Samples of the segmentation are drawn with another seed in each way. Those of a label are told apart if a test of
Kolmogorov and Smirnov says at 5 % that its volumes are distributed otherwise: in 5 % of cases it does so by chance.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp

from benchmark import make_case
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.devices import autocast_dtype
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings, Tiling, predicted_intervals
from MoBUncertaintyLib.regions.samples import ChangingVoxels

SIZE = (64, 64, 64)
REFERENCE = ("cpu", "torch", "float32")
HEADS = ["computed by", "cases", "largest change of a probability", "of a variance", "labels equal, %", "Dice"]
HEADS += ["suitability the same in", "largest change of an interval, ml", "samples told apart, % of labels"]
SAMPLES, TOLD_APART = 99, 0.05


def ways(device: str) -> Iterator[tuple[str, str]]:
    """Engine and precision of each way but the one that all are compared with."""
    if device != "cpu":
        yield from (("torch", precision) for precision in ("float32", "bfloat16", "float16"))
        return
    yield "torch", "bfloat16"
    if is_installed("openvino"):
        yield "openvino", "float32"
        if autocast_dtype(torch.device("cpu")) is torch.bfloat16:  # where the processor computes in it
            yield "openvino", "bfloat16"


def changes(prediction: Prediction, reference: Prediction) -> list[float]:
    """Compare two predictions of an image: the numbers of `HEADS` from the third on, of a case."""
    largest = [
        np.abs(np.subtract(getattr(prediction, name), getattr(reference, name))).max()
        for name in ("probability", "variance")
    ]
    segmentations = prediction.segmentation, reference.segmentation
    equal = 100 * np.equal(*segmentations).mean()
    levels = {(each.suitability.level, each.suitability.reasons) for each in (prediction, reference)}
    one, other = (
        {name: (interval.low, interval.high) for name, interval in predicted_intervals(each).items()}
        for each in (prediction, reference)
    )
    moved = np.abs([np.subtract(one[name], other[name]) for name in other]).max() if other else np.nan
    drawn = zip(*(sampled_volumes(each, seed).T for seed, each in enumerate((prediction, reference))), strict=True)
    apart = np.mean([ks_2samp(*volumes).pvalue < TOLD_APART for volumes in drawn])
    return [*largest, equal, dice(*segmentations), len(levels) == 1, moved, 100 * apart]


def sampled_volumes(prediction: Prediction, seed: int) -> np.ndarray:
    """Count the voxels of each label in samples of the segmentation, (samples, labels)."""
    voxels = ChangingVoxels.of(prediction, prediction.labels)
    certain = prediction.segmentation.copy()
    certain[tuple(voxels.places)] = 0
    counts = np.bincount(certain.ravel(), minlength=256)
    counts = counts + [np.bincount(drawn, minlength=256) for drawn in voxels.samples(SAMPLES, seed)]
    return counts[:, [label.value for label in prediction.labels]]


def row(way: tuple[str, ...], found: list[list[float]]) -> list[str]:
    """The worst of each number over the cases, and the mean of the last."""
    p, variance, labels, overlap, same, moved, apart = np.array(found, float).T
    worst = [f"{p.max():.3g}", f"{variance.max():.3g}", f"{labels.min():.4f}", f"{overlap.min():.4f}"]
    ends = "–" if np.isnan(moved).all() else f"{np.nanmax(moved):.2g}"
    return [", ".join(way), str(len(found)), *worst, f"{same.sum():.0f}", ends, f"{apart.mean():.1f}"]


def table(found: dict[tuple[str, ...], list[list[float]]]) -> str:
    """Write a table with a row for each way."""
    rows = [HEADS, ["---"] * len(HEADS), *(row(way, changed) for way, changed in found.items())]
    return "\n".join(["# Number formats and engines", "", *(f"| {' | '.join(cells)} |" for cells in rows), ""])


def main() -> None:
    """Measure, and write a table with a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path), parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="PhantomPancreas"), parser.add_argument("--cases", type=Path, nargs="+")
    parser.add_argument("--way", type=lambda text: tuple(text.split(",")))
    asked = parser.parse_args()
    model = load_model(find_model(asked.model))
    compared = [(asked.device, *way) for way in ([asked.way] if asked.way else ways(asked.device))]
    predictors = {
        (device, engine, precision): Predictor(
            model, PredictionSettings(device=device, engine=engine, precision=precision, tiling=Tiling.FULL)
        )
        for device, engine, precision in dict.fromkeys([REFERENCE, *compared])
    }
    found: dict[tuple[str, ...], list[list[float]]] = {way: [] for way in compared}
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.cases or [make_case(Path(folder), SIZE)]:
            image = read_image(case).image
            reference = predictors[REFERENCE].predict(image, exact=True)
            for way, rows in found.items():
                rows.append(changes(predictors[way].predict(image, exact=True), reference))
            asked.output.write_text(table(found), encoding="utf-8")
            print(case.name, *([f"{number:.3g}" for number in rows[-1]] for rows in found.values()), flush=True)


if __name__ == "__main__":
    main()
