"""A fake of the worker for tests: it speaks the protocol, but its prediction is fake, so that it needs no torch.

    python -u -P Testing/Python/support/fake_worker.py [MODE]

MODE  normal    sends a result after a few steps (the default)
      slow      does so in a minute, and starts a child process that would outlive it
      fails     reports an image that cannot be segmented
      dies      exits during the request, as if killed
      hangs     stops, without even a heartbeat
      stuck     sends heartbeats, but makes no progress
      nonsense  sends a line that is not a message

`export`, and all that is done with catalogues and with a worklist but its predictions, is the real worker's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.geometry import Grid, whole
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.worker import server
from MoBUncertaintyLib.worker.__main__ import handlers_here
from MoBUncertaintyLib.worker.commands import ask_computer, has_model, keep_model
from MoBUncertaintyLib.worker.predictions import Estimate, Predictions, input_of
from MoBUncertaintyLib.worker.protocol import Command, Fields

if TYPE_CHECKING:  # at run time where they are needed, so that `ready` is said at once
    from MoBUncertaintyLib.regions.prediction import Prediction
    from MoBUncertaintyLib.regions.region import Region, Regions

MODES = ("normal", "slow", "fails", "dies", "hangs", "stuck", "nonsense")
TILES = 6
AWAY = Predictions()
SENTENCE = "The image is a single slice (64 x 64 x 1); give a 3D volume or the folder of its DICOM series."
LABEL = Label(
    1,
    "pancreas",
    (249, 180, 111),
    {
        "category": ("SCT", "123037004", "Anatomical Structure"),
        "type": ("SCT", "15776009", "Pancreas"),
        "modifier": None,
    },
)
PLACES = {"left": (0, 0, 1), "anterior": (0, -1, 0), "superior": (1, 0, 0)}
"""Positions of the doubtful regions on the organ's surface, (z, y, x) for axial slices in the usual orientation."""


def fake_maps(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make probability and variance (float32) of an ellipsoid with three doubtful regions, and their map (uint16)."""
    axes = [((np.arange(n, dtype=np.float32) - (n - 1) / 2) / (0.25 * n)).astype(np.float32) for n in shape]
    z, y, x = np.ix_(*axes)
    distance = np.sqrt(z * z + y * y + x * x)
    probability = 1 / (1 + np.exp(np.clip(12 * (distance - 1), -50, 50)))
    region_map = np.zeros(shape, np.uint16)
    for number, (a, b, c) in enumerate(PLACES.values(), start=1):
        region_map[(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < (0.5 - 0.08 * number) ** 2] = number
    doubtful = region_map > 0
    probability[doubtful] = 0.3 + 0.4 * probability[doubtful]
    variance = np.where(doubtful, 0.3, 0.03).astype(np.float32) * probability * (1 - probability)
    return probability, variance, region_map


def fake_region(number: int, location: str, region_map: np.ndarray, p: np.ndarray, v: np.ndarray, grid: Grid) -> Region:
    """Describe a region of a map."""
    from MoBUncertaintyLib.regions.region import Region

    mask = region_map == number
    index = np.argwhere(mask)
    return Region(
        rank=number,
        number=number,
        centroid_ras=tuple(grid.to_ras(index.mean(axis=0)).tolist()),
        volume_mm3=grid.voxel_mm3 * len(index),
        expected_error_mm3=grid.voxel_mm3 * float(np.minimum(p[mask], 1 - p[mask]).sum()),
        mean_variance=float(v[mask].mean()),
        max_variance=float(v[mask].max()),
        mean_probability=float(p[mask].mean()),
        inside_fraction=float((p[mask] > 0.5).mean()),
        extent_mm=float((grid.spacing * (np.ptp(index, axis=0) + 1)).max()),
        location=location,
    )


def fake_prediction(
    shape: tuple[int, ...], ijk_to_ras: np.ndarray, provenance: Fields | None = None
) -> tuple[Prediction, Regions]:
    """Make the prediction of an ellipsoid with three doubtful regions."""
    from MoBUncertaintyLib.model.region_settings import RegionSettings
    from MoBUncertaintyLib.regions.prediction import Prediction
    from MoBUncertaintyLib.regions.region import Regions

    p, v, region_map = fake_maps(shape)
    grid = Grid.from_matrix(ijk_to_ras)
    prediction = Prediction((p > 0.5).astype(np.uint8), p[None], v[None], grid, (LABEL,), provenance or {})
    ranked = tuple(fake_region(number, place, region_map, p, v, grid) for number, place in enumerate(PLACES, start=1))
    return prediction, Regions(ranked, region_map, whole(shape), shape, RegionSettings())


def misbehave(mode: str) -> None:
    """Do during a request what the mode says."""
    print(f"fake: this worker {mode}", file=sys.stderr, flush=True)
    if mode == "fails":
        raise ImageError(SENTENCE)
    if mode == "dies":
        os._exit(3)
    if mode == "nonsense":
        os.write(PROTOCOL_OUTPUT, b"Segmentation fault? No: \xff\xfe, and no JSON.\n")
        time.sleep(600)
    if mode == "hangs":
        server.heartbeat_s = 1e6
        time.sleep(600)
    if mode == "stuck":
        time.sleep(600)


def predict(mode: str, request: Fields, report: server.Report) -> Fields:
    """Answer like the worker, see `protocol`; what another computer predicts is the real worker's."""
    if request.get("computer"):
        return AWAY.predict(request, report)
    ct = np.load(request["ct"]["array"], mmap_mode="r")
    estimate = Estimate({"model": 1.0, "network": 5.0, "write": 0.5})
    report.progress(estimate.step("model", 1, 1))
    if mode == "slow":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
    for tile in range(TILES):
        report.progress(estimate.step("network", tile, TILES))
        time.sleep(10.0 if mode == "slow" else 0.005)
        if tile == 1:
            misbehave(mode)
    report.warning("This result is fake.")
    from MoBUncertaintyLib.output.results_record import write_prediction
    from MoBUncertaintyLib.worker.arrays import write_array

    provenance = provenance_of(request["models"], ct.shape, request["ct"].get("name"), request.get("settings"))
    prediction, regions = fake_prediction(ct.shape, np.array(request["ct"]["ijk_to_ras"], float), provenance)
    prediction.warnings.extend(report.warnings)
    report.progress(estimate.step("write", 1, 1))
    save = partial(write_array, request["folder"])
    return write_prediction(prediction, regions, save) | {"seconds": estimate.seconds}


def provenance_of(
    models: Sequence[str], shape: tuple[int, ...], name: str | None, settings: Fields | None = None
) -> Fields:
    """Make the provenance of a fake prediction."""
    return {
        **describe_models(models),
        "settings": settings or {},
        **dict.fromkeys(("device", "precision", "engine"), "fake"),
        "input": {"name": name, "size": shape[::-1], "sha256": "0" * 64},
        "versions": {"numpy": np.__version__},
    }


def describe_models(models: Sequence[str]) -> dict[str, Any]:
    """Make what the provenance says of models."""
    first, *others = ({"name": Path(each).name, "path": "", "digest": "0" * 64} for each in models)
    return {"model": first, "ensemble": [first, *others]} if others else {"model": first}


def predict_case(mode: str, request: Fields, report: server.Report) -> Fields:
    """Read the case's image, and write the fake results of it; see `Predictions.predict_case`.

    What another computer predicts is the real worker's.
    """
    if request.get("computer"):
        return AWAY.predict_case(request, report)

    from MoBUncertaintyLib.images.grid import grid_of
    from MoBUncertaintyLib.images.reader import read_image
    from MoBUncertaintyLib.output.case import Case, Source
    from MoBUncertaintyLib.output.results_folder import FOLDER, write_results

    case = input_of(request["case"])
    estimate = Estimate({"read": 0.1, "network": 5.0, "write": 0.5})
    report.progress(estimate.step("read", 0, 1))
    read = read_image(case.path, case.series)
    for tile in range(TILES):
        report.progress(estimate.step("network", tile, TILES))
        time.sleep(10.0 if mode == "slow" else 0.005)
        if tile == 1:
            misbehave(mode)
    provenance = {**describe_models(request["models"]), "device": "fake"}
    prediction, regions = fake_prediction(read.image.GetSize()[::-1], grid_of(read.image).matrix(), provenance)
    source = Source(case.path, case.entry, read.sha256, case.series)
    with FOLDER.reserve(request["output"]) as place:
        write_results(place, Case(read.image, prediction, regions, source), scene=False)
    report.progress(estimate.step("write", 1, 1))
    return {}


def calibrate(request: Fields, _report: server.Report) -> Fields:
    """Copy the model, under the name of the folder that is asked for."""
    output = Path(request["output"])
    shutil.copytree(request["model"], output)
    card = json.loads((output / "model.json").read_text(encoding="utf-8")) | {"name": output.name}
    (output / "model.json").write_text(json.dumps(card), encoding="utf-8")
    told = {"reviews": len(request["cases"]), "temperature": 1.3, "p_value": 0.01, "nll": [0.5, 0.4], "ece": [0.1, 0]}
    return {"name": output.name, "calibration": told, "refused": []}


def describe_computer(request: Fields, report: server.Report) -> Fields:
    """Describe no computer, or ask another one."""
    if request.get("computer"):
        return ask_computer(request, report)
    return {"version": __version__, "device": "fake", "cores": 1}


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "normal"
    if chosen not in MODES:
        sys.exit(f"There is no mode {chosen}; choose one of {', '.join(MODES)}.")
    PROTOCOL_OUTPUT = os.dup(1)  # before the worker takes it
    server.serve(
        handlers_here()
        | {
            Command.PREDICT: lambda request, report: predict(chosen, request, report),
            Command.PREDICT_CASE: lambda request, report: predict_case(chosen, request, report),
            Command.CALIBRATE: calibrate,
            Command.COMPUTER: describe_computer,
            Command.MODEL: has_model,
            Command.KEEP: keep_model,
        }
    )
