"""Full against adaptive tiling, judged by the truth: tiles, processor time, Dice, NLL and the error that is caught.

    python Testing/Benchmarks/tiling.py FOLDER [--phantoms 40] [--hippocampus VOLUMES] [--engine auto] [--processes 1]

Writes tiling.json and tiling.md. The phantoms' seeds are not those of the shipped model's training; VOLUMES are those
of `tails.py`, of which the same 50 cases are predicted. Cases that are in FOLDER already are not predicted again.
Adaptive tiling must be no worse than full tiling by more than 0.001 of Dice: the lower bound of the mean difference,
with 95 % confidence, must say so. The P values are Wilcoxon's, of differences within a case.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import stats

from inference import machine
from inference.cases import SEED as LARGE
from inference.cases import phantom, sample
from mob_training.data.phantom import case_seed, make_phantom
from mob_training.evaluation.metrics.calibration import negative_log_likelihood
from MoBUncertaintyLib import PredictionSettings, find_model, find_regions, load_model, read_image
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.regions.agreement import dice, error_fraction
from MoBUncertaintyLib.regions.prediction import Tiling
from tails import held_out

SEED = 20261127
MODELS = {"phantom": "PhantomPancreas", "large": "PhantomPancreas", "hippocampus": "HippocampusAnterior"}
LARGE_SIZE = (512, 512, 300)
TITLES = {
    "large": "One phantom of 512 x 512 x 300 voxels",
    "phantom": "{} phantoms of 128 x 112 x 80 voxels",
    "hippocampus": "{} hippocampi",
}
MARGIN = 0.001  # of Dice
SCORES = {"dice": "Dice", "nll": "NLL", "thick_error_caught": "thick error caught"}

Task = tuple[str, int, str, str]
"""Kind of case, its number, where the volumes are, engine."""


@cache
def predictor(kind: str, engine: str) -> Predictor:
    """The model for a kind of case, warm, on one thread of the CPU."""
    torch.set_num_threads(1)
    ready = Predictor(load_model(find_model(MODELS[kind])), PredictionSettings(device="cpu", engine=engine))
    ready.predict(read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz").image[32:96, 16:80, 16:64])
    return ready


def read(kind: str, number: int, volumes: Path) -> tuple[sitk.Image, np.ndarray | None]:
    """A case and its truth (z, y, x), 1 where the organ is; the large phantom has none."""
    if kind == "large":
        return sample(phantom(LARGE), LARGE_SIZE), None
    if kind == "phantom":
        made = make_phantom(case_seed(SEED, number))
        return made.ct, sitk.GetArrayFromImage(made.labels["pancreas"])
    name = f"{held_out()[number]}.nii.gz"
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(volumes / "labels" / name))) == 1
    return read_image(volumes / "images" / name).image, truth.astype(np.uint8)


def measure(task: Task) -> dict[str, Any]:
    """Predict a case with each tiling, in turns that change from case to case."""
    kind, number, volumes, engine = task
    image, truth = read(kind, number, Path(volumes))
    ready, found = predictor(kind, engine), {}
    for tiling in list(Tiling)[:: 1 if number % 2 else -1]:
        ready.use(PredictionSettings(device="cpu", engine=engine, tiling=tiling))
        start = time.process_time()
        prediction = ready.predict(image, exact=True)
        row: dict[str, Any] = {"seconds": round(time.process_time() - start, 2)}
        row["tiles"] = prediction.provenance["tiles"]
        if truth is not None:
            p = prediction.probability[0]
            caught = error_fraction(prediction, find_regions(prediction), truth)
            row["dice"] = dice(prediction.segmentation, truth)
            row["nll"] = negative_log_likelihood(np.where(truth == 1, p, 1 - p)) / p.size
            row["thick_error_caught"] = caught["thick_error_fraction"]
        found[tiling.value] = row
    return {"kind": kind, "number": number, "engine": engine, **found}


def study(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the cases of one kind say: values of each case, means, and paired tests."""

    def values(tiling: Tiling, name: str) -> np.ndarray:
        return np.array([row[tiling.value].get(name) for row in rows], float)  # NaN where there is none

    result: dict[str, Any] = {"cases": len(rows), "scores": {}}
    for name in ("tiles", "seconds"):
        result[name] = {tiling.value: values(tiling, name).tolist() for tiling in Tiling}
    for name in SCORES if "dice" in rows[0][Tiling.FULL.value] else ():
        full, adaptive = values(Tiling.FULL, name), values(Tiling.ADAPTIVE, name)
        both = ~np.isnan(full) & ~np.isnan(adaptive)
        difference = (adaptive - full)[both]
        error = stats.sem(difference) * stats.t.ppf(0.95, len(difference) - 1)
        result["scores"][name] = {
            "cases": len(difference),
            "full": float(full[both].mean()),
            "adaptive": float(adaptive[both].mean()),
            "difference": float(difference.mean()),
            "lower_bound": float(difference.mean() - error),
            "upper_bound": float(difference.mean() + error),
            "p": float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0,
            "differences": [float(f"{each:.3g}") for each in difference],
        }
    if result["scores"]:
        result["no_worse"] = result["scores"]["dice"]["lower_bound"] >= -MARGIN
    return result


def table(found: dict[str, Any]) -> str:
    """The study as Markdown."""
    where = found["machine"]
    said = (
        f"{where['processor']}, one thread, engine {found['engine']}; load of the computer: {where['load']:.0f}. "
        "Seconds are the processor's. Differences are adaptive less full, with one-sided 95 % bounds of their mean; "
        f"P is Wilcoxon's. Adaptive tiling is no worse if the lower bound for Dice is at least -{MARGIN}."
    )
    parts = ["# Full and adaptive tiling", textwrap.fill(said, 120, break_on_hyphens=False)]
    for kind, each in found["studies"].items():
        lines = ["| | full | adaptive | difference | bounds | P |", "|" + " --- |" * 6]
        for name in ("tiles", "seconds"):
            full, adaptive = (np.mean(each[name][tiling.value]) for tiling in Tiling)
            lines.append(f"| {name} | {full:.1f} | {adaptive:.1f} | {adaptive - full:+.1f} | | |")
        most = [int(max(each["tiles"][tiling.value])) for tiling in Tiling]
        if each["cases"] > 1:
            lines.append(f"| tiles, most | {most[0]} | {most[1]} | | | |")
        for name, score in each["scores"].items():
            digits = 5 if name == "nll" else 4
            full, adaptive = (f"{score[tiling.value]:.{digits}f}" for tiling in Tiling)
            difference, low, high = (
                f"{score[key]:+.{digits}f}" for key in ("difference", "lower_bound", "upper_bound")
            )
            cases = "" if score["cases"] == each["cases"] else f" ({score['cases']} cases with such error)"
            lines.append(
                f"| {SCORES[name]}{cases} | {full} | {adaptive} | {difference} | {low}, {high} | {score['p']:.2g} |"
            )
        parts += [f"## {TITLES[kind].format(each['cases'])}", "\n".join(lines)]
        if each["scores"]:
            parts.append(f"No worse by more than {MARGIN} of Dice: {'yes' if each['no_worse'] else 'not shown'}.")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Predict what is missing, write, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phantoms", type=int, default=40)
    parser.add_argument("--hippocampus", type=Path, default=None, help="folder with images and labels")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / "cases.jsonl"
    kept.touch()
    rows = {(row["kind"], row["number"]): row for row in map(json.loads, kept.read_text().splitlines())}
    wanted = [("large", 0), *(("phantom", number) for number in range(asked.phantoms))]
    if asked.hippocampus:
        wanted += [("hippocampus", number) for number in range(len(held_out()))]
    tasks = [(*each, str(asked.hippocampus), asked.engine) for each in wanted if each not in rows]
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool, kept.open("a") as file:
        for each in as_completed([pool.submit(measure, task) for task in tasks]):
            row = each.result()
            rows[row["kind"], row["number"]] = row
            print(json.dumps(row), file=file, flush=True)
    found = {
        "machine": machine.describe(Path(__file__).parents[2]),
        "engine": asked.engine,
        "margin": MARGIN,
        "studies": {kind: study(each) for kind in TITLES if (each := [rows[w] for w in wanted if w[0] == kind])},
    }
    (asked.folder / "tiling.json").write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    (asked.folder / "tiling.md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
