"""Judge whether a model suits a case, by what can be seen without its truth.

What is evident is looked at for every model: another modality, no organ, one that is cut off, a large part of it
expected to be wrong. A model whose card states a fingerprint is compared with its ordinary cases besides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.files.wording import percent
from MoBUncertaintyLib.geometry import bounding_box, shadows
from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Level, Measures, Ordinary, Suitability
from MoBUncertaintyLib.prediction import Prediction

MAX_ERROR_FRACTION = 0.5
"""Of the segmented volume; beyond it no model's result is of use. On images like its training images (16 phantoms, 130
hippocampi) a model expects 0.08 to 0.26 of it to be wrong, with random weights several times the whole of it."""
LIMIT = 2.8
"""Deviations from which on a case is unusual, unless ordinary cases themselves reach it, and not usable at twice as
many. Of the tenths that flag at most 15 % of the simulated changes that lower Dice by less than 0.03, it flags the most
of those that lower it by 0.10, of several the largest: on 30 validation cases (Testing/Benchmarks/suitability.py)."""
MIN_CASES = 10
EXPECTED_ERROR = "the expected error is"


@dataclass(frozen=True)
class Measure:
    """A number of a case, and how it is compared.

    Attributes:
        scale: Function after which ordinary cases are spread about evenly.
        back: Its inverse.
        min_deviation: On that scale: cases may differ by this much, even if all ordinary ones agree.
        words: Reason, from `what` (the label), `value`, `low` and `high` (of ordinary cases).
        upper_only: Whether only a large value is unusual.
    """

    scale: Callable[[float], float]
    back: Callable[[float], float]
    min_deviation: float
    words: str
    upper_only: bool = False


def _log(value: float) -> float:
    return math.log(max(value, 1e-6))


def _same(value: float) -> float:
    return value


MEASURES = {
    "intensity": Measure(
        _same,
        _same,
        0.1,
        "the intensity of {what} is {value:.2f}, and {low:.2f} to {high:.2f} in ordinary cases",
    ),
    "contrast": Measure(
        _log,
        math.exp,
        0.2,
        "the intensity of {what} varies by {value:.2f}, and by {low:.2f} to {high:.2f} in ordinary cases",
    ),
    "thickness": Measure(
        _log, math.exp, 0.35, "a voxel is up to {value:.2g} mm long, and {low:.2g} to {high:.2g} mm in ordinary cases"
    ),
    "error": Measure(
        _log,
        math.exp,
        0.1,
        "the expected error is {ratio} the segmented volume, and {percent[low]} to {percent[high]} of it in ordinary "
        "cases",
        upper_only=True,
    ),
    "volume": Measure(
        _log, math.exp, 0.1, "{what} measures {value:.3g} ml, and {low:.3g} to {high:.3g} ml in ordinary cases"
    ),
    "stray": Measure(
        _same,
        _same,
        0.02,
        "{percent[value]} of {what} lies apart from its largest piece, and at most {percent[high]} in ordinary cases",
        upper_only=True,
    ),
}
"""Intensities are those of the network's input: of a CT in training's standard deviations, else of the image's."""


def measure(prediction: Prediction, intensity: tuple[float, float], edges: Mapping[str, tuple[str, ...]]) -> Measures:
    """Measure a case, in float64 and by nothing but its maps: so engines and precisions give the same.

    Args:
        prediction: The prediction.
        intensity: Of `organ_intensity`.
        edges: `plausibility.Edges.image`.
    """
    volumes = prediction.volumes_ml()
    values = {
        "intensity": intensity[0],
        "contrast": intensity[1],
        "thickness": float(max(prediction.grid.spacing)),
        "error": prediction.expected_error_mm3 / 1000 / max(sum(volumes.values()), 1e-6),
    }
    segmented = prediction.segmentation[prediction.segmented_box]
    for label in prediction.labels:
        if volumes[label.name]:
            values[f"volume:{label.name}"] = volumes[label.name]
            values[f"stray:{label.name}"] = _stray(label.mask(segmented))
    return Measures(values, edges)


def organ_intensity(data: np.ndarray, probability: np.ndarray, overlapping: bool) -> tuple[float, float]:
    """Compute mean and standard deviation of the network's input where it sees an organ.

    Args:
        data: The input's first channel, (*S); each voxel is weighted by its probability of any organ.
        probability: Of the labels, (L, *S).
        overlapping: The labels overlap.
    """
    sums = np.zeros(3)
    for x, *p in zip(data, *probability, strict=True):  # plane by plane: a CT's volume takes 0.3 GB
        weight = np.max(p, axis=0) if overlapping else np.sum(p, axis=0)
        sums += [(weight * x**power).sum(dtype=float) for power in range(3)]
    _, first, second = sums / max(sums[0], 1e-12)
    return float(first), math.sqrt(max(float(second - first**2), 0.0))


def judge(
    labels: Sequence[Label],
    measures: Measures,
    fingerprint: Fingerprint | None,
    cut: Sequence[str] = (),
    mistaken: Sequence[str] = (),
) -> Suitability:
    """Judge a case.

    Args:
        labels: Of the model.
        measures: Of the case.
        fingerprint: Of the model; None: it states none.
        cut: Sentences on organs that are cut off.
        mistaken: Sentences on images of another modality than the model takes.
    """
    result, error = Suitability(judged=fingerprint is not None), measures.values["error"]
    for sentence in mistaken:
        result = result.worsened(Level.NOT_USABLE, sentence)
    missing = [label.name for label in labels if f"volume:{label.name}" not in measures.values]
    if len(missing) == len(labels):
        return result.worsened(Level.NOT_USABLE, f"no {' and no '.join(map(readable, missing))} was found")
    found = []
    if fingerprint is not None:
        deviations = compare(measures.values, fingerprint.measures)
        result = replace(result, deviations=deviations)
        for name, deviation in sorted(deviations.items(), key=lambda item: -item[1]):
            if deviation >= fingerprint.limits[0]:
                level = Level.NOT_USABLE if deviation >= fingerprint.limits[1] else Level.UNUSUAL
                found.append((level, _words(name, measures, fingerprint, labels)))
    if error > MAX_ERROR_FRACTION and not any(reason.startswith(EXPECTED_ERROR) for _, reason in found):
        found.append((Level.NOT_USABLE, f"{EXPECTED_ERROR} {_ratio(error)} the segmented volume"))
    found += [(Level.UNUSUAL, f"no {readable(name)} was found") for name in missing]
    found += [(Level.UNUSUAL, sentence) for sentence in cut]
    for level, reason in found:
        result = result.worsened(level, reason)
    return result


def compare(values: Mapping[str, float], ordinary: Mapping[str, Ordinary]) -> dict[str, float]:
    """Compute by how many standard deviations each measure is away from the ordinary cases; at least 0 each."""
    deviations = {}
    for name in sorted(ordinary.keys() & values.keys()):
        kind = _kind(name)
        away = (kind.scale(values[name]) - ordinary[name].median) / ordinary[name].deviation
        deviations[name] = max(away, 0.0) if kind.upper_only else abs(away)
    return deviations


def fit_fingerprint(ordinary: Sequence[Measures], data: str, engine: str = "", precision: str = "") -> Fingerprint:
    """Fit a fingerprint to ordinary cases that did not train the model; those without an organ do not count.

    Args:
        ordinary: Of the cases.
        data: Which they are, in a few words.
        engine, precision: What the network ran with.

    Raises:
        SettingsError: There are fewer than `MIN_CASES`.
    """
    cases = [case for case in ordinary if any(name.startswith("volume:") for name in case.values)]
    if len(cases) < MIN_CASES:
        raise SettingsError(
            f"A fingerprint needs {MIN_CASES} validation cases in which the model finds an organ, these are "
            f"{len(cases)}; add labelled cases."
        )
    measures = {
        name: _ordinary(name, [case.values[name] for case in cases if name in case.values])
        for name in sorted({name for case in cases for name in case.values})
    }
    farthest = sorted(max(compare(case.values, measures).values()) for case in cases)
    unusual = max(LIMIT, math.ceil(10 * farthest[math.ceil(0.98 * len(farthest)) - 1]) / 10)
    reached = Counter((name, side) for case in cases for name, sides in case.edges.items() for side in sides)
    edges: dict[str, dict[str, float]] = {}
    for (name, side), count in sorted(reached.items()):
        edges.setdefault(name, {})[side] = round(count / len(cases), 3)
    return Fingerprint(len(cases), data, measures, (unusual, round(2 * unusual, 1)), edges, engine, precision)


def _kind(name: str) -> Measure:
    return MEASURES[name.partition(":")[0]]


def _ordinary(name: str, values: Sequence[float]) -> Ordinary:
    scaled = np.array([_kind(name).scale(value) for value in values])
    median = float(np.median(scaled))
    # Of a Gaussian the standard deviation; ordinary cases may be of two kinds, so the median would not do.
    spread = float(np.quantile(np.abs(scaled - median), 0.95)) / 1.96
    return Ordinary(round(median, 4), round(max(spread, _kind(name).min_deviation), 4))


def _words(name: str, measures: Measures, fingerprint: Fingerprint, labels: Sequence[Label]) -> str:
    kind, ordinary = _kind(name), fingerprint.measures[name]
    low, high = (kind.back(ordinary.median + side * 2 * ordinary.deviation) for side in (-1, 1))
    value = measures.values[name]
    label = name.partition(":")[2]
    what = f"the {readable(label)}" if label else " and ".join(f"the {readable(each.name)}" for each in labels[:3])
    numbers = {"value": value, "low": low, "high": high}
    percents = {name: percent(each) for name, each in numbers.items()}
    return kind.words.format(what=what, percent=percents, ratio=_ratio(value), **numbers)


def _ratio(fraction: float) -> str:
    """Say what fraction of a volume another is: what is missed can be more than what is segmented."""
    return f"{percent(fraction)} of" if fraction <= 1 else f"{fraction:.3g} times"


def _stray(mask: np.ndarray) -> float:
    """Compute the fraction of a mask that lies outside its largest piece (faces, edges and corners connect)."""
    box = bounding_box(shadows(mask))
    pieces, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    return 1 - float(sizes.max()) / float(sizes.sum())
