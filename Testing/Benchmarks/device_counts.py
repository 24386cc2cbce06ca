"""What a GPU is asked for: copies, waits and memory for each tile, counted on a device that only counts.

    python Testing/Benchmarks/device_counts.py [FOLDER] [--before CHECKOUT]

No GPU is needed, and nothing is said of time: the device is that of Testing/Python/support/pretend_gpu.py, which
computes on the CPU. A tile is counted that is neither the first nor the last of its fold, in two mirrored passes.
Memory is that of the whole run, for each voxel of a tile of 24 x 24 x 24, beside what a kernel needs for itself.
Weights are read by five folds over two images, in adaptive tiling. CHECKOUT is another version of the sources, to
compare with: its column is measured, else the one that is there stays. Writes device-counts.json and device-counts.md
into FOLDER (results).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
CASES = {"two classes, closed form": 2, "five classes, K = 30": 5, "14 classes, K = 30": 14}
ROWS = {
    "uploads": "copies to the GPU",
    "downloads": "copies from it",
    "waits": "waits of the host",
    "operations": "calls of PyTorch",
    "peak": "bytes for each voxel of a tile",
}
READS = "weights read, 5 folds, 2 images"


def count(folder: Path) -> dict[str, Any]:
    """Count with the library that is imported."""
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
    from MoBUncertaintyLib.model.folder import Model
    from MoBUncertaintyLib.regions.prediction import PredictionSettings
    from support.pretend_gpu import Counts, PretendGpu
    from support.tiny import PATCH, make_ct, make_dataset, make_model

    spec = CovarianceSpec(Covariance.MIXTURE_OF_BASES)
    settings = PredictionSettings(device="cuda", precision="float32", engine="torch")
    found: dict[str, Any] = {}
    for name, classes in CASES.items():
        labels = [f"organ {number}" for number in range(1, classes)]
        data = make_dataset(labels, orientation="RAS")
        model = make_model(folder / str(classes), dataset=data, covariance=spec, mirror_axes=(0,))
        with PretendGpu() as gpu:
            seen: list[Counts] = []

            def note(step: Any, gpu: PretendGpu = gpu, seen: list[Counts] = seen) -> None:
                if step.stage == "network":
                    seen.append(replace(gpu.counts))

            Predictor(model, replace(settings, mirror=True, tiling="full")).predict(make_ct((24, 24, 48)), note)
        tile = asdict(seen[4].since(seen[2])) | {"peak": round(gpu.counts.peak / (PATCH[0] * PATCH[1] * PATCH[2]))}
        found[name] = {row: tile[row] for row in ROWS}
        print(name, found[name], flush=True)
    model = make_model(folder / "folds", covariance=spec, folds=5)
    read, reads = Model.state_dict, []
    with PretendGpu(), mock.patch.object(Model, "state_dict", lambda *given: reads.append(given) or read(*given)):
        predictor = Predictor(model, replace(settings, tiling="adaptive"))
        for _ in range(2):
            predictor.predict(make_ct((24, 24, 36)))
    return {"cases": found, "reads": len(reads)}


def measure(checkout: Path) -> dict[str, Any]:
    """Count with the library of a checkout, in a process of its own."""
    places = [checkout / "MoBUncertainty", ROOT / "Testing" / "Python", ROOT / "Testing" / "Benchmarks"]
    with tempfile.TemporaryDirectory() as folder:
        given = [sys.executable, __file__, folder, "--count"]
        subprocess.run(given, env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}, check=True)
        content: dict[str, Any] = json.loads((Path(folder) / "counts.json").read_text(encoding="utf-8"))
    return content


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Draw both columns."""
    lines = ["| for each tile | | before | after |", "| --- | --- | --- | --- |"]
    for case, counts in after["cases"].items():
        lines += [
            f"| {case} | {title} | {before['cases'][case][row]:,} | {counts[row]:,} |" for row, title in ROWS.items()
        ]
    return "\n".join([*lines, f"| {READS} | | {before['reads']} | {after['reads']} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "results")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        (arguments.folder / "counts.json").write_text(json.dumps(count(arguments.folder)), encoding="utf-8")
        return
    path = arguments.folder / "device-counts.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    after = measure(ROOT)
    before = measure(arguments.before) if arguments.before else known.get("before", after)
    path.write_text(json.dumps({"before": before, "after": after}, indent=1) + "\n", encoding="utf-8")
    text = f"# What a GPU is asked for\n\n{(__doc__ or '').split('    python')[0].strip()} Made by\n"
    text += f"`Testing/Benchmarks/device_counts.py`, which says how.\n\n{table(before, after)}\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
