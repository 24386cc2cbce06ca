"""OpenVINO against PyTorch, one tile at a time: the network, and what heads, contrast and moments add to it.

    python Testing/Benchmarks/engines.py FOLDER [--repeats 15] [--threads 1,2] [--networks demo,31M]

Writes engines.json. All variants take turns within each repeat, and ratios are medians of those within a
repeat, so that whatever else the computer does hits both sides. Seconds of the processor, which wait for nobody, are
measured beside those of the clock; with several threads they also count how these wait for each other. Without heads,
the engine runs the backbone down to its last segmentation layer only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inference import machine
from inference.networks import CONFIGURATION, ORGAN_IS_RARE, _stated, plain_plans, write_training_folder
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.inference.devices import autocast_dtype, openvino_version
from MoBUncertaintyLib.inference.engines import Engine, OpenVinoEngine, TorchEngine, _MeanGraph
from MoBUncertaintyLib.inference.graph_cache import GraphCache
from MoBUncertaintyLib.inference.preprocessing import Preprocessor
from MoBUncertaintyLib.inference.sliding_window import CPU
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import DEMO_MODEL, find_model
from MoBUncertaintyLib.network.backbone import build_network, load_network
from MoBUncertaintyLib.regions.prediction import Precision

LARGE_TILE = (64, 64, 64)
TURNS = {"demo": 4, "31M": 1}
"""How many times as many turns a network gets: whatever takes a few hundredths of a second is easily disturbed."""


def make_model(name: str, folder: Path) -> Model:
    """The demo's, or nnU-Net's plain U-Net as its default planner makes it, with 31 million random weights."""
    model = load_model(find_model(DEMO_MODEL))
    if name == "demo":
        return model
    plans, spec = plain_plans(model, LARGE_TILE), CovarianceSpec()
    plans["covariance"] = _stated(spec)
    torch.manual_seed(0)
    network = build_network(plans, model.dataset, CONFIGURATION, spec).eval()
    with torch.no_grad():
        network.backbone.decoder.seg_layers[-1].bias[0] += ORGAN_IS_RARE
    write_training_folder(folder / "model", network, plans, model.dataset)
    return load_model(folder / "model")


def real_tile(model: Model) -> torch.Tensor:
    """The middle of the sample CT, preprocessed, as large as the model's tile."""
    preprocessor = Preprocessor(model.plans, model.dataset, model.card.configuration, "RAS")
    image = sitk.ReadImage(str(RESOURCES / "SampleData" / "PhantomCT.nii.gz"))
    data = preprocessor.prepare(image, None, True).data
    starts = [(n - size) // 2 for n, size in zip(data.shape[1:], preprocessor.patch, strict=True)]
    parts = [slice(start, start + size) for start, size in zip(starts, preprocessor.patch, strict=True)]
    return torch.from_numpy(np.ascontiguousarray(data[(slice(None), *parts)])[None])


def passes(engine: Engine, precision: Precision, tile: torch.Tensor, whole: bool) -> Callable[[], None]:
    """What computes one tile with an engine: down to the moments or, unless `whole`, the backbone alone."""
    engine.load(0, CPU, precision)
    noise = torch.Generator()

    def run() -> None:
        output = engine.run(tile)
        if whole:
            engine.moments(output, noise)

    return run


def measure(name: str, threads: int, precision: Precision, repeats: int, folder: Path) -> dict[str, Any]:
    """Medians of one network, number of threads and precision."""
    torch.set_num_threads(threads)
    model = make_model(name, Path(tempfile.mkdtemp(dir=folder)))
    network, tile, graphs = load_network(model, 0), real_tile(model), GraphCache(folder / "graphs")
    size = tuple(tile.shape[2:])
    pytorch = TorchEngine(lambda _: network, 2)
    whole, bare = (OpenVinoEngine(model, pytorch, size, cache=graphs) for _ in range(2))
    bare._graph = _MeanGraph
    variants = {
        "torch": passes(pytorch, precision, tile, True),
        "torch backbone": passes(pytorch, precision, tile, False),
        "openvino": passes(whole, precision, tile, True),
        "openvino backbone": passes(bare, precision, tile, False),
        "openvino graph": passes(whole, precision, tile, False),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    busy: dict[str, list[float]] = {variant: [] for variant in variants}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for variant in random.sample(list(variants), len(variants)):
                start, began = time.perf_counter(), time.process_time()
                variants[variant]()
                if turn:  # the first one warms up
                    busy[variant].append(time.process_time() - began)
                    seconds[variant].append(time.perf_counter() - start)

    def ratio(of: dict[str, list[float]], above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(of[above], of[below], strict=True))

    return {
        "network": name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "tile": size,
        "threads": threads,
        "precision": precision.value,
        "milliseconds": {variant: 1000 * statistics.median(taken) for variant, taken in seconds.items()},
        "processor_milliseconds": {variant: 1000 * statistics.median(taken) for variant, taken in busy.items()},
        **{
            name + suffix: ratio(of, above, below) - less
            for suffix, of in (("", seconds), ("_processor", busy))
            for name, above, below, less in (
                ("torch_over_openvino", "torch", "openvino", 0),
                ("added_torch", "torch", "torch backbone", 1),
                ("added_openvino", "openvino", "openvino backbone", 1),
                ("added_in_graph", "openvino graph", "openvino backbone", 1),
            )
        },
    }


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--networks", default="demo,31M")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    precisions = [Precision.FLOAT32]
    if autocast_dtype(CPU) is torch.bfloat16:
        precisions.append(Precision.BFLOAT16)
    before, measured = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.networks.split(","):
            for precision in precisions:
                for threads in map(int, asked.threads.split(",")):
                    turns = TURNS[name] * asked.repeats
                    measured.append(measure(name, threads, precision, turns, Path(scratch)) | {"turns": turns})
                    print(json.dumps(measured[-1]), flush=True)
    found = {
        "machine": machine.describe(Path(__file__).parents[2]),
        "instructions": machine.instructions(),
        "openvino": openvino_version(),
        "repeats": asked.repeats,
        "load": [before, os.getloadavg()[0]],
        "measurements": measured,
    }
    (asked.folder / "engines.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
