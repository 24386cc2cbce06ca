"""Measure how much error the doubtful regions hold for what there is to look at, beside the best threshold.

    python Testing/Benchmarks/region_frontier.py MODEL DATASET OUTPUT

DATASET is a raw nnU-Net data set, whose held-out cases are predicted, or a folder of phantoms (`mob-training phantom`).
As the list of regions grows by rank, the error inside them, against the truth, is compared with the error in the same
volume of the voxels of highest expected error, 1 - max p. OUTPUT then holds the numbers of this model, and a figure of
all models whose numbers are there.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure

from mob_training.evaluation.held_out import held_out_cases
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.measure import expected_error
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from MoBUncertaintyLib.regions.region import Regions

THRESHOLDS = np.geomspace(0.005, 0.49, 40)


def cases(dataset: Path, labels: tuple[Label, ...], part: str = "test") -> Iterator[tuple[str, Path, np.ndarray]]:
    """Yield name, image and truth of each case, of a part of the split where there is one."""
    if (dataset / "imagesTs").is_dir():
        for name, image, truth in held_out_cases(dataset, part):
            yield name, image, sitk.GetArrayFromImage(sitk.ReadImage(str(truth)))
        return
    for ct in sorted(dataset.glob("*/ct.nii.gz")):
        truth = 0
        for each in labels:
            mask = sitk.ReadImage(str(ct.parent / "segmentations" / f"{each.name}.nii.gz"))
            truth = truth + each.value * (sitk.GetArrayFromImage(mask) > 0).astype(np.uint8)
        yield ct.parent.name, ct, np.asarray(truth)


def measure(prediction: Prediction, regions: Regions, truth: np.ndarray) -> dict[str, Any]:
    """Measure a case: volumes and errors in ml, of the first n regions (n from 0 on) and above each threshold."""
    ml, region_map = prediction.grid.voxel_mm3 / 1000, regions.whole_map()
    error = expected_error(np.array(prediction.probability, np.float32))
    wrong = prediction.segmentation != truth
    numbers = region_map[region_map > 0]
    volume, held = (
        ml * np.append(0, np.cumsum(np.bincount(each, minlength=len(regions.ranked) + 1)[1:]))
        for each in (numbers, region_map[wrong & (region_map > 0)])
    )
    order = np.argsort(-error, axis=None, kind="stable")
    best = ml * np.append(0, np.cumsum(wrong.ravel()[order]))
    above = [int(np.count_nonzero(error > each)) for each in THRESHOLDS]
    return {
        "error": ml * int(wrong.sum()),
        "expected": ml * float(error.sum(dtype=float)),
        "expected_held": ml * float(error[region_map > 0].sum(dtype=float)),
        "list": np.array([volume, held, best[np.rint(volume / ml).astype(int)]]),
        "threshold": np.array([[ml * count for count in above], best[above]]),
    }


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Take means over the cases; one with fewer regions than others keeps all that it has."""
    longest = max(row["list"].shape[1] for row in rows)
    lists = np.mean([np.pad(r["list"], [(0, 0), (0, longest - r["list"].shape[1])], "edge") for r in rows], axis=0)
    counts = [row["list"].shape[1] - 1 for row in rows]
    ratios = [row["list"][1, -1] / row["list"][2, -1] for row in rows if row["list"][2, -1]]
    volume, held, best = lists[:, -1]
    return {
        "cases": len(rows),
        "regions": {"mean": np.mean(counts), "min": min(counts), "max": max(counts)},
        "error_ml": np.mean([row["error"] for row in rows]),
        "regions_ml": volume,
        "error_held_ml": held,
        "error_held_by_threshold_ml": best,
        "fraction_of_best": held / best,
        "fraction_of_best_min": min(ratios),
        "expected_error_held": np.sum([r["expected_held"] for r in rows]) / np.sum([r["expected"] for r in rows]),
        "by_rank": dict(zip(("volume_ml", "held_ml", "best_ml"), lists.tolist(), strict=True)),
        "by_threshold": dict(
            zip(("volume_ml", "held_ml"), np.mean([row["threshold"] for row in rows], axis=0).tolist(), strict=True)
        ),
    }


def rounded(value: Any) -> Any:
    """Round all numbers to four digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw, for each model, error held against volume looked at."""
    mpl.rcParams["svg.fonttype"], mpl.rcParams["svg.hashsalt"] = "none", "regions"
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        best, own = each["by_threshold"], each["by_rank"]
        axes.plot(best["volume_ml"], best["held_ml"], color="0.45", label="best threshold of the expected error")
        axes.plot(own["volume_ml"], own["held_ml"], "o-", ms=3.5, color="#0072b2", label="regions, by rank")
        axes.axhline(each["error_ml"], color="0.45", lw=0.8, ls=":", label="all error")
        axes.set(title=f"{each['model']}, {each['cases']} cases", xlabel="volume to look at (ml)")
        axes.set(xlim=(0, 2.5 * each["regions_ml"]), ylim=(0, None), ylabel="error held (ml)")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, and write `region-frontier-MODEL.json` and `region-frontier.svg`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model"), parser.add_argument("dataset", type=Path), parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    model = load_model(find_model(asked.model))
    predictor = Predictor(model, PredictionSettings(device="cpu"))
    rows = []
    for _, image, truth in cases(asked.dataset, model.card.labels):
        prediction = predictor.predict(read_image(image).image)
        rows.append(measure(prediction, find_regions(prediction), truth))
        volume, held, best = rows[-1]["list"][:, -1]
        print(f"{image}: {volume:.2f} ml to look at hold {held:.2f} ml of error, at best {best:.2f} ml", flush=True)
    summary = {"model": model.card.name} | rounded(summed_up(rows))
    print(json.dumps({name: value for name, value in summary.items() if not name.startswith("by_")}, indent=1))
    asked.output.mkdir(parents=True, exist_ok=True)
    text = "{\n" + ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in summary.items()) + "\n}\n"
    (asked.output / f"region-frontier-{model.card.name}.json").write_text(text)
    draw([json.loads(p.read_text()) for p in sorted(asked.output.glob("region-frontier-*.json"))],
         asked.output / "region-frontier.svg")  # fmt: skip


if __name__ == "__main__":
    main()
