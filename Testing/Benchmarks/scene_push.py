"""How long a 512 x 448 x 320 CT holds Slicer: its results put into the scene, other maps, a new threshold, a verdict.

    python Testing/Benchmarks/scene_push.py

Needs slicer-core. Prints seconds of this thread's own computing, without drawing; where work is done in steps between
which the application lives, the longest of them counts. Ends with 1 where anything holds it for longer than 0.5 s, a
verdict for longer than 0.05 s, or where numpy took as much as a float64 copy of one volume to show the results.
"""

import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.output.results_record import write_prediction
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.review import Review
from support.fake_worker import LABEL

SHAPE = (320, 448, 512)  # z, y, x
SPACING = (0.8, 0.8, 1.0)  # x, y, z, mm
CENTRE, RADIUS = np.array([150, 200, 170]), 45  # mm, of the organ
DOUBTFUL, FAINT = 17, 400  # places on its surface, and spots of little probability all over the CT
LONGEST_S, VERDICT_S = 0.5, 0.05
WIDTH = 44  # of what is printed before the seconds


def make_prediction(folder: Path, shape: tuple[int, ...] = SHAPE) -> None:
    """Write what the worker would: an organ of 9 cm with doubtful places."""
    random, spacing = np.random.default_rng(0), np.array(SPACING[::-1])
    low, high = ((CENTRE + side * 80) // spacing for side in (-1, 1))
    box = tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
    axes = [axis.astype(np.float32) * step for axis, step in zip(np.ogrid[box], spacing, strict=True)]

    def distance(point: np.ndarray) -> np.ndarray:
        return np.sqrt(sum((axis - value) ** 2 for axis, value in zip(axes, point.astype(np.float32), strict=True)))

    blur = 1.2
    for way in random.normal(size=(DOUBTFUL, 3)):
        blur = blur + 5 * np.exp(-0.5 * (distance(CENTRE + RADIUS * way / np.linalg.norm(way)) / 8) ** 2)
    probability = np.zeros(shape, np.float32)
    probability[box] = 1 / (1 + np.exp(np.clip((distance(CENTRE) - RADIUS) / blur, -50, 50)))
    for z, y, x in random.integers(0, np.array(shape) - 2, (FAINT, 3)):
        probability[z : z + 2, y : y + 2, x : x + 2] += np.float32(0.01)
    probability = np.round(np.clip(probability, 0, 1) * 2**17) / 2**17
    np.save(folder / "probability.npy", probability.astype(np.float32))
    np.save(folder / "variance.npy", (0.3 * probability * (1 - probability)).astype(np.float32))
    np.save(folder / "segmentation.npy", (probability > 0.5).astype(np.uint8))


def seconds(act) -> float:
    """That something takes of this thread."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


def longest(steps: Iterator[None]) -> tuple[float, float, object]:
    """Seconds of the longest step of a generator, of all together, and what it returns."""
    taken: list[float] = []
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration as end:
            taken.append(time.thread_time() - began)
            return max(taken), sum(taken), end.value
        taken.append(time.thread_time() - began)


def load(folder: Path) -> dict[str, Any]:
    """The arrays as the module reads them, with the regions that the worker would find in them."""
    maps = (np.load(folder / f"{name}.npy")[None] for name in ("probability", "variance"))
    grid = Grid.from_matrix(np.diag([*SPACING, 1.0]))
    prediction = Prediction(np.load(folder / "segmentation.npy"), *maps, grid, (LABEL,))
    return write_prediction(prediction, find_regions(prediction), lambda _name, array: array)


def show(answer: dict[str, Any], ct) -> Iterator[None]:
    """Put the results of a CT into its scene: returns the session."""
    from MoBUncertaintyLib.slicer_app.requests import showResult

    return showResult(ct, {"ct": {"ijk_to_ras": np.diag([*SPACING, 1.0])}}, answer)


def measure(folder: Path) -> tuple[dict[str, float], float]:
    """Seconds that each act holds the application, and how many bytes numpy took while the results were shown."""
    from MoBUncertaintyLib.slicer_app.scene.maps import MapKind
    from support.standalone import add_volume, make_scene

    found, held = load(folder), {}
    scene, _logics = make_scene()
    ct = add_volume(scene, np.zeros(SHAPE, np.int16), np.diag([*SPACING, 1.0]), "CT")

    def take(act: str, steps: Iterator[None]):
        held[f"{act}, longest step"], whole, value = longest(steps)
        print(f"{f'{act}, all steps':{WIDTH}s} {whole:6.3f} s")
        return value

    tracemalloc.start()
    results = take("results into the scene", show(found, ct)).results
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for kind in (MapKind.STANDARD_DEVIATION, MapKind.ENTROPY):
        take(kind.value, results.overlay.showInSteps(kind))
    take("standard deviation again", results.overlay.showInSteps(MapKind.STANDARD_DEVIATION))
    session = take("results of another run", show(found, ct))
    take("getting ready for thresholds", session.regions.prepare())
    held["another threshold"] = seconds(lambda: session.regions.find(0.012, 20.0))
    first = session.review.regions[0].region_id
    held["verdict"] = seconds(lambda: session.step(Review.decide, first, "include"))
    held["surface after it"] = seconds(session.segmentation.updateSurfaces)
    return held, peak


def main() -> int:
    if sys.argv[1:2] == ["--make"]:
        make_prediction(Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own, whose memory is not counted.
        subprocess.run([sys.executable, __file__, "--make", name], check=True)
        held, peak = measure(Path(name))
    for act, taken in held.items():
        print(f"{act:{WIDTH}s} {taken:6.3f} s")
    print(f"numpy's memory {peak / 1e6:.0f} MB; one volume as float64 has {np.prod(SHAPE) * 8 / 1e6:.0f} MB")
    return int(max(held.values()) > LONGEST_S or held["verdict"] > VERDICT_S or peak > np.prod(SHAPE) * 8)


if __name__ == "__main__":
    sys.exit(main())
