"""What number formats and engines change in a prediction, beside PyTorch in float32 on the CPU.

    python Testing/Benchmarks/number_formats.py OUTPUT.md [--device cuda]

PhantomPancreas predicts a phantom's CT of 64 x 64 x 64 voxels in each way that the device has.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from inference.cases import make_case
from inference.networks import find_network
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.inference.devices import autocast_dtype
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings, Tiling

SIZE = (64, 64, 64)
HEADS = ["computed by", "largest change of a probability", "of a variance", "labels equal, %", "Dice"]


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


def changes(prediction: Prediction, reference: Prediction) -> list[str]:
    """Largest changes of a probability and a variance, percent of equal labels, and Dice."""
    largest = [
        np.abs(np.subtract(getattr(prediction, name), getattr(reference, name))).max()
        for name in ("probability", "variance")
    ]
    equal = 100 * (prediction.segmentation == reference.segmentation).mean()
    overlap = dice(prediction.segmentation, reference.segmentation)
    return [*(f"{change:.3g}" for change in largest), f"{equal:.4f}", f"{overlap:.4f}"]


def main() -> None:
    """Measure, and write a table with a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path), parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    model = find_network("small")
    with tempfile.TemporaryDirectory() as folder:
        ct = sitk.ReadImage(make_case(Path(folder), SIZE))

    def by(device: str, engine: str, precision: str) -> Prediction:
        settings = PredictionSettings(device=device, engine=engine, precision=precision, tiling=Tiling.FULL)
        return Predictor(model, settings).predict(ct, exact=True)

    reference = by("cpu", "torch", "float32")
    lines = [
        [", ".join((asked.device, *way)), *changes(by(asked.device, *way), reference)] for way in ways(asked.device)
    ]
    rows = [f"| {' | '.join(line)} |" for line in (HEADS, ["---"] * len(HEADS), *lines)]
    asked.output.write_text("\n".join(["# Number formats and engines", "", *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
