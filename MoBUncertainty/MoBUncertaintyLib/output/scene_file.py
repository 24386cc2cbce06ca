"""`scene.mrb` of a prediction, written by Slicer's core in a process of its own.

That keeps VTK and torch apart (they have crashed in one process) and what the core prints off the user's terminal.
`slicer_app/scene/standalone.py` is what runs there; arrays travel as files in a folder that is removed at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.output.exchange import write_prediction
from MoBUncertaintyLib.output.pictures.scales import display_range
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.finder import Regions

NO_SLICER_CORE = "scene.mrb was not written, because slicer-core is not installed; get it with: pip install slicer-core"


class SceneError(RuntimeError):
    """The scene was not written; the message says why."""


def write_scene_file(path: Path, image: sitk.Image, prediction: Prediction, regions: Regions, name: str) -> None:
    """Write the scene that shows a prediction, ready to be reviewed in Slicer.

    Args:
        path: The .mrb file, in a folder that exists.
        image: The CT.
        prediction: Of that CT, its provenance as `results_folder.describe` gives it.
        regions: Of that prediction.
        name: Of the CT, as the user knows it.

    Raises:
        SceneError: `slicer-core` is not installed, or failed.
        OSError: The arrays cannot be handed over.
    """
    if importlib.util.find_spec("slicer") is None:
        raise SceneError(NO_SLICER_CORE)
    work = path.with_name(f"{path.name}.tmp")
    work.mkdir()
    try:
        request = scene_request(work, image, prediction, regions, name)
        request_file = work / "request.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        _run(request_file)
        if not zipfile.is_zipfile(request["output"]):
            raise SceneError("scene.mrb was not written, because Slicer's core left an incomplete file.")
        Path(request["output"]).replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def scene_request(
    folder: Path, image: sitk.Image, prediction: Prediction, regions: Regions, name: str
) -> dict[str, Any]:
    """Ask `standalone.writeRequestedScene` for a scene; the arrays are written to `folder`."""

    def save(key: str, array: np.ndarray) -> str:
        np.save(folder / f"{key}.npy", array)
        return str(folder / f"{key}.npy")

    # A scene is passed on: whose folder the CT came from is nobody's business.
    given = {key: value for key, value in prediction.provenance["input"].items() if key != "path"}
    public = replace(prediction, provenance=prediction.provenance | {"input": given})
    return {
        "output": str(folder / "scene.mrb"),
        "ct": {
            "array": save("ct", sitk.GetArrayViewFromImage(image)),
            "ijk_to_ras": prediction.grid.matrix().tolist(),
            "name": name,
            "display_range": display_range(image),
        },
        "prediction": write_prediction(public, regions, save),
    }


def _run(request_file: Path) -> None:
    """Run `slicer_app/scene/standalone.py`; the last line it leaves on stderr is its reason."""
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
