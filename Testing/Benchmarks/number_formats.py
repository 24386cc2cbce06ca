"""What number formats and engines change in predictions, beside PyTorch in float32 on the CPU.

    python Testing/Benchmarks/number_formats.py OUTPUT.md [--device cuda]
    python Testing/Benchmarks/number_formats.py OUTPUT.md --way openvino,float32 --model MODEL --cases FILE ...

Each case is predicted in each way that the device has, or in one, and each row is the worst of the cases. By default
PhantomPancreas predicts a phantom's CT of 64 x 64 x 64 voxels. `mob-training phantom` makes others.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmark import make_case
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.devices import autocast_dtype
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings, Tiling, predicted_intervals

SIZE = (64, 64, 64)
REFERENCE = ("cpu", "torch", "float32")
HEADS = ["computed by", "cases", "largest change of a probability", "of a variance", "labels equal, %", "Dice"]
HEADS += ["suitability and intervals the same in"]


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
    """Largest changes of a probability and a variance, percent of equal labels, Dice, and 1 if all else is the same."""
    largest = [
        np.abs(np.subtract(getattr(prediction, name), getattr(reference, name))).max()
        for name in ("probability", "variance")
    ]
    equal = 100 * (prediction.segmentation == reference.segmentation).mean()
    one, other = (
        (each.suitability.level, each.suitability.reasons, predicted_intervals(each))
        for each in (prediction, reference)
    )
    return [*largest, equal, dice(prediction.segmentation, reference.segmentation), float(one == other)]


def row(way: tuple[str, ...], found: list[list[float]]) -> list[str]:
    """The worst of each number over the cases."""
    p, variance, labels, overlap, same = np.array(found).T
    worst = [f"{p.max():.3g}", f"{variance.max():.3g}", f"{labels.min():.4f}", f"{overlap.min():.4f}"]
    return [", ".join(way), str(len(found)), *worst, f"{same.sum():.0f}"]


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
            print(case.name, *(rows[-1] for rows in found.values()), flush=True)
    rows = [HEADS, ["---"] * len(HEADS), *(row(way, changed) for way, changed in found.items())]
    lines = ["# Number formats and engines", "", *(f"| {' | '.join(cells)} |" for cells in rows)]
    asked.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
