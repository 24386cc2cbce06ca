"""How long a click takes to spread: the first one, and the 200th spread over an organ.

    python Testing/Benchmarks/clicks.py [--clicks N] [--only demo|large]

Cases: the demo CT as the shipped model predicts it, and the same maps resampled to 512 x 512 x 300 voxels of 0.7 x 0.7
x 1 mm. Clicks are on the organ's surface, far from those before, with the label that was not predicted. Timed are
conditioning and maps (`Refiner.refine`), in seconds of processor; a new refiner each time for the first click. Ends
with 1 where the first takes more than 20 ms, or the last more than 3 times as much.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.geometry import Grid, occupied, widened
from MoBUncertaintyLib.prediction import Prediction, PredictionSettings
from MoBUncertaintyLib.refinement.clicks import Click
from MoBUncertaintyLib.refinement.refiner import Refiner
from support.clicks import click_at

ALLOWED = 0.020  # s
GROWTH = 3
SIZE, SPACING = (300, 512, 512), (1.0, 0.7, 0.7)  # z, y, x


def demo() -> Prediction:
    """Predict the demo CT."""
    from MoBUncertaintyLib import find_model, load_model, predict, read_image
    from MoBUncertaintyLib.files.resources import RESOURCES

    image = read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz").image
    return predict(image, load_model(find_model("PhantomPancreas")), PredictionSettings(device="cpu"))


def large(small: Prediction) -> Prediction:
    """Resample a prediction's maps to `SIZE`, as those of a model with large voxels are to the CT's."""
    maps = []
    for each in (small.probability[0], small.variance[0]):
        for axis, size in enumerate(SIZE):
            place = (np.arange(size) - (size - 1) / 2) * SPACING[axis] / small.grid.spacing[axis]
            place = np.clip(place + (small.shape[axis] - 1) / 2, 0, small.shape[axis] - 1)
            below = np.minimum(place.astype(int), small.shape[axis] - 2)
            fraction = (place - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            each = each.take(below, axis) * (1 - fraction) + each.take(below + 1, axis) * fraction
        maps.append(each[None])
    grid = Grid(np.array(SPACING), small.grid.rotation, small.grid.origin)
    return Prediction((maps[0][0] > 0.5).astype(np.uint8), *maps, grid, small.labels)


def surface_clicks(prediction: Prediction, count: int) -> list[Click]:
    """Click at random on both sides of the organ's surface, as far from each other as that many can be."""
    box = widened(occupied(prediction.segmentation), (2, 2, 2), prediction.shape)
    organ = prediction.segmentation[box] > 0
    surface = ndimage.binary_dilation(organ) & ~ndimage.binary_erosion(organ)
    voxels = np.argwhere(surface)
    voxels = voxels[np.random.default_rng(0).permutation(len(voxels))[:20_000]]
    places = voxels * prediction.grid.spacing
    chosen, distance = [0], np.full(len(voxels), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((places - places[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distance.argmax()))
    start = [part.start for part in box]
    at = [tuple((voxels[i] + start).tolist()) for i in chosen]
    return [click_at(prediction, n, int(prediction.segmentation[v] == 0), v) for n, v in enumerate(at, 1)]


def seconds(work: Callable[[], object]) -> float:
    """Measure seconds of processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, prediction: Prediction, count: int) -> bool:
    """Print what the clicks of a case take; whether that is within what is allowed."""
    clicks = surface_clicks(prediction, count)
    seconds(lambda: Refiner(prediction).refine(clicks[-1:]))  # imports and tables
    first = float(np.median([seconds(lambda c=c: Refiner(prediction).refine([c])) for c in clicks[:15]]))
    refiner = Refiner(prediction)
    growing = [seconds(lambda n=n: refiner.refine(clicks[:n])) for n in range(1, count + 1)]
    last = float(np.median(growing[-9:]))
    undone = seconds(lambda: refiner.refine(clicks[:-1]))
    reached = refiner.refine(clicks[:1]).reached.sum(), refiner.refine(clicks).reached.sum()
    print(
        f"{name}: first {1000 * first:.1f} ms ({reached[0]} voxels), {count}th {1000 * last:.1f} ms ({reached[1]} "
        f"voxels), most {1000 * max(growing):.1f} ms, taken back {1000 * undone:.1f} ms; all at once "
        f"{1000 * seconds(lambda: Refiner(prediction).refine(clicks)):.0f} ms",
        flush=True,
    )
    return first <= ALLOWED and last <= GROWTH * first


def main() -> int:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=200, help="how many")
    parser.add_argument("--only", choices=("demo", "large"), help="one case")
    asked = parser.parse_args()
    cases = {"demo": demo, "large": lambda: large(demo())}
    well = [measure(name, make(), asked.clicks) for name, make in cases.items() if asked.only in (None, name)]
    return int(not all(well))


if __name__ == "__main__":
    sys.exit(main())
