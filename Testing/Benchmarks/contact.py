"""Measurements of two labels and of what lies between them, and how well a model knows whether they touch.

    python Testing/Benchmarks/contact.py phantoms IMAGES LABELS --cases N --seed N [--suffix _0000] [--raters N]
    python Testing/Benchmarks/contact.py judge OUTPUT MODEL DATASET LABEL LABEL [--raters FILE]

`judge` measures volume and largest diameter of every label of a raw data set of `mob-training`, and the smallest
distance of the two labels, with samples of the scopes of `measurements.py`. OUTPUT/cases.json.gz keeps the rows, so
that a second run goes on, or only counts.

Rules, written before the scores. All held-out cases count; the validation cases calibrate, which have also chosen the
epoch and the temperature. Intervals are of 90 %, made as `measurements.py` makes them and cut off at 0, as in the
product. Coverage, width and CRPS are pooled over the labels, the latter two divided by the mean truth; of a single
measurement they are in its unit. The case is the unit of the bootstrap. The CRPS of residuals alone is that of the
stated value plus each residual of the calibration cases.

Contact is two events: the labels touch (voxels of them share a face), and they are closer than 2 mm. The probability of
each is its fraction of 200 samples; "calibrated" is a logistic regression on the logit of that fraction, fitted on the
calibration cases. Beside it stand the segmentation's own answer, 0 or 1; how often it happens among the calibration
cases; and a logistic regression on the distance of the labels where their probability is above a threshold, fitted on
the same cases, as is the threshold: the one of `THRESHOLDS` with the best likelihood of cases that are left out.
Scores are the Brier score, and the reliability: the mean absolute difference of probability and frequency over five
bins of the probability, weighted by their cases.

`phantoms` writes the cases of `mob-training phantom` as images and label maps of pancreas and duodenum. In the masks
of that command tissue that could be either belongs to the duodenum where it is not pancreas, so that the two always
touch. Here it is then neither: the duodenum is what can be seen of it, and whether the pancreas reaches it depends on
the outline that nobody can see. FILE is the raters.json that `--raters` writes beside LABELS, with how often the events
happen with the outlines of further raters: the best that any model could know.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from measurements import LENGTHS_MM, PARTS, RESAMPLED, Ends, pooled, table
from mob_training.data.datasets import write_image
from mob_training.data.phantom import Phantom, case_seed, make_phantom
from mob_training.evaluation.held_out import Evaluation, Examination, Files, held_out_cases
from mob_training.evaluation.intervals import TAILS
from mob_training.evaluation.metrics.volumes import crps
from MoBUncertaintyLib.base.geometry import occupied
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.measurements.measurement import Wanted
from MoBUncertaintyLib.regions.measurements import SAMPLES, measure

Event = Callable[[float], bool]
EVENTS: dict[str, tuple[str, Event]] = {
    "touch": ("contact_area", lambda area: area > 0),
    "closer than 2 mm": ("distance", lambda distance: distance < 2),
}
"""What is asked of contact: by which measurement, and which of its results count."""
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
BINS = 5
FARTHEST = 5  # voxels, more than two outlines of a phantom are apart


def label_map(phantom: Phantom) -> np.ndarray:
    """Label the pancreas 1, and 2 what can be seen of the duodenum, uint8 (z, y, x)."""
    pancreas, duodenum = (sitk.GetArrayFromImage(phantom.labels[name]) > 0 for name in ("pancreas", "duodenum"))
    for site in phantom.sites:
        duodenum.flat[site.index[site.distance < site.reach * site.window]] = False
    return np.select([pancreas, duodenum], [1, 2]).astype(np.uint8)


def rated(phantom: Phantom, labels: np.ndarray) -> dict[str, float]:
    """Return the fraction of raters in whose outline each event happens."""
    grid, fractions = grid_of(phantom.ct), {}
    box = tuple(slice(max(axis.start - FARTHEST, 0), axis.stop + FARTHEST) for axis in occupied(labels > 0))
    for event, (name, happens) in EVENTS.items():
        wanted = Wanted.read(f"{name}:a:b", "ab")
        masks = ([sitk.GetArrayViewFromImage(rater)[box] > 0, labels[box] == 2] for rater in phantom.raters)
        fractions[event] = float(np.mean([happens(wanted.compute(pair, grid, {})) for pair in masks]))
    return fractions


def write_phantoms(images: Path, labels: Path, cases: int, seed: int, suffix: str, raters: int) -> None:
    """Write the cases that are not there yet; case i is the same whatever their number."""
    place = labels.parent / "raters.json"
    for case in range(cases):
        name = f"s{seed}c{case:03}"
        if (labels / f"{name}.nii.gz").exists():
            continue
        phantom = make_phantom(case_seed(seed, case), raters)
        drawn = label_map(phantom)
        image = sitk.GetImageFromArray(drawn)
        image.CopyInformation(phantom.ct)
        if raters:
            raters_of = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
            place.write_text(json.dumps(raters_of | {name: rated(phantom, drawn)}), encoding="utf-8")
        for folder, made, ending in ((images, phantom.ct, suffix), (labels, image, "")):
            folder.mkdir(parents=True, exist_ok=True)
            write_image(made, folder / f"{name}{ending}.nii.gz")
        print(f"{name}: {np.bincount(drawn.ravel())[1:].tolist()} voxels", flush=True)


def measured_case(model: Examination, files: Files, wanted: Sequence[str]) -> dict[str, Any]:
    """Predict and measure a case with each scope, and the distance of the last two labels of `wanted` by threshold."""
    _, drawn, prediction = model.predict(files)
    truth = measure(replace(prediction, segmentation=sitk.GetArrayFromImage(drawn)), wanted, samples=0)
    scores: dict[str, Any] = {}
    for scope, length in LENGTHS_MM.items():
        own = prediction if length is None else replace(prediction, correlation_mm=(length,) * 3)
        made = dict(zip((one.name for one in truth), zip(truth, measure(own, wanted), strict=True), strict=True))
        scores[scope] = {
            name: [true.value, one.value, *map(one.quantile, TAILS), crps(one.samples, true.value)]
            for name, (true, one) in made.items()
            if one.samples and None not in (true.value, one.value)
        }
        for event, (name, happens) in EVENTS.items():
            true, one = next(pair for text, pair in made.items() if text.startswith(name))
            happened = [value is not None and float(happens(value)) for value in (true.value, one.value)]
            scores[scope][event] = [*map(float, happened), sum(map(happens, one.samples)) / SAMPLES]
    distance = Wanted.read(wanted[-1].replace("contact_area", "distance"), [one.name for one in prediction.labels])
    maps = {one.name: p for one, p in zip(prediction.labels, prediction.probability, strict=True)}
    scores["distances"] = [
        distance.compute([maps[name] > threshold for name in distance.labels], prediction.grid, {})
        for threshold in THRESHOLDS
    ]
    return scores


def measured(model: Path, dataset: Path, pair: Sequence[str], place: Path) -> tuple[dict[str, Any], list[str]]:
    """Measure the cases that `place` does not have yet; return all, and the measurements that have intervals."""
    cases: dict[str, Any] = json.loads(gzip.decompress(place.read_bytes())) if place.exists() else {}
    numbers = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["labels"]
    labels = [name for name in numbers if name != "background"]
    wanted = [f"{kind}:{name}" for kind in ("volume", "diameter") for name in labels]
    wanted += [":".join([kind, *pair]) for kind in ("distance", "contact_area")]
    examined = None
    for part, source in zip(PARTS, ("test", "val"), strict=True):
        own = cases.setdefault(part, {})
        for files in held_out_cases(dataset, source):
            if files[0] not in own:
                examined = examined or Examination(model, dataset, Evaluation(), None)
                own[files[0]] = measured_case(examined, files, wanted)
                place.write_bytes(gzip.compress(json.dumps(cases).encode(), mtime=0))
                print(files[0], flush=True)
    return cases, wanted[:-1]


def interval_rows(cases: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]) -> list[str]:
    """Tabulate coverage, width and CRPS of each kind of measurement, in each way."""
    lines = []
    for kind in dict.fromkeys(text.split(":")[0] for text in wanted):
        names = [text for text in wanted if text.split(":")[0] == kind]
        for way, made in table(cases, names).items():
            if not made:  # there are too few calibration cases
                continue
            scope = way.split(",")[0] if "," in way else "local"
            errors: Ends = {name: [] for name in made}
            for name in made:
                rows = {
                    part: {case: own[scope][name] for case, own in cases[part].items() if name in own[scope]}
                    for part in PARTS
                }
                residuals = np.array([row[0] - row[1] for row in rows["calibrate"].values()])
                for case, row in rows["test"].items():
                    score = crps(row[1] + residuals, row[0]) if way.startswith("res") else row[-1]
                    errors[name].append((case, row[0], 0.0, score))  # as an interval of that width, to be pooled alike
            cut = {
                name: [(case, true, max(low, 0.0), high) for case, true, low, high in rows]
                for name, rows in made.items()
            }
            scores = pooled(cut)
            unit = float(np.mean([row[1] for row in errors[names[0]]])) if len(names) == 1 else 1.0
            numbers = [[unit * number for number in one["width"]] for one in (scores, pooled(errors))]
            cells = [scores["coverage"], *numbers][: 2 if "calibrated" in way else 3]
            texts = (f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in cells)
            lines.append(f"| {kind} | {way} | {' | '.join(texts)} |")
    return lines


def _regression(numbers: np.ndarray, happened: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Fit a logistic regression on one number of the calibration cases, and ask it."""
    if len(np.unique(happened)) < 2:
        return np.full(len(asked), happened.mean())
    return np.asarray(LogisticRegression().fit(numbers[:, None], happened).predict_proba(asked[:, None])[:, 1])


def _left_out(numbers: np.ndarray, happened: np.ndarray) -> float:
    """Return the mean log loss of each calibration case by a regression on the others."""
    left = [_regression(np.delete(numbers, i), np.delete(happened, i), numbers[[i]])[0] for i in range(len(numbers))]
    return float(log_loss(happened, left, labels=[0, 1]))


def probabilities(
    cases: Mapping[str, Mapping[str, Any]], event: str, raters: Mapping[str, Mapping[str, float]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return whether the event happens in each held-out case, and its probability in each way."""
    judged, calibrating = (list(cases[part].values()) for part in PARTS)
    happened, calibration = (np.array([own["local"][event][0] for own in part]) for part in (judged, calibrating))
    ways = {
        "segmentation, 0 or 1": np.array([own["local"][event][1] for own in judged]),
        "frequency among the calibration cases": np.full(len(judged), calibration.mean()),
    }
    near, nearby = (np.array([own["distances"] for own in part]).T for part in (judged, calibrating))
    losses = [_left_out(one, calibration) for one in nearby]
    best = int(np.argmin(losses))
    ways[f"logistic regression on the distance at {THRESHOLDS[best]}"] = _regression(
        nearby[best], calibration, near[best]
    )
    for scope in LENGTHS_MM:
        drawn, other = (np.array([own[scope][event][2] for own in part]) for part in (judged, calibrating))
        ways[f"{scope}, as drawn"] = drawn
        inner = [logit((SAMPLES * one + 0.5) / (SAMPLES + 1)) for one in (other, drawn)]
        ways[f"{scope}, calibrated"] = _regression(inner[0], calibration, inner[1])
    if raters:
        ways["further raters"] = np.array([raters[case][event] for case in cases["test"]])
    return happened, ways


def reliability(p: np.ndarray, happened: np.ndarray) -> list[tuple[int, float, float]]:
    """Return the number of cases, the mean probability and the frequency of each bin that has cases."""
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        (int((bins == b).sum()), float(p[bins == b].mean()), float(happened[bins == b].mean())) for b in np.unique(bins)
    ]


def contact_rows(cases: Mapping[str, Mapping[str, Any]], raters: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Tabulate the Brier score, its difference to local samples as drawn, and the reliability of each way."""
    lines = []
    for event in EVENTS:
        happened, ways = probabilities(cases, event, raters)
        drawn = np.random.default_rng(0).integers(len(happened), size=(RESAMPLED, len(happened)))
        own = (ways["local, as drawn"] - happened) ** 2
        for way, p in ways.items():
            score = (p - happened) ** 2
            cells = []
            for values in (score, score - own):
                low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
                cells.append(f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
            bins = reliability(p, happened)
            error = sum(n * abs(mean - often) for n, mean, often in bins) / len(happened)
            text = ", ".join(f"{mean:.2f}: {often:.2f} ({n})" for n, mean, often in bins)
            lines.append(f"| {event} ({happened.mean():.2f}) | {way} | {' | '.join(cells)} | {error:.3f} | {text} |")
    return lines


def judge(output: Path, model: Path, dataset: Path, pair: Sequence[str], raters: Path | None) -> None:
    """Measure, and print both tables."""
    output.mkdir(parents=True, exist_ok=True)
    cases, wanted = measured(model, dataset, pair, output / "cases.json.gz")
    print("| measurement | 90 % intervals | held | width | CRPS |")
    print("| --- | --- | --- | --- | --- |")
    print(*interval_rows(cases, wanted), sep="\n")
    print("\n| event (frequency) | probability | Brier | less local samples | reliability | p: frequency (n) |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(*contact_rows(cases, json.loads(raters.read_text(encoding="utf-8")) if raters else {}), sep="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write phantoms, or judge a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("phantoms")
    make.set_defaults(run=write_phantoms)
    for name in ("images", "labels"):
        make.add_argument(name, type=Path)
    for name, default in (("cases", 60), ("seed", 0), ("raters", 0)):
        make.add_argument(f"--{name}", type=int, default=default)
    make.add_argument("--suffix", default="")
    score = commands.add_parser("judge")
    score.set_defaults(run=judge)
    for name in ("output", "model", "dataset"):
        score.add_argument(name, type=Path)
    score.add_argument("pair", nargs=2)
    score.add_argument("--raters", type=Path)
    asked = vars(parser.parse_args(arguments))
    asked.pop("run")(**asked)


if __name__ == "__main__":
    main()
