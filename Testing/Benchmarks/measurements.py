"""How often intervals of measurements hold on held-out cases, and how wide they are, by the way that samples are drawn.

    python Testing/Benchmarks/measurements.py OUTPUT MODEL DATASET --doses FOLDER [--part test] [--cases N]

DATASET is a raw data set of `mob-training`, FOLDER has CASE.nii.gz, in steps of `--gray`: OpenKBP's are 0.02 Gy. Each
case is predicted once and measured with samples of three scopes: `local`, with the model's own correlation length;
`tile`, where all voxels share one draw; and `voxel`, where none do. Rule, written before the scores: intervals of 90 %.
Coverage and width, divided by the mean truth, are pooled over measurements; their 95 % intervals are bootstrapped with
the patient as the unit. Beside the samples as they are, calibrated ones (`QuantileBounds`) and plain residuals (split-
conformal, of the stated value alone) are tested in leave-one-out, where there are cases enough.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mob_training.evaluation.held_out import Evaluation, Examination, held_out_cases
from mob_training.evaluation.intervals import TAILS, measurement_scores
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.measurements.conformal import conformal_quantile, needed_cases
from MoBUncertaintyLib.measurements.distribution import QuantileBounds, ends

LEVEL = 0.9
WANTED = (
    "mean_dose:Parotid_L", "mean_dose:Parotid_R", "D2%:Parotid_L", "D2%:Parotid_R", "V30Gy:Parotid_L",
    "V30Gy:Parotid_R", "max_dose:SpinalCord", "max_dose:Brainstem", "mean_dose:Bone_Mandible", "volume:Parotid_L",
    "volume:Parotid_R",
)  # fmt: skip
LENGTHS_MM = {"local": None, "tile": 1000.0, "voxel": 0.01}
RESAMPLED = 2000

Rows = dict[str, list[float]]
"""Of a case: truth, stated value and `TAILS` of the samples of each measurement."""
Ends = dict[str, list[tuple[str, float, float, float]]]
"""Of each measurement: case, truth, and both ends of its interval."""


def measured_case(model: Examination, files: tuple[str, Path, Path], doses: Path, gray: float) -> dict[str, Rows]:
    """Predict and measure a case, with each scope."""
    image, truth, prediction = model.predict(files)
    dose = sitk.ReadImage(str(doses / f"{files[0]}.nii.gz"), sitk.sitkFloat32) * gray
    if not on_same_grid(dose, image):
        dose = sitk.Resample(dose, image, sitk.Transform(), sitk.sitkLinear, 0.0)
    values, start = {"dose": sitk.GetArrayFromImage(dose)}, time.monotonic()
    scores = {}
    for scope, length in LENGTHS_MM.items():
        own = prediction if length is None else replace(prediction, correlation_mm=(length,) * 3)
        scores[scope] = measurement_scores(own, sitk.GetArrayFromImage(truth), WANTED, values)
    print(f"{files[0]}: {len(scores['local'])} measurements, {time.monotonic() - start:.1f} s", flush=True)
    return scores


def intervals(cases: dict[str, Rows], ends_of: Callable[[list[list[float]], list[float]], tuple[float, float]]) -> Ends:
    """Make the interval of each case and measurement with what the other cases say of it."""
    result: Ends = defaultdict(list)
    for name in WANTED:
        rows = {case: own[name] for case, own in cases.items() if name in own}
        if ends_of is not _as_drawn and len(rows) <= needed_cases(ends(LEVEL)[1]):
            continue
        for case, row in rows.items():
            others = [other for key, other in rows.items() if key != case]
            result[name].append((case, row[0], *ends_of(others, row)))
    return result


def _as_drawn(_others: list[list[float]], row: list[float]) -> tuple[float, float]:
    low, high = ends(LEVEL)
    return row[2 + TAILS.index(low)], row[2 + TAILS.index(high)]


def _calibrated(others: list[list[float]], row: list[float]) -> tuple[float, float]:
    bounds = QuantileBounds.of([(true, dict(zip(TAILS, tails, strict=True))) for true, _, *tails in others])
    assert bounds is not None
    low, high = _as_drawn(others, row)
    return low - bounds.low, high + bounds.high


def _residuals(others: list[list[float]], row: list[float]) -> tuple[float, float]:
    half = conformal_quantile([abs(true - stated) for true, stated, *_ in others], LEVEL)
    return row[1] - half, row[1] + half


def pooled(made: Ends, seed: int = 0) -> dict[str, list[float]]:
    """Pool coverage and relative width over measurements: mean, and 95 % interval over patients."""
    by_case: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for rows in made.values():
        unit = float(np.mean([abs(true) for _, true, _, _ in rows]))
        for case, true, low, high in rows:
            by_case[case].append((low <= true <= high, (high - low) / unit))
    sums = np.array([[*np.sum(own, axis=0), len(own)] for own in by_case.values()])
    drawn = sums[np.random.default_rng(seed).integers(len(sums), size=(RESAMPLED, len(sums)))].sum(axis=1)
    whole = sums.sum(axis=0)
    result = {}
    for place, name in enumerate(("coverage", "width")):
        spread = np.quantile(drawn[:, place] / drawn[:, 2], (0.025, 0.975))
        result[name] = [round(float(number), 4) for number in (whole[place] / whole[2], *spread)]
    return result


def table(cases: dict[str, dict[str, Rows]]) -> dict[str, dict[str, list[float]]]:
    """Pool each way to make intervals."""
    by_scope = {scope: {case: own[scope] for case, own in cases.items()} for scope in LENGTHS_MM}
    made = {f"{scope}, as drawn": intervals(own, _as_drawn) for scope, own in by_scope.items()}
    made |= {f"{scope}, calibrated": intervals(own, _calibrated) for scope, own in by_scope.items()}
    made["residuals alone"] = intervals(by_scope["local"], _residuals)
    return {name: pooled(own) for name, own in made.items() if own}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write `measurements.json`, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("output", "model", "dataset"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--doses", type=Path, required=True)
    parser.add_argument("--gray", type=float, default=0.02)
    parser.add_argument("--part", choices=("test", "calibrate", "val"), default="test")
    parser.add_argument("--cases", type=int)
    asked = parser.parse_args(arguments)
    model = Examination(asked.model, asked.dataset, Evaluation(part=asked.part), None)
    files = held_out_cases(asked.dataset, asked.part)[: asked.cases]
    cases = {each[0]: measured_case(model, each, asked.doses, asked.gray) for each in files}
    asked.output.mkdir(parents=True, exist_ok=True)
    results = table(cases)
    content = {"cases": cases, "pooled": results}
    (asked.output / "measurements.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("| 90 % intervals | held | width / mean truth |\n| --- | --- | --- |")
    for name, scores in results.items():
        held, *held_spread = scores["coverage"]
        width, *width_spread = scores["width"]
        print(
            f"| {name} | {held:.1%} ({held_spread[0]:.1%} to {held_spread[1]:.1%}) "
            f"| {width:.3f} ({width_spread[0]:.3f} to {width_spread[1]:.3f}) |"
        )


if __name__ == "__main__":
    main()
