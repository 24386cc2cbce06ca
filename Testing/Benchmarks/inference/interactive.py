"""What a user waits for: the first result in a region of interest, a new threshold, another map."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

REGION = (128, 128, 128)  # voxels of the CT


def measure_region_of_interest(ct: Path, model: Any, system: str, device: str, repeats: int) -> dict[str, Any]:
    """Seconds of a warm predictor from the CT in memory to the prediction and its regions, in a box in its middle.

    The settings are those of `system`; the usual ones are e-adaptive's.
    """
    from inference.cases import middle_box
    from inference.ours import settings_of
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.pipeline import analyse

    image = sitk.ReadImage(str(ct))
    region = middle_box(image, REGION)
    predictor = Predictor(model, replace(settings_of(system, device, 1), region_of_interest=region))
    runs = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        analysis = analyse(image, predictor)
        runs.append({"total": time.perf_counter() - start, "stages": dict(analysis.seconds)})
    provenance = analysis.prediction.provenance
    return {
        "cold": runs[0],
        "warm": runs[1:],
        "region_mm": list(region),
        **{name: provenance.get(name) for name in ("device", "engine", "precision", "tiles", "input_voxels")},
    }


def measure_display(repeats: int) -> dict[str, Any]:
    """Seconds of a new threshold and of another map on a 512 x 512 x 300 CT.

    The cases are those of `regions_threshold.py` and `scene_push.py`. Without slicer-core only the finding of the
    regions can be timed. Needs no torch, as Slicer's own process.
    """
    import regions_threshold
    from MoBUncertaintyLib.regions.finder import RegionFinder
    from MoBUncertaintyLib.regions.settings import RegionSettings

    prediction = regions_threshold.make_prediction()
    finder = RegionFinder(prediction, RegionSettings())
    finder.find(RegionSettings(threshold=0.016))
    thresholds = [regions_threshold.THRESHOLDS[n % len(regions_threshold.THRESHOLDS)] for n in range(repeats)]
    result: dict[str, Any] = {
        "regions_s": [_seconds(lambda t=t: finder.find(RegionSettings(threshold=t))) for t in thresholds]
    }
    if importlib.util.find_spec("slicer") is None:
        return result | {"without": ["scene"]}
    session, _kept = regions_threshold.begin(prediction)
    session.findRegions(0.016, 20.0)
    result["threshold_s"] = [_seconds(lambda t=t: session.findRegions(t, 20.0)) for t in thresholds]
    return result | {"map_s": _map_seconds(repeats)}


def _map_seconds(repeats: int) -> list[float]:
    """Seconds until another map is shown, each map in turn."""
    import scene_push
    from MoBUncertaintyLib.slicer_app.scene.maps import MapKind
    from MoBUncertaintyLib.slicer_app.scene.standalone import addCt, createStandAloneScene

    with tempfile.TemporaryDirectory() as folder:
        scene_push.make_prediction(Path(folder))
        scene, _kept = createStandAloneScene()
        ct = addCt(scene, np.zeros(scene_push.SHAPE, np.int16), np.diag([*scene_push.SPACING, 1.0]), "CT")
        _longest, _all, session = scene_push.longest(scene_push.show(scene_push.load(Path(folder)), ct))
        shown = session.results
        for kind in MapKind:  # derived maps are computed at their first sight
            shown.showMap(kind)
        return [_seconds(lambda kind=kind: shown.showMap(kind)) for _ in range(repeats) for kind in MapKind]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
