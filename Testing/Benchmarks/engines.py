"""OpenVINO against PyTorch, one tile at a time: the network, and what heads, contrast and moments add to it.

    python Testing/Benchmarks/engines.py FOLDER [--repeats 15] [--threads 1,2] [--networks demo,31M]

Writes engines.json and engines.md. All variants take turns within each repeat, and ratios are medians of those within a
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
from inference.networks import CONFIGURATION, ORGAN_IS_RARE, _stated, write_training_folder
from MoBUncertaintyLib.files.resources import RESOURCES
from MoBUncertaintyLib.inference.devices import autocast_dtype, openvino_version
from MoBUncertaintyLib.inference.engine_openvino import OpenVinoEngine, _MeanGraph
from MoBUncertaintyLib.inference.engines import Engine, TorchEngine
from MoBUncertaintyLib.inference.graph_cache import GraphCache
from MoBUncertaintyLib.inference.preprocessing import Preprocessor
from MoBUncertaintyLib.inference.sliding_window import CPU
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import DEMO_MODEL, find_model
from MoBUncertaintyLib.network.backbone import build_network, load_network
from MoBUncertaintyLib.prediction import Precision

LARGE_TILE = (64, 64, 64)
TURNS = {"demo": 4, "31M": 1}
"""How many times as many turns a network gets: whatever takes a few hundredths of a second is easily disturbed."""
TITLES = {"demo": "the demo's", "31M": "nnU-Net's plain U-Net, random weights"}


def make_model(name: str, folder: Path) -> Model:
    """The demo's, or nnU-Net's plain U-Net as its default planner makes it, with 31 million random weights."""
    model = load_model(find_model(DEMO_MODEL))
    if name == "demo":
        return model
    plans = json.loads(json.dumps(model.plans))
    configuration, spec = plans["configurations"][CONFIGURATION], CovarianceSpec()
    configuration["patch_size"] = list(LARGE_TILE)
    architecture = configuration["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    architecture["arch_kwargs"].pop("n_blocks_per_stage")
    architecture["arch_kwargs"] |= {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
        "n_conv_per_stage": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
    }
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


def table(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    where, rows = found["machine"], []
    for each in found["measurements"]:
        ms, busy = each["milliseconds"], each["processor_milliseconds"]
        cells = [
            TITLES[each["network"]],
            f"{each['parameters'] / 1e6:.1f} M",
            " x ".join(map(str, each["tile"])),
            each["precision"],
            each["threads"],
            f"{ms['torch']:.0f} ({busy['torch']:.0f})",
            f"{ms['openvino']:.0f} ({busy['openvino']:.0f})",
            f"{each['torch_over_openvino']:.2f} ({each['torch_over_openvino_processor']:.2f})",
            *(f"{100 * each[f'added_{engine}_processor']:.1f} %" for engine in ("torch", "openvino", "in_graph")),
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    load = " and ".join(f"{value:.1f}" for value in found["load"])
    turns = dict.fromkeys(str(each["turns"]) for each in found["measurements"])
    return "\n".join(
        [
            "# Engines",
            "",
            f"{where['processor']}, {where['cores']} cores ({', '.join(found['instructions']) or 'no AVX-512'}); "
            f"OpenVINO {found['openvino']}, torch {where['versions']['torch']}. Medians of {' or '.join(turns)} turns; "
            f"load of the computer before and after: {load}. In brackets, and for heads and moments: time of the "
            "processor, all threads together.",
            "",
            "| network | parameters | tile | precision | threads | torch, ms | OpenVINO, ms | torch / OpenVINO "
            "| heads and moments, torch | heads and moments, OpenVINO | of these in the graph |",
            "|" + " --- |" * 11,
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measure, write, and print the table."""
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
    (asked.folder / "engines.md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
