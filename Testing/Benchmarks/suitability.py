"""Count which of a model's cases are called unusual: as they are, and changed in 20 ways, with fixed seeds.

    python Testing/Benchmarks/suitability.py MODEL DATASET RESULTS [--changes]

DATASET is a raw nnU-Net data set, whose validation and held-out cases are judged, or a folder of phantoms
(`mob-training phantom`). The model judges by the fingerprint on its card.

The limit (`inference.suitability.LIMIT`) was chosen on the 30 validation hippocampi and their changes, by this rule: of
the tenths that call none of the unchanged cases unusual and flag at most 15 % of the changes that lower Dice by less
than 0.03, take those that flag the most of the changes that lower it by 0.10, and of these the largest.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import typer
from scipy import ndimage

from mob_training.evaluation.held_out import split_cases
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from region_frontier import cases

HARMS = {"harmful": (0.10, 1.0), "between": (0.03, 0.10), "harmless": (-1.0, 0.03)}
"""Kinds of changes, by how much they lower Dice."""

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


def changed(image: sitk.Image, truth: np.ndarray, name: str, kind: str) -> tuple[sitk.Image, np.ndarray]:
    """Change a case; its name and the kind of change are the seed."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    voxels, truth = CHANGES[kind](voxels, truth, rng, image.GetSpacing()[::-1])
    made = sitk.GetImageFromArray(np.asarray(voxels, np.float32))
    made.SetSpacing(image.GetSpacing()), made.SetDirection(image.GetDirection()), made.SetOrigin(image.GetOrigin())
    return made, truth


def judged(predictor: Predictor, image: sitk.Image, truth: np.ndarray) -> tuple[bool, float]:
    """Tell whether an image is flagged, and the Dice of its prediction."""
    prediction = predictor.predict(image)
    assert prediction.suitability is not None
    return prediction.suitability.level is not Level.ORDINARY, dice(prediction.segmentation, truth)


def study(predictor: Predictor, found: list[tuple[str, Path, np.ndarray]], changes: bool) -> dict[str, Any]:
    """Count flagged cases, unchanged and, if asked to, by what a change does to Dice."""
    alarms, drops = [], []
    for name, path, truth in found:
        image = read_image(path).image
        alarm, before = judged(predictor, image, truth)
        alarms.append(alarm)
        for kind in CHANGES if changes else ():
            flagged, after = judged(predictor, *changed(image, truth, name, kind))
            drops.append((before - after, flagged))
        print(f"{name}: {'unusual' if alarm else 'ordinary'}, Dice {before:.3f}", flush=True)
    counted = {kind: [flagged for drop, flagged in drops if a <= drop < b] for kind, (a, b) in HARMS.items()}
    return {kind: {"flagged": sum(own), "of": len(own)} for kind, own in ({"unchanged": alarms} | counted).items()}


def main(model: str, dataset: Path, results: Path, changes: bool = False) -> None:
    """Judge all cases, and write `suitability-MODEL.json`."""
    predictor = Predictor(load_model(find_model(model)), PredictionSettings(device="cpu", precision="float32"))
    truths = {
        "validation": [(n, i, sitk.GetArrayFromImage(read_image(t).image)) for n, i, t in split_cases(dataset, "val")],
        "held out": list(cases(dataset, predictor.model.card.labels)),
    }
    result = {"model": model, "limits": predictor.model.card.fingerprint.limits}
    result |= {part: study(predictor, found, changes) for part, found in truths.items()}
    text = json.dumps(result, indent=1) + "\n"
    (results / f"suitability-{model}.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    typer.run(main)
