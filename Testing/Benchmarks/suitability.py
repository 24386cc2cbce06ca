"""Check whether a model tells changed and foreign images from its own, whatever engine runs it.

    python Testing/Benchmarks/suitability.py predict MODEL DATASET ROWS [--part validation] [--changes] [--engine torch]
    python Testing/Benchmarks/suitability.py score MODEL RESULTS VALIDATION_ROWS HELD_OUT_ROWS [--engines ROWS ...]

`predict` measures the cases of a raw nnU-Net data set, or of a folder of phantoms (`mob-training phantom`), and with
`--changes` 20 changes of each, with fixed seeds; it adds lines to the file ROWS and goes on where it was stopped. They
are judged as `Predictor.predict` does: what doubtful regions say besides concerns only cases of which more than a
quarter is expected to be wrong, or that have 100 regions. `score` fits the fingerprint to the validation rows and
judges the held-out ones.

The limit (`inference.suitability.LIMIT`) was chosen on the 30 validation hippocampi and their changes, by this rule: of
the tenths that call none of the unchanged cases unusual and flag at most 15 % of the changes that lower Dice by less
than 0.03, take those that flag the most of the changes that lower it by 0.10, and of these the largest. With
`--precision emulated` PyTorch rounds all weights, inputs and outputs of the network's layers to bfloat16, as a
processor that computes in it does.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from mob_training.evaluation.held_out import split_cases
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.suitability import Edges, cut_off, fit_fingerprint, judge
from MoBUncertaintyLib.model.fingerprint import FalseAlarms, Fingerprint, Level, Measures
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from region_frontier import cases

HARMFUL, HARMLESS = 0.10, 0.03
"""A change that lowers Dice by this much should be flagged, and one that lowers it by less than this should not."""
BOOTSTRAP = 2000

Pair = tuple[np.ndarray, np.ndarray]
"""Image and truth, (z, y, x)."""
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator, tuple[float, ...]], Pair]
"""Changes both; takes random numbers and the spacing in mm too."""


def blurred(mm: float) -> Change:
    return lambda x, t, _rng, spacing: (ndimage.gaussian_filter(x, [mm / step for step in spacing]), t)


def noisy(fraction: float) -> Change:
    return lambda x, t, rng, _spacing: (x + rng.normal(0, fraction * x.std(), x.shape), t)


def coarse(*factors: int) -> Change:
    def change(x: np.ndarray, t: np.ndarray, _rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        smooth = ndimage.gaussian_filter(x, [0.4 * (factor - 1) for factor in factors])
        small = ndimage.zoom(smooth, [1 / factor for factor in factors], order=1)
        return ndimage.zoom(small, [a / b for a, b in zip(x.shape, small.shape, strict=True)], order=1), t

    return change


def biased(height: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        field = ndimage.zoom(rng.uniform(-height, height, (3, 3, 3)), [n / 3 for n in x.shape], order=3)
        return x.min() + (x - x.min()) * np.exp(field[tuple(slice(n) for n in x.shape)]), t

    return change


def flipped(axis: int) -> Change:
    return lambda x, t, _rng, _spacing: (np.flip(x, axis).copy(), np.flip(t, axis).copy())


def shifted(mm: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, rng: np.random.Generator, spacing: tuple[float, ...]) -> Pair:
        way = rng.normal(size=3)
        way = np.rint(way / np.linalg.norm(way) * mm / np.array(spacing))
        return ndimage.shift(x, way, order=0, mode="nearest"), ndimage.shift(t, way, order=0)

    return change


def rotated(degrees: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        axes, angle = [(0, 1), (0, 2), (1, 2)][rng.integers(3)], degrees * (1 if rng.random() < 0.5 else -1)
        turned = ndimage.rotate(x, angle, axes, reshape=False, order=1, mode="nearest")
        return turned, ndimage.rotate(t, angle, axes, reshape=False, order=0)

    return change


def larger(factor: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, _rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        middle, matrix = (np.array(x.shape) - 1) / 2, np.eye(3) / factor
        start = middle - matrix @ middle
        grown = ndimage.affine_transform(x, matrix, start, order=1, mode="nearest")
        return grown, ndimage.affine_transform(t, matrix, start, order=0)

    return change


def with_gamma(gamma: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, _rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        low, high = np.percentile(x, [0, 99.5])
        return low + (high - low) * np.clip((x - low) / (high - low), 0, None) ** gamma, t

    return change


def ghosted(height: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        axis = int(rng.integers(3))
        return x + height * np.roll(x - x.mean(), x.shape[axis] // 3, axis), t

    return change


def striped(height: float) -> Change:
    def change(x: np.ndarray, t: np.ndarray, rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
        wave = rng.normal(size=3)
        wave = wave / np.linalg.norm(wave) * 2 * np.pi / 6
        phase = sum(w * grid for w, grid in zip(wave, np.ogrid[tuple(slice(n) for n in x.shape)], strict=True))
        return x + height * x.std() * np.cos(phase), t

    return change


def inverted(x: np.ndarray, t: np.ndarray, _rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
    return x.max() - x + x.min(), t


def cropped_around(x: np.ndarray, t: np.ndarray, _rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
    places = np.array(np.nonzero(t))
    low, high = np.maximum(places.min(axis=1) - 4, 0), np.minimum(places.max(axis=1) + 5, x.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return x[box].copy(), t[box].copy()


def cropped_through(x: np.ndarray, t: np.ndarray, _rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
    middle = int(np.median(np.nonzero(t)[0]))
    return x[:middle].copy(), t[:middle].copy()


def with_hole(x: np.ndarray, t: np.ndarray, rng: np.random.Generator, _spacing: tuple[float, ...]) -> Pair:
    places, radius = np.nonzero(t), 0.5 * np.cbrt(t.sum() * 3 / 4 / np.pi)
    n = rng.integers(len(places[0]))
    grid = np.ogrid[tuple(slice(size) for size in x.shape)]
    squared = sum((axis - place[n]) ** 2 for axis, place in zip(grid, places, strict=True))
    return np.where(squared <= radius**2, x.min(), x), t


CHANGES: dict[str, Change] = {
    "half resolution": coarse(2, 2, 2),
    "thick slices": coarse(3, 1, 1),
    "blur, 0.7 mm": blurred(0.7),
    "blur, 1.5 mm": blurred(1.5),
    "noise, 0.3": noisy(0.3),
    "noise, 0.8": noisy(0.8),
    "bias field, 0.2": biased(0.2),
    "bias field, 0.6": biased(0.6),
    "shift, 4 mm": shifted(4),
    "flip, first axis": flipped(0),
    "flip, third axis": flipped(2),
    "rotation, 45 degrees": rotated(45),
    "size, 1.4": larger(1.4),
    "gamma, 0.7": with_gamma(0.7),
    "inverted": inverted,
    "crop around the organ": cropped_around,
    "crop through the organ": cropped_through,
    "ghost, 0.3": ghosted(0.3),
    "stripes, 1": striped(1.0),
    "hole in the organ": with_hole,
}
"""Heights of noise and stripes are in the image's standard deviations, of a bias field in its logarithm."""
ORDINARY = "ordinary"


def predictor_of(model: str, engine: str, precision: str) -> Predictor:
    """Load a model; `emulated`: PyTorch in float32, each layer's weights, inputs and outputs rounded to bfloat16."""
    emulated = precision == "emulated"
    settings = PredictionSettings(device="cpu", engine=engine, precision="float32" if emulated else precision)
    predictor = Predictor(load_model(find_model(model)), settings)
    if emulated:

        def rounded(value: Any) -> Any:
            is_number = torch.is_tensor(value) and value.is_floating_point()
            return value.bfloat16().float() if is_number else value

        for layer in predictor.pytorch().network_of(predictor.folds[0]).modules():
            if not list(layer.children()):
                for weights in layer.parameters(recurse=False):
                    weights.data = rounded(weights.data)
                layer.register_forward_pre_hook(lambda _layer, given: tuple(map(rounded, given)))
                layer.register_forward_hook(lambda _layer, _given, found: rounded(found))
    return predictor


def predict(asked: argparse.Namespace) -> None:
    """Measure cases and their changes."""
    predictor = predictor_of(asked.model, asked.engine, asked.precision)
    if asked.part == "validation":
        found = [(name, image, array(truth)) for name, image, truth in split_cases(asked.dataset, "val")]
    else:
        found = list(cases(asked.dataset, predictor.model.card.labels))
    done = {(row["case"], row["kind"]) for row in rows_of(asked.rows)} if asked.rows.exists() else set()
    with asked.rows.open("a", encoding="utf-8") as file:
        for kind in (ORDINARY, *(CHANGES if asked.changes else ())):
            for name, path, truth in found:
                if (name, kind) not in done:
                    file.write(json.dumps(measured(predictor, name, path, truth, kind)) + "\n")
                    file.flush()


def array(path: Path) -> np.ndarray:
    """Read a label map."""
    return np.asarray(sitk.GetArrayFromImage(read_image(path).image))


def measured(predictor: Predictor, name: str, path: Path, truth: np.ndarray, kind: str) -> dict[str, Any]:
    """Change a case, predict and measure it."""
    image = read_image(path).image
    if kind != ORDINARY:
        rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
        voxels = sitk.GetArrayFromImage(image).astype(np.float32)
        voxels, truth = CHANGES[kind](voxels, truth, rng, image.GetSpacing()[::-1])
        made = sitk.GetImageFromArray(np.asarray(voxels, np.float32))
        made.SetSpacing(image.GetSpacing()), made.SetDirection(image.GetDirection()), made.SetOrigin(image.GetOrigin())
        image = made
    prediction = predictor.predict(image)
    assert prediction.measures is not None
    return {
        "case": name,
        "kind": kind,
        "dice": dice(prediction.segmentation, truth),
        "values": dict(prediction.measures.values),
        "edges": prediction.measures.edges,
        "engine": prediction.provenance["engine"],
        "precision": prediction.provenance["precision"],
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read what `predict` has written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judged(rows: list[dict[str, Any]], labels: tuple, fingerprint: Fingerprint) -> list[dict[str, Any]]:
    """Judge each row, and say by how much its Dice is below that of the unchanged case."""
    before = {row["case"]: row["dice"] for row in rows if row["kind"] == ORDINARY}
    found = []
    for row in rows:
        cut = cut_off(Edges(row["edges"], {}), False, fingerprint)
        suitability = judge(labels, Measures(row["values"], row["edges"]), fingerprint, cut)
        largest = max(suitability.deviations.values(), default=math.inf)
        drop = before[row["case"]] - row["dice"]
        found.append(row | {"level": suitability.level, "largest": largest, "drop": drop, "all": suitability})
    return found


def flagged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the rows that are not ordinary, with the exact interval of the rate."""
    count = sum(row["level"] is not Level.ORDINARY for row in rows)
    interval = [round(end, 4) for end in FalseAlarms(count, len(rows), "").interval] if rows else None
    return {"flagged": count, "of": len(rows), "interval": interval}


def aurc(risk: np.ndarray, doubt: np.ndarray) -> float:
    """Compute the area under the risk-coverage curve: the mean risk of the n least doubtful cases, over all n."""
    return float(np.mean(np.cumsum(risk[np.argsort(doubt, kind="stable")]) / np.arange(1, len(risk) + 1)))


def ranking(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Score how the unchanged cases are ranked by suitability, and by the expected error alone."""
    risk, rng = np.array([1 - row["dice"] for row in rows]), np.random.default_rng(0)
    resamples = rng.integers(0, len(risk), (BOOTSTRAP, len(risk)))
    scores: dict[str, Any] = {}
    doubts = {
        "largest deviation": [row["largest"] for row in rows],
        "expected error / volume": [row["values"]["error"] for row in rows],
    }
    for name, doubt in ((name, np.array(each)) for name, each in doubts.items()):
        spread = np.quantile([aurc(risk[i], doubt[i]) for i in resamples], [0.025, 0.975])
        scores[name] = {"aurc": round(aurc(risk, doubt), 5), "interval": [round(float(x), 5) for x in spread]}
    scores["the best order"] = {"aurc": round(aurc(risk, risk), 5)}
    return scores | {"no order": {"aurc": round(float(risk.mean()), 5)}}


def agreement(one: list[dict[str, Any]], other: list[dict[str, Any]], fingerprint: Fingerprint) -> dict[str, Any]:
    """Compare the unchanged cases of two engines or precisions."""
    theirs = {row["case"]: row for row in other}
    pairs = [(row, theirs[row["case"]]) for row in one if row["kind"] == ORDINARY and row["case"] in theirs]
    away = {}
    for name in fingerprint.measures:
        both = [[row["all"].deviations.get(name, 0.0) for row in pair] for pair in pairs]
        away[name] = round(float(np.abs(np.diff(both)).max()), 3)
    return {
        "cases": len(pairs),
        "largest difference in deviations": away,
        "other suitability": [a["case"] for a, b in pairs if a["level"] is not b["level"]],
        "nearest to the limit": round(min(abs(row["largest"] - fingerprint.limits[0]) for row, _ in pairs), 3),
    }


def score(asked: argparse.Namespace) -> None:
    """Judge held-out rows by the validation rows, and write `suitability-MODEL.json`."""
    labels = load_model(find_model(asked.model)).card.labels
    validation, held_out = rows_of(asked.validation), rows_of(asked.held_out)
    own = [Measures(row["values"], row["edges"]) for row in validation if row["kind"] == ORDINARY]
    fingerprint = fit_fingerprint(own, "", validation[0]["engine"], validation[0]["precision"])
    result: dict[str, Any] = {
        "model": asked.model,
        "measured with": f"{fingerprint.engine}, {fingerprint.precision}",
        "limits": fingerprint.limits,
    }
    for part, rows in (("validation", validation), ("held out", held_out)):
        found = judged(rows, labels, fingerprint)
        changed = [row for row in found if row["kind"] != ORDINARY]
        result[part] = {
            "unchanged": flagged([row for row in found if row["kind"] == ORDINARY]),
            "harmful": flagged([row for row in changed if row["drop"] >= HARMFUL]),
            "between": flagged([row for row in changed if HARMLESS <= row["drop"] < HARMFUL]),
            "harmless": flagged([row for row in changed if row["drop"] < HARMLESS]),
            "changes": {
                kind: flagged(of) | {"drop": round(float(np.mean([row["drop"] for row in of])), 3)}
                for kind in CHANGES
                if (of := [row for row in changed if row["kind"] == kind])
            },
        }
    unchanged = [row for row in judged(held_out, labels, fingerprint) if row["kind"] == ORDINARY]
    result["aurc_of_cases"] = ranking(unchanged)
    first = judged(validation, labels, fingerprint)
    result["engines"] = {}
    for path in asked.engines:
        other = judged(rows_of(path), labels, fingerprint)
        result["engines"][path.stem] = agreement(first, other, fingerprint)
    result["cases"] = [
        {"case": row["case"], "dice": round(row["dice"], 4), "level": row["level"], "largest": round(row["largest"], 2)}
        | ({"reason": row["all"].reasons[0]} if row["all"].reasons else {})
        for row in unchanged
    ]
    text = json.dumps(result, separators=(",", ":")).replace('{"case"', '\n{"case"').replace('"changes"', '\n"changes"')
    (asked.results / f"suitability-{asked.model}.json").write_text(text + "\n", encoding="utf-8")
    for part in ("validation", "held out"):
        print(part, {name: result[part][name] for name in ("unchanged", "harmful", "between", "harmless")})
    print(json.dumps(result["engines"], indent=1))


def main() -> None:
    """Measure or score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first, second = commands.add_parser("predict"), commands.add_parser("score")
    first.set_defaults(run=predict), second.set_defaults(run=score)
    first.add_argument("model"), first.add_argument("dataset", type=Path), first.add_argument("rows", type=Path)
    first.add_argument("--part", choices=("validation", "held-out"), default="held-out")
    first.add_argument("--changes", action="store_true")
    first.add_argument("--engine", default="auto"), first.add_argument("--precision", default="float32")
    second.add_argument("model"), second.add_argument("results", type=Path)
    second.add_argument("validation", type=Path), second.add_argument("held_out", type=Path)
    second.add_argument("--engines", type=Path, nargs="*", default=[])
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
