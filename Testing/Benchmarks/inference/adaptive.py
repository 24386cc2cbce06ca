"""Full against adaptive overlap on one phantom: tiles, seconds, and how alike the results are."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from inference.cases import SEED, phantom, sample
from inference.ours import settings_of
from inference.tasks import Size
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.regions.agreement import dice


def measure_adaptive(model: Model, size: Size, number: int, device: str) -> dict[str, Any]:
    """Predict phantom number `number` both ways, warm.

    Returns:
        For each way tiles and seconds; Dice between the two and the difference of the organ's volume, %.
    """
    from mob_training.data.phantom import case_seed

    ct = sample(phantom(case_seed(SEED, number)), size)
    predictor = Predictor(model, settings_of("e", device, 1))
    predictor.predict(sample(ct, (48, 48, 48)))  # loads and warms up
    ways = [("full", "e"), ("adaptive", "e-adaptive")]
    if number % 2:  # what comes first pays for what both need
        ways.reverse()
    result: dict[str, Any] = {}
    segmentations: dict[str, np.ndarray] = {}
    for way, system in ways:
        predictor.use(settings_of(system, device, 1))
        start = time.perf_counter()
        prediction = predictor.predict(ct)
        result[way] = {"seconds": time.perf_counter() - start, "tiles": prediction.provenance["tiles"]}
        segmentations[way] = prediction.segmentation
    volumes = {way: int(np.count_nonzero(s)) for way, s in segmentations.items()}
    return result | {
        "dice": float(dice(segmentations["full"], segmentations["adaptive"])),
        "volume_difference_percent": 100 * abs(volumes["adaptive"] - volumes["full"]) / max(volumes["full"], 1),
    }
