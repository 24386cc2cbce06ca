"""`scene.mrb` of a prediction, written by Slicer's core in a process of its own.

That keeps VTK and torch apart (they have crashed in one process) and what the core prints off the user's terminal.
`app/standalone.py` is what runs there; arrays travel as files in a folder that is removed at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.output.pictures.scales import display_range
from MoBUncertaintyLib.output.pictures.style import REGION_COLOUR, region_title
from MoBUncertaintyLib.regions.settings import Measure

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.predictor import Prediction
    from MoBUncertaintyLib.model.card import ModelCard
    from MoBUncertaintyLib.regions.finder import Regions

NO_SLICER_CORE = "scene.mrb was not written, because slicer-core is not installed; get it with: pip install slicer-core"


class SceneError(RuntimeError):
    """The scene was not written; the message says why."""


def write_scene_file(
    path: Path,
    image: sitk.Image,
    prediction: Prediction,
    regions: Regions,
    card: ModelCard,
    name: str,
    about: dict[str, Any],
) -> None:
    """Write the scene that shows a prediction, ready to be reviewed in Slicer.

    Args:
        path: The .mrb file, in a folder that exists.
        image: The CT.
        prediction: Of that CT.
        regions: Of that prediction.
        card: Of the model.
        name: Of the CT, as the user knows it.
        about: The prediction's provenance, as `results.describe` gives it, with `warnings`.

    Raises:
        SceneError: `slicer-core` is not installed, or failed.
        OSError: The arrays cannot be handed over.
    """
    if importlib.util.find_spec("slicer") is None:
        raise SceneError(NO_SLICER_CORE)
    work = path.with_name(f"{path.name}.tmp")
    work.mkdir()
    try:
        request = scene_request(work, image, prediction, regions, card, name, about)
        request_file = work / "request.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        _run(request_file)
        if not zipfile.is_zipfile(request["output"]):
            raise SceneError("scene.mrb was not written, because Slicer's core left an incomplete file.")
        Path(request["output"]).replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def scene_request(
    folder: Path,
    image: sitk.Image,
    prediction: Prediction,
    regions: Regions,
    card: ModelCard,
    name: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """What `app.standalone.writeRequestedScene` is asked for; its arrays are written to `folder`."""

    def save(key: str, array: np.ndarray) -> str:
        np.save(folder / f"{key}.npy", array)
        return str(folder / f"{key}.npy")

    def save_channels(key: str, image: sitk.Image) -> dict[int, str]:
        array = sitk.GetArrayViewFromImage(image)
        channels = [array] if array.ndim == 3 else np.moveaxis(array, -1, 0)
        named = zip(card.labels, channels, strict=True)
        return {label.value: save(f"{key}_{label.value}", channel) for label, channel in named}

    segmentation = sitk.GetArrayViewFromImage(prediction.segmentation)
    sampled = card.covariance.kind is not Covariance.DETERMINISTIC  # else the variance is nothing
    return {
        "output": str(folder / "scene.mrb"),
        "ct": {
            "array": save("ct", sitk.GetArrayViewFromImage(image)),
            "ijkToRas": grid_of(image).matrix().tolist(),
            "name": name,
            "displayRange": display_range(image),
        },
        "probability": save_channels("probability", prediction.probability),
        "variance": save_channels("variance", prediction.variance),
        "varianceThreshold": regions.settings.variance_threshold if sampled else None,
        "threshold": regions.settings.level_of(Measure.VARIANCE) if sampled else None,
        "segmentation": {
            "array": save("segmentation", segmentation),
            "segments": [
                {
                    "value": label.value,
                    "name": readable(label.name),
                    "colour": label.colour,
                    "terminology": label.terminology,
                }
                for label in card.labels
            ],
        },
        "regions": {
            "array": save("regions", sitk.GetArrayViewFromImage(regions.labels)),
            "segments": [
                {
                    "value": region.label,
                    "name": region_title(region),
                    "colour": REGION_COLOUR,
                    "flagged": True,
                }
                for region in regions.regions
            ],
        },
        "position": regions.regions[0].centroid_ras if regions.regions else None,
        "state": {
            "prediction": {
                "labels": [asdict(label) for label in card.labels],
                "rows": [asdict(region) for region in regions.regions],
                # A scene is passed on: whose folder the CT came from is nobody's business.
                "provenance": about | {"input": {k: v for k, v in about["input"].items() if k != "path"}},
                "warnings": about["warnings"],
                "seconds": about["timings_s"],
            }
        },
    }


def _run(request_file: Path) -> None:
    """Run `app/standalone.py`; the last line it leaves on stderr is its reason."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "MoBUncertaintyLib.slicer_app.scene.standalone", str(request_file)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C in the terminal is for the command, which cancels between its steps; this step runs to its end.
        start_new_session=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SceneError(f"scene.mrb was not written, because Slicer's core failed: {reason}")
