"""A fake worker for tests: it speaks the protocol, but makes up the prediction, so that it needs only numpy.

It is part of the library so that the module's self-test finds it in an installed extension.

    python -u -m MoBUncertaintyLib.worker.fake [MODE]

MODE  normal    sends a result after a few steps (the default)
      slow      does so in a minute, and starts a child process that would outlive it
      fails     reports an image that cannot be segmented
      dies      exits during the request, as if killed
      hangs     stops, without even a heartbeat
      stuck     sends heartbeats, but makes no progress
      nonsense  sends a line that is not a message

`export` is the real worker's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.worker import server
from MoBUncertaintyLib.worker.commands import export_review
from MoBUncertaintyLib.worker.progress import Estimate
from MoBUncertaintyLib.worker.protocol import Command

MODES = ("normal", "slow", "fails", "dies", "hangs", "stuck", "nonsense")
TILES = 6
SENTENCE = "The image is a single slice (64 x 64 x 1); give a 3D volume or the folder of its DICOM series."
LABEL = {
    "value": 1,
    "name": "pancreas",
    "colour": [249, 180, 111],
    "terminology": {
        "category": ["SCT", "123037004", "Anatomical Structure"],
        "type": ["SCT", "15776009", "Pancreas"],
        "modifier": None,
    },
}
PLACES = {"left": (0, 0, 1), "anterior": (0, -1, 0), "superior": (1, 0, 0)}
"""Positions of the doubtful regions on the organ's surface, (z, y, x) for axial slices in the usual orientation."""


def make_prediction(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make probability, variance (float32) and regions (uint16) of an ellipsoid with three doubtful regions."""
    axes = [((np.arange(n, dtype=np.float32) - (n - 1) / 2) / (0.25 * n)).astype(np.float32) for n in shape]
    z, y, x = np.ix_(*axes)
    distance = np.sqrt(z * z + y * y + x * x)
    probability = 1 / (1 + np.exp(np.clip(12 * (distance - 1), -50, 50)))
    regions = np.zeros(shape, np.uint16)
    for label, (a, b, c) in enumerate(PLACES.values(), start=1):
        regions[(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < (0.5 - 0.08 * label) ** 2] = label
    doubtful = regions > 0
    probability[doubtful] = 0.3 + 0.4 * probability[doubtful]
    variance = np.where(doubtful, 0.3, 0.03).astype(np.float32) * probability * (1 - probability)
    return probability, variance, regions


def row(
    label: int, location: str, regions: np.ndarray, p: np.ndarray, v: np.ndarray, matrix: np.ndarray
) -> server.Fields:
    """Compute the fields of `regions.Region`."""
    mask = regions == label
    index = np.argwhere(mask)
    voxel = abs(float(np.linalg.det(matrix[:3, :3])))
    spacing = np.linalg.norm(matrix[:3, 2::-1], axis=0)
    return {
        "rank": label,
        "label": label,
        "centroid_ras": (matrix[:3, :3] @ index.mean(axis=0)[::-1] + matrix[:3, 3]).tolist(),
        "volume_mm3": voxel * len(index),
        "expected_error_mm3": voxel * float(np.minimum(p[mask], 1 - p[mask]).sum()),
        "mean_variance": float(v[mask].mean()),
        "peak_variance": float(v[mask].max()),
        "mean_probability": float(p[mask].mean()),
        "inside_share": float((p[mask] > 0.5).mean()),
        "extent_mm": float((spacing * (np.ptp(index, axis=0) + 1)).max()),
        "location": location,
    }


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


def predict(mode: str, request: server.Fields, report: server.Report) -> server.Fields:
    """Answer like the worker, see `protocol`."""
    ct = np.load(request["ct"]["array"], mmap_mode="r")
    matrix = np.array(request["ct"]["ijk_to_ras"], float)
    estimate = Estimate({"model": 1.0, "network": 5.0, "write": 0.5})
    report.progress(estimate.step("model", 1, 1))
    if mode == "slow":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
    for tile in range(TILES):
        report.progress(estimate.step("network", tile, TILES))
        time.sleep(10.0 if mode == "slow" else 0.02)
        if tile == 1:
            misbehave(mode)
    report.warning("This result is fake.")
    probability, variance, regions = make_prediction(ct.shape)
    folder = Path(request["folder"])

    def write(name: str, array: np.ndarray) -> str:
        np.save(folder / f"{name}.npy", array)
        return str(folder / f"{name}.npy")

    report.progress(estimate.step("write", 1, 1))
    return {
        "segmentation": write("segmentation", (probability > 0.5).astype(np.uint8)),
        "regions": write("regions", regions),
        "probability": {"1": write("probability-1", probability)},
        "variance": {"1": write("variance-1", variance)},
        "rows": [
            row(label, place, regions, probability, variance, matrix) for label, place in enumerate(PLACES, start=1)
        ],
        "labels": [LABEL],
        "provenance": {
            "model": {"name": request["model"], "path": "", "digest": "0" * 64},
            "settings": request.get("settings") or {},
            "device": "fake",
            "input": {"name": request["ct"].get("name"), "size": ct.shape[::-1], "sha256": "0" * 64},
            "versions": {"numpy": np.__version__},
        },
        "warnings": report.warnings,
        "seconds": estimate.seconds,
    }


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "normal"
    if chosen not in MODES:
        sys.exit(f"There is no mode {chosen}; choose one of {', '.join(MODES)}.")
    PROTOCOL_OUTPUT = os.dup(1)  # before the worker takes it
    server.serve(
        {Command.PREDICT: lambda request, report: predict(chosen, request, report), Command.EXPORT: export_review}
    )
