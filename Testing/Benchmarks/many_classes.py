"""Networks of many classes with one label asked for, all labels, and stock nnU-Net: seconds and peak memory.

    python Testing/Benchmarks/many_classes.py FOLDER [--classes 25,117] [--ways one,all,stock] [--limit 16]

The networks are of TotalSegmentator's shape (tiles of 128 x 128 x 128 voxels of 1.5 mm) with random weights, so they
find next to nothing: what is measured is the network, sums, resampling and files. The CT has 512 x 512 x 300 voxels.
Each way runs in a process of its own, from file to files, all tiles, without a scene, and is stopped where it takes
more memory than the limit in GB; what we ourselves refuse says how much it would take. Writes many-classes.json and
many-classes.md; rows that are there already stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from inference import machine
from inference.cases import make_case
from inference.networks import CONFIGURATION, plain_plans, write_training_folder
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import DEMO_MODEL, find_model
from MoBUncertaintyLib.network.backbone import build_network

ROOT = Path(__file__).parents[2]
SIZE = (512, 512, 300)
SPACING = 1.5  # mm
ORGANS_ARE_RARE = 3.0  # added to the background's logit
GB = 1e9
NAMES = {"one": "one label", "all": "all labels", "stock": "stock nnU-Net"}
STOCK = """
import sys
from pathlib import Path
from inference.stock import StockSystem
StockSystem(Path(sys.argv[1]), "cpu").run(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def training_folder(folder: Path, classes: int) -> Path:
    """Write what nnU-Net leaves after training, unless it is there."""
    target = folder / f"{classes}-classes"
    if (target / "fold_0" / "checkpoint_final.pth").exists():
        return target
    model = load_model(find_model(DEMO_MODEL))
    plans = plain_plans(model, (128, 128, 128))
    plans["configurations"][CONFIGURATION]["spacing"] = [SPACING] * 3
    labels = {"background": 0} | {f"organ_{value}": value for value in range(1, classes)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    torch.manual_seed(0)
    network = build_network(plans, dataset, CONFIGURATION, CovarianceSpec.of_kind(Covariance.DETERMINISTIC))
    with torch.no_grad():
        network.backbone.decoder.seg_layers[-1].bias[0] += ORGANS_ARE_RARE
    write_training_folder(target, network, plans, dataset, stock=True)
    return target


def measure(folder: Path, classes: int, way: str, limit: float) -> dict[str, Any]:
    """Run one way; seconds and peak memory of its processes together."""
    model, ct, output = training_folder(folder, classes), make_case(folder, SIZE), folder / f"{classes}-{way}"
    if way == "stock":
        command = ["-c", STOCK, str(model), str(ct), str(output)]
    else:
        command = ["-m", "MoBUncertaintyLib.cli.app", "predict", str(ct), "--model", str(model)]
        command += ["--output", str(output), "--overwrite", "--no-scene", "--tiling", "full", "--device", "cpu"]
        command += ["--labels", "organ_1"] if way == "one" else []
    log = folder / f"{classes}-{way}.log"
    start, peak = time.monotonic(), 0.0
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, *command], stdout=said, stderr=said, env=os.environ)
        while process.poll() is None:
            peak = max(peak, _memory(process.pid) / GB)
            if peak > limit:
                process.kill()
            time.sleep(0.05)
    seconds = time.monotonic() - start
    row = {"classes": classes, "way": way, "peak_gb": round(peak, 2), "seconds": round(seconds, 1)}
    if peak > limit:
        return row | {"stopped": True}
    if refused := re.search(r"take ([\d.]+) GB of memory", log.read_text()):
        return row | {"refused_gb": float(refused.group(1))}
    if process.returncode:
        return row | {"failed": log.read_text()[-600:]}
    return row


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "# Networks of many classes",
        "",
        f"{found['machine']['processor']}, {found['machine']['cores']} cores. A CT of 512 x 512 x 300 voxels, from "
        "file to files, all tiles.",
        "",
        "| classes | | seconds | peak memory, GB |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in found["rows"]:
        seconds = next((each for each in ("stopped", "failed") if row.get(each)), f"{row['seconds']:.0f}")
        memory = f"{'more than ' if row.get('stopped') else ''}{row['peak_gb']:.1f}"
        if asked := row.get("refused_gb"):
            seconds, memory = "refused at once", f"takes {asked:.1f}"
        lines.append(f"| {row['classes']} | {NAMES[row['way']]} | {seconds} | {memory} |")
    return "\n".join(lines) + "\n"


def _memory(pid: int) -> float:
    """Resident bytes of a process and those it has started."""
    try:
        process = psutil.Process(pid)
        return float(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]))
    except psutil.Error:
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", default="25,117")
    parser.add_argument("--ways", default="one,all,stock")
    parser.add_argument("--limit", type=float, default=16.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "many-classes.json"
    found = json.loads(file.read_text()) if file.exists() else {"machine": machine.describe(ROOT), "rows": []}
    for classes in map(int, options.classes.split(",")):
        for way in options.ways.split(","):
            if any((row["classes"], row["way"]) == (classes, way) for row in found["rows"]):
                continue
            row = measure(options.folder, classes, way, options.limit)
            print(row, flush=True)
            found["rows"].append(row)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (options.folder / "many-classes.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
