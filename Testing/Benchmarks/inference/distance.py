"""How far a case is from its limit (reading, network and writing alone), and each stage beside a plain call for it.

The limit is what no arrangement of the rest can spare: the CT is read and checked, the network computes its tiles and
their moments, and the volumes are written. A plain call is the one line of SimpleITK or scipy that does about the same
work on the same voxels, without checks.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from inference.ours import OurSystem
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output.results_folder import write_volumes
from MoBUncertaintyLib.pipeline.cases import Job, run_case
from MoBUncertaintyLib.regions.finder import find_regions

PLAIN = {
    "read": "SimpleITK.ReadImage",
    "preprocess": "SimpleITK.Resample of the CT, linear",
    "resample": "SimpleITK.Resample of two maps, linear",
    "regions": "scipy.ndimage.gaussian_filter of a map",
    "write": "SimpleITK.WriteImage of the volumes",
}
"""What each stage is compared with."""
AROUND = ("report", "scene")


def measure_distance(ct: Path, model: Model, system: str, device: str, repeats: int, scratch: Path) -> dict[str, Any]:
    """Seconds of a case, of its limit, of its stages and of plain calls for them; medians of warm runs.

    Returns:
        `end_to_end_s`: from the CT's file until volumes and doubtful regions are there; `limit_s`: `read`, `network`
        and `write`, each by itself; `around_s`: what report and scene take longer; `stages_s` and `plain_s`: by stage,
        `plain` says what; `voxels`: of the CT.
    """
    ours = OurSystem(system, model, device, 1)
    scene, ours.scene = importlib.util.find_spec("slicer") is not None, False
    output = scratch / "results"
    ours.run(ct, output)
    runs = [_run(ours, ct, output) for _ in range(repeats)]
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    around = {"report": found["total"] - found["end_to_end"]}
    if scene:
        ours.scene = True
        around["scene"] = statistics.median(_run(ours, ct, output)["total"] for _ in range(repeats)) - found["total"]
    case, _ = run_case(Job(ours.predictor, scene=False, overwrite=True), Input(ct, "", ""), output)
    prediction, image = case.prediction, read_image(ct).image
    size = [int(n) for n in reversed(prediction.provenance["input_voxels"])]
    ours_alone = {
        "read": lambda: read_image(ct),
        "regions": lambda: find_regions(prediction, case.regions.settings),
        "write": lambda: write_volumes(scratch, prediction),
    }
    maps = [image_on(prediction.grid, array) for array in (prediction.probability[0], prediction.variance[0])]
    coarse = _grid_of(image, size)
    small = [sitk.Resample(each, coarse) for each in maps]
    volumes = [image_on(prediction.grid, prediction.segmentation), *maps]
    plain = {
        "read": lambda: sitk.ReadImage(str(ct)),
        "preprocess": lambda: sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), coarse),
        "resample": lambda: [sitk.Resample(each, image) for each in small],
        "regions": lambda: ndimage.gaussian_filter(
            prediction.variance[0], case.regions.settings.window_mm / prediction.grid.spacing, truncate=3
        ),
        "write": lambda: [sitk.WriteImage(each, str(scratch / "plain.nii.gz")) for each in volumes],
    }
    stages = {name: found[name] for name in ("preprocess", "resample")}
    stages |= {name: _seconds(work, repeats) for name, work in ours_alone.items()}
    return {
        "end_to_end_s": found["end_to_end"],
        "limit_s": {"read": stages["read"], "network": found["network"], "write": stages["write"]},
        "around_s": around,
        "stages_s": stages,
        "plain_s": {name: _seconds(work, repeats) for name, work in plain.items()},
        "plain": PLAIN,
        "voxels": int(np.prod(image.GetSize(), dtype=np.int64)),
        **{name: prediction.provenance.get(name) for name in ("device", "engine", "precision", "tiles")},
    }


def _run(ours: OurSystem, ct: Path, output: Path) -> dict[str, float]:
    run = ours.run(ct, output)
    stages = run["stages"]
    return {
        "total": run["total"],
        "end_to_end": run["total"] - sum(stages.get(name, 0.0) for name in AROUND),
        "network": stages["backbone"] + stages["moments"],
        **{name: stages[name] for name in ("preprocess", "resample")},
    }


def _grid_of(image: sitk.Image, size: list[int]) -> sitk.Image:
    """An empty image of so many voxels where an image lies."""
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([s * n / m for s, n, m in zip(image.GetSpacing(), image.GetSize(), size, strict=True)])
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    return grid


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(statistics.median(taken))
