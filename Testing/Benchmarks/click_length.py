"""Which fraction of an organ's size suits as the length of a click, where a model's card states none.

    python Testing/Benchmarks/click_length.py OUTPUT MODEL=DATASET ... [--part held-out] [--cases N] [--fractions F ...]

A reader clicks five times in the middle of the largest error. Lengths are 4 mm, and each fraction of the size, from 2
to 40 mm; no model spreads clicks by its own correlation here. The rule: the fraction that leaves the smallest part of
the error (1 - Dice) on validation cases, by the geometric mean over the data sets. p is Wilcoxon's, against 4 mm.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.stats import wilcoxon

from mob_training.evaluation.held_out import Files, held_out_cases, split_cases
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Refined, click_at_errors
from mob_training.evaluation.score_files import write_json
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.click_settings import size_mm
from MoBUncertaintyLib.model.folder import load_model

CLICKS = 5
PARTS = {"validation": lambda dataset: split_cases(dataset, "val"), "held-out": held_out_cases}
FRACTIONS = [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6]
FIXED = "4 mm"


def read(predictor: Predictor, files: Files, fractions: Sequence[float]) -> dict[str, Any]:
    """Predict a case, and compute its Dice before clicks and after them with each length, by its name."""
    name, image, truth = files
    prediction = predictor.predict(read_image(image).image, exact=True)
    case = ReadCase.of(prediction, sitk.ReadImage(str(truth)), predictor.model.card.region_settings)
    size = size_mm(prediction.volumes_ml().values())
    row = {"case": name, "size_mm": size, "before": case.dice(case.prediction.segmentation)}
    for key, length in {FIXED: 4.0, **{f: min(max(f * size, 2.0), 40.0) for f in fractions}}.items():
        settings = replace(prediction.click_settings, length_mm=length)
        steps = list(islice(click_at_errors(case, Refined(case.prediction, settings)), CLICKS))
        row[str(key)] = case.dice(steps[-1].prediction.segmentation) if steps else row["before"]
    print(row, flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarize the cases of a data set: mean Dice in %, the part of the error that is left, and p."""
    values = {key: np.array([row[key] for row in rows]) for key in rows[0] if key not in ("case", "size_mm")}
    before, fixed = values.pop("before"), values[FIXED]
    return {
        "cases": len(rows),
        "size_mm": [round(f([row["size_mm"] for row in rows]), 1) for f in (np.min, np.median, np.max)],
        "before": round(100 * before.mean(), 2),
    } | {
        key: {
            "dice": round(100 * dice.mean(), 2),
            "left": round(float((1 - dice).mean() / (1 - before).mean()), 4),
            "better": int((dice > fixed).sum()),
            "p": float(f"{wilcoxon(dice - fixed).pvalue:.1g}") if (dice != fixed).any() else 1.0,
        }
        for key, dice in values.items()
    }


def main() -> None:
    """Measure all models, and print what the rule chooses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("models", nargs="+", metavar="MODEL=DATASET", help="model, and raw nnU-Net data set")
    parser.add_argument("--part", choices=PARTS, default="validation")
    parser.add_argument("--cases", type=int, help="so many of each data set; default: all")
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    asked = parser.parse_args()
    found = {}
    for name in asked.models:
        model, dataset = map(Path, name.split("="))
        predictor = Predictor(load_model(model))
        cases = PARTS[asked.part](dataset)[: asked.cases]
        found[dataset.name] = summary([read(predictor, files, asked.fractions) for files in cases])
        write_json(found, asked.output)
    left = {f: np.exp(np.mean([np.log(each[str(f)]["left"]) for each in found.values()])) for f in asked.fractions}
    for each, value in left.items():
        print(f"{each:g} of the size: {value:.4f} of the error is left")
    print(f"Best: {min(left, key=lambda each: left[each]):g}")


if __name__ == "__main__":
    main()
