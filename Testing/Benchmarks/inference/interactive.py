"""What a user waits for: the first result in a region of interest."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

REGION = (128, 128, 128)  # voxels of the CT


def measure_region_of_interest(ct: Path, model: Any, system: str, device: str, repeats: int) -> dict[str, Any]:
    """Seconds of a warm predictor from the CT in memory to the prediction and its regions, in a box in its middle.

    The settings are those of `system`; the usual ones are e-adaptive's.
    """
    from inference.cases import middle_box
    from inference.ours import settings_of
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.pipeline.cases import analyse

    image = sitk.ReadImage(str(ct))
    region = middle_box(image, REGION)
    predictor = Predictor(model, replace(settings_of(system, device, 1), region_of_interest=region))
    runs = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        case = analyse(image, predictor)
        runs.append({"total": time.perf_counter() - start, "stages": dict(case.prediction.timings)})
    provenance = case.prediction.provenance
    return {
        "cold": runs[0],
        "warm": runs[1:],
        "region_mm": list(region),
        **{name: provenance.get(name) for name in ("device", "engine", "precision", "tiles", "input_voxels")},
    }
