"""How often intervals of measurements hold on held-out cases, and how wide they are, by the way that samples are drawn.

    python Testing/Benchmarks/measurements.py OUTPUT MODEL DATASET --doses FOLDER [--cases N]

DATASET is a raw data set of `mob-training` with cases that calibrate and held-out ones; FOLDER has CASE.nii.gz in Gy,
such as the `doses/` of OpenKBP. Each case is predicted once and measured with samples of three scopes: `local`, with
the model's own correlation length; `tile`, where all voxels share one draw; and `voxel`, where none do.

Rule, written before the scores: intervals of 90 % of the held-out cases that the model calls ordinary. Beside the
samples as they are stand those that the ordinary cases of the part `calibrate` have corrected (`QuantileBounds`), and
plain residuals (split-conformal, of the stated value alone). Coverage and width, divided by the mean truth, are pooled
over measurements; their 95 % intervals are bootstrapped with the patient as the unit. Of each measurement the error
of the stated value is printed, and how often its interval held. Last comes what regions that are ranked by effect mend
(`ranking.py`). OUTPUT/cases.json.gz keeps the rows, so that a second run goes on, or only counts.
"""

import argparse
import gzip
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.stats import binomtest

from mob_training.evaluation.held_out import Evaluation, Examination, Files, held_out_cases
from mob_training.evaluation.intervals import TAILS, measurement_scores
from MoBUncertaintyLib.images.dose import read_dose
from MoBUncertaintyLib.measurements.conformal import conformal_quantile, needed_cases, short
from MoBUncertaintyLib.measurements.distribution import QuantileBounds, ends
from MoBUncertaintyLib.model.fingerprint import Level
from ranking import errors_left, gone, print_table

LEVEL = 0.9
WANTED = (
    "mean_dose:Parotid_L", "mean_dose:Parotid_R", "D2%:Parotid_L", "D2%:Parotid_R", "V30Gy:Parotid_L",
    "V30Gy:Parotid_R", "max_dose:SpinalCord", "max_dose:Brainstem", "mean_dose:Bone_Mandible", "volume:Parotid_L",
    "volume:Parotid_R",
)  # fmt: skip
LENGTHS_MM = {"local": None, "tile": 1000.0, "voxel": 0.01}
PARTS = ("test", "calibrate")
RANKING = "ranking"
RESAMPLED = 2000

Rows = dict[str, list[float]]
"""Of a case: truth, stated value and `TAILS` of the samples of each measurement; what follows does not count here."""
Cases = dict[str, Rows]
Ends = dict[str, list[tuple[str, float, float, float]]]
"""Of each measurement: case, truth, and both ends of its interval."""


def measured_case(model: Examination, files: Files, doses: Path, ranked: bool) -> dict[str, Any]:
    """Predict and measure a case, with each scope; nothing is measured of a case that is not ordinary.

    If it is `ranked`, also mend its regions (`ranking.errors_left`).
    """
    image, truth, prediction = model.predict(files)
    suitability = prediction.suitability
    if suitability is not None and suitability.level is not Level.ORDINARY:
        print(f"{files[0]}: {suitability.level.name.lower()}", flush=True)
        return {scope: {} for scope in (*LENGTHS_MM, *([RANKING] if ranked else []))}
    values, start = {"dose": np.nan_to_num(read_dose(doses / f"{files[0]}.nii.gz", image))}, time.monotonic()
    whole, scores = sitk.GetArrayFromImage(truth), {}
    for scope, length in LENGTHS_MM.items():
        own = prediction if length is None else replace(prediction, correlation_mm=(length,) * 3)
        rows = measurement_scores(own, whole, WANTED, values)
        scores[scope] = {name: [*map(short, row)] for name, row in rows.items()}
    if ranked:
        scores[RANKING] = errors_left(prediction, whole, values)
    print(f"{files[0]}: {len(scores['local'])} measurements, {time.monotonic() - start:.1f} s", flush=True)
    return scores


def intervals(
    judged: Cases,
    calibrating: Cases,
    ends_of: Callable[[list[list[float]], list[float]], tuple[float, float]],
    wanted: Sequence[str],
) -> Ends:
    """Make the interval of each judged case and measurement with what the calibrating cases say of it."""
    result: Ends = defaultdict(list)
    for name in wanted:
        others = [rows[name] for rows in calibrating.values() if name in rows]
        if ends_of is not _as_drawn and len(others) < needed_cases(LEVEL):
            continue
        for case, rows in judged.items():
            if name in rows:
                result[name].append((case, rows[name][0], *ends_of(others, rows[name])))
    return result


def _as_drawn(_others: list[list[float]], row: list[float]) -> tuple[float, float]:
    low, high = ends(LEVEL)
    return row[2 + TAILS.index(low)], row[2 + TAILS.index(high)]


def _calibrated(others: list[list[float]], row: list[float]) -> tuple[float, float]:
    bounds = QuantileBounds.of([(true, dict(zip(TAILS, tails, strict=False))) for true, _, *tails in others])
    assert bounds is not None
    return bounds.moved(*_as_drawn(others, row))


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


def table(cases: Mapping[str, Mapping[str, Mapping[str, Rows]]], wanted: Sequence[str] = WANTED) -> dict[str, Ends]:
    """Make the intervals in each way."""
    made = {}
    for scope in LENGTHS_MM:
        judged, calibrating = ({case: own[scope] for case, own in cases[part].items()} for part in PARTS)
        made[f"{scope}, as drawn"] = intervals(judged, calibrating, _as_drawn, wanted)
        made[f"{scope}, calibrated"] = intervals(judged, calibrating, _calibrated, wanted)
    made["residuals alone"] = intervals(judged, calibrating, _residuals, wanted)
    return made


def measured(model: Path, dataset: Path, doses: Path, place: Path, limit: int | None) -> dict[str, Any]:
    """Measure the cases of both parts that `place` does not have yet."""
    cases: dict[str, Any] = json.loads(gzip.decompress(place.read_bytes())) if place.exists() else {}
    examined = Examination(model, dataset, Evaluation(), None)
    for part in PARTS:
        own = cases.setdefault(part, {})
        for files in held_out_cases(dataset, part)[:limit]:
            if files[0] not in own:
                own[files[0]] = measured_case(examined, files, doses, part == PARTS[0])
                place.write_bytes(gzip.compress(json.dumps(cases).encode(), mtime=0))
    return cases


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write `measurements.json` and `ranking.json`, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("output", "model", "dataset"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--doses", type=Path, required=True)
    parser.add_argument("--cases", type=int)
    asked = parser.parse_args(arguments)
    asked.output.mkdir(parents=True, exist_ok=True)
    cases = measured(asked.model, asked.dataset, asked.doses, asked.output / "cases.json.gz", asked.cases)
    made = table(cases)
    results = {name: pooled(own) for name, own in made.items() if own}
    ranked = gone({case: own[RANKING] for case, own in cases["test"].items()})
    (asked.output / "ranking.json").write_text(json.dumps(ranked, indent=1) + "\n", encoding="utf-8")
    (asked.output / "measurements.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("| 90 % intervals | held | width / mean truth |\n| --- | --- | --- |")
    for name, scores in results.items():
        held, *held_spread = scores["coverage"]
        width, *width_spread = scores["width"]
        print(
            f"| {name} | {held:.1%} ({held_spread[0]:.1%} to {held_spread[1]:.1%}) "
            f"| {width:.3f} ({width_spread[0]:.3f} to {width_spread[1]:.3f}) |"
        )
    print(
        "\n| measurement | n | mean truth | mean error | mean absolute error | calibrated: held, exact 95 % | width |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rows in made["local, calibrated"].items():
        own = [case["local"][name] for case in cases["test"].values() if name in case["local"]]
        errors = np.array([value - true for true, value, *_ in own])
        held = [low <= true <= high for _, true, low, high in rows]
        exact = binomtest(sum(held), len(held)).proportion_ci()
        width = np.mean([high - low for *_, low, high in rows])
        print(
            f"| {name} | {len(own)} | {np.mean([true for true, *_ in own]):.3g} | {errors.mean():+.2g} "
            f"| {np.abs(errors).mean():.2g} | {np.mean(held):.0%} ({exact.low:.0%} to {exact.high:.0%}) | {width:.3g} |"
        )
    print_table(ranked)


if __name__ == "__main__":
    main()
