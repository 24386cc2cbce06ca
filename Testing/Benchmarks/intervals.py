"""Check that intervals of volumes hold what they promise, and how wide they are.

    python Testing/Benchmarks/intervals.py OUTPUT NAME=SCORES[,SCORES...] ...

The cases of scores folders of `mob-training evaluate`, which must be exchangeable, are split into calibration and test
cases again and again. In each split the scale is chosen and the quantile taken from the calibration cases alone. Beside
it stand each scale by itself, plain conformal prediction among them, and the spread of coherent samples, where the
scores have it: with several labels they have its mean only.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mob_training.evaluation.intervals import KEY, stated
from mob_training.evaluation.score_files import read_runs
from MoBUncertaintyLib.measurements.conformal import conformal_quantile
from MoBUncertaintyLib.measurements.volumes import LEVELS, STAGES, Scale, choose_scale

SPLITS = 200
CALIBRATION = 0.6
"""Of the cases."""
CHOSEN, SAMPLES = "chosen", "samples"


def study(cases: list[dict[str, Any]], label: str, alone: bool = True, seed: int = 0) -> dict[str, Any]:
    """Measure coverage and mean width of the intervals of a label, the only one or not, over random splits."""
    pairs = [stated(case, label) for case in cases]
    # Reviews may not have been simulated.
    simulated = all(len(case[f"{KEY}.{label}.ml"]) > STAGES for case in cases)
    stages = [[stated(case, label, stage + 1) for case in cases] for stage in range(STAGES)] if simulated else []
    after = stages[-1] if stages else []
    spread = [case.get("joint.volume.deviation") for case in cases]
    scales: dict[str, list[float]] = {kind.value: [each.scale(kind) for each, _ in pairs] for kind in Scale}
    if alone and all(spread):
        scales[SAMPLES] = [float(each) / 1000 for each in spread if each]
    left = np.array([abs(true - each.ml) for each, true in after])
    errors = np.array([abs(true - each.ml) for each, true in pairs])
    count, rng = round(CALIBRATION * len(cases)), np.random.default_rng(seed)
    rows: dict[tuple[str, float], list[tuple[float, float]]] = {}
    choices: dict[str, int] = {}
    for _ in range(SPLITS):
        order = rng.permutation(len(cases))
        known, others = order[:count], order[count:]
        choice = choose_scale([pairs[i] for i in known]).value
        choices[choice] = choices.get(choice, 0) + 1
        if after:
            kind = choose_scale(*([stage[i] for i in known] for stage in stages))
            reviewed = np.array([each.scale(kind) for each, _ in after])
        for level in LEVELS:
            sets = {name: (errors, np.array(scale)) for name, scale in scales.items()}
            sets |= {CHOSEN: sets[choice]} | ({"reviewed": (left, reviewed)} if after else {})
            for name, (distance, scale) in sets.items():
                half = conformal_quantile(distance[known] / scale[known], level) * scale[others]
                rows.setdefault((name, level), []).append((float(np.mean(distance[others] <= half)), 2 * half.mean()))
    # The mean over all splits is fixed by the cases; of 200 of them it is known to this.
    found: dict[str, Any] = {"cases": len(cases), "calibration": count, "splits": SPLITS, "scale": choices}
    for (name, level), values in rows.items():
        covered, width = np.array(values).T
        found.setdefault(name, {})[f"{100 * level:g}"] = {
            "coverage": round(float(covered.mean()), 4),
            "error": round(float(covered.std(ddof=1) / np.sqrt(SPLITS)), 4),
            "width_ml": round(float(width.mean()), 4),
        }
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """Write the results as Markdown."""
    lines = [
        "| cases | promised | at most | held | width, ml | plain, ml | after review: held | width, ml |",
        "| --- " * 8 + "|",
    ]
    for name, found in results.items():
        for level in sorted(LEVELS):
            key, most = f"{100 * level:g}", level + 1 / (found["calibration"] + 1)
            ours, plain, after = (found.get(kind, {}).get(key) for kind in (CHOSEN, Scale.NOTHING.value, "reviewed"))
            held = [
                f"{each['coverage']:.1%} ± {each['error']:.1%} | {each['width_ml']:.3g}" if each else "– | –"
                for each in (ours, after)
            ]
            lines.append(f"| {name} | {level:.0%} | {most:.1%} | {held[0]} | {plain['width_ml']:.3g} | {held[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write `intervals.json`; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path), parser.add_argument("scores", nargs="+", metavar="NAME=SCORES")
    parser.add_argument("--unusual", action="store_true", help="count the cases that are called unusual, too")
    asked = parser.parse_args()
    results = {}
    for given in asked.scores:
        name, _, folders = given.partition("=")
        cases = [
            case for folder in folders.split(",") for run in read_runs([Path(folder)]) for case in run.cases.values()
        ]
        ordinary = [case for case in cases if asked.unusual or case[f"{KEY}.ordinary"]]
        labels = sorted({key.split(".")[1] for case in ordinary for key in case if key.endswith(".true_ml")})
        for label in labels:
            title = name if len(labels) == 1 else f"{name}, {label}"
            results[title] = study(ordinary, label, alone=len(labels) == 1)
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "intervals.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
