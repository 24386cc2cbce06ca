"""How long the results of a 512 x 512 x 300 CT take into the scene, and a verdict on one region of them.

    python Testing/Benchmarks/scene_push.py

Needs slicer-core. Prints seconds of wall clock and the memory that numpy took; ends with 1 where the push of one organ
takes longer than 2 s, a verdict longer than 0.05 s, or where numpy held as much as a float64 copy of one volume.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

SHAPE = (300, 512, 512)  # z, y, x
SPACING = (0.8, 0.8, 1.0)  # x, y, z, mm
ORGANS = (1, 2)
REGIONS = 12
PUSH_S, VERDICT_S = 2.0, 0.05
RUNS = 3


def invent(folder: Path) -> None:
    """Write what the worker would: two organs of 9 cm, and regions along their border."""
    z, y, x = (np.arange(n, dtype=np.float32) * step for n, step in zip(SHAPE, SPACING[::-1], strict=True))
    labels, regions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
    for organ in ORGANS:
        centre = np.array([150, 200, 70 + 130 * (organ - 1)], np.float32)

        def distance(point: np.ndarray) -> np.ndarray:
            squares = ((axis - value) ** 2 for axis, value in zip((z, y, x), point, strict=True))
            return np.sqrt(sum(np.expand_dims(s, tuple({0, 1, 2} - {axis})) for axis, s in enumerate(squares)))

        probability = 1 / (1 + np.exp(np.clip((distance(centre) - 45) / 1.5, -50, 50)))
        probability[probability < 1e-4] = 0
        np.save(folder / f"probability_{organ}.npy", probability)
        np.save(folder / f"variance_{organ}.npy", np.float32(0.3) * probability * (1 - probability))
        labels[probability > 0.5] = organ
        for n in range(organ, REGIONS + 1, len(ORGANS)):
            angle = 2 * np.pi * n / REGIONS
            place = centre + 45 * np.array([0, np.sin(angle), np.cos(angle)], np.float32)
            regions[distance(place) < 8] = n
    np.save(folder / "segmentation.npy", labels)
    np.save(folder / "regions.npy", regions)


def push(folder: Path, organs: tuple[int, ...]):
    """Load the files and show them as the module does; the `ResultScene` and what keeps its scene alive."""
    from MoBUncertaintyLib.app.scene import MapKind, ResultScene, SegmentSpec
    from MoBUncertaintyLib.app.standalone import addCt, createStandAloneScene

    def load(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    scene, logics = createStandAloneScene()
    results = ResultScene(addCt(scene, np.zeros(SHAPE, np.int16), np.diag([*SPACING, 1.0]), "CT"))
    start = time.perf_counter()
    results.setMaps(*({organ: load(f"{name}_{organ}") for organ in organs} for name in ("probability", "variance")))
    results.setSegmentation(load("segmentation"), [SegmentSpec(organ, str(organ), (200, 90, 0)) for organ in ORGANS])
    results.setRegions(load("regions"), [SegmentSpec(n, str(n), (0, 220, 255)) for n in range(1, REGIONS + 1)])
    results.showMap(MapKind.VARIANCE)
    results.showInViews()
    return time.perf_counter() - start, results, (scene, logics)


def verdict(results) -> float:
    """Seconds that a change of 60 x 60 x 60 voxels takes, surfaces apart."""
    box = (slice(120, 180), slice(220, 280), slice(100, 160))
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[:, 20:50], labels[:, 50:] = ORGANS
    start = time.perf_counter()
    results.updateSegmentation(box, labels, surfaces=False)
    return time.perf_counter() - start


def main() -> int:
    if sys.argv[1:2] == ["--invent"]:
        invent(Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own, whose memory is not counted.
        subprocess.run([sys.executable, __file__, "--invent", name], check=True)
        singles, pushes, verdicts = [], [], []
        for _ in range(RUNS):
            singles.append(push(Path(name), ORGANS[:1])[0])
            seconds, results, kept = push(Path(name), ORGANS)
            pushes.append(seconds)
            verdicts.append(verdict(results))
            start = time.perf_counter()
            results.updateSurfaces()
            surfaces = time.perf_counter() - start
            del results, kept
        tracemalloc.start()
        push(Path(name), ORGANS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    print(f"push of one organ  {min(singles):6.3f} s to {max(singles):.3f} s")
    print(f"push of {len(ORGANS)} organs   {min(pushes):6.3f} s to {max(pushes):.3f} s")
    print(f"verdict            {min(verdicts):6.3f} s to {max(verdicts):.3f} s; surfaces after it {surfaces:.3f} s")
    print(f"numpy's memory     {peak / 1e6:6.0f} MB; one volume as float64 has {np.prod(SHAPE) * 8 / 1e6:.0f} MB")
    return int(min(singles) > PUSH_S or min(verdicts) > VERDICT_S or peak > np.prod(SHAPE) * 8)


if __name__ == "__main__":
    sys.exit(main())
