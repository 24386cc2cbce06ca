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

from MoBUncertaintyLib.errors import ModelError, SettingsError
from MoBUncertaintyLib.files.wording import percent
from MoBUncertaintyLib.geometry import bounding_box, shadows
from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.fingerprint import Density, Fingerprint, Level, Measures, Ordinary, Suitability
from MoBUncertaintyLib.prediction import Prediction

MAX_ERROR_FRACTION = 0.5
"""Of the segmented volume; beyond it no model's result is of use. On images like its training images (16 phantoms, 130
hippocampi) a model expects 0.08 to 0.26 of it to be wrong, with random weights several times the whole of it."""
LIMITS = (4.0, 8.0)
"""Deviations from which on a case is unusual and not usable, unless validation cases themselves reach the first."""
MIN_CASES = 20
RANK = 8
"""Axes of the density: more would need more cases."""


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
    "features": Measure(
        _log,
        math.exp,
        0.1,
        "where the network sees {what}, it sees something else than in ordinary cases (its features are {value:.1f} "
        "times as far from their mean)",
        upper_only=True,
    ),
    "intensity": Measure(
        _same,
        _same,
        0.1,
        "the intensity of {what} is {value:.2f}, and {low:.2f} to {high:.2f} in ordinary cases",
    ),
    "contrast": Measure(
        _log,
        math.exp,
        0.1,
        "the intensity of {what} varies by {value:.2f}, and by {low:.2f} to {high:.2f} in ordinary cases",
    ),
    "thickness": Measure(
        _log, math.exp, 0.35, "a voxel is up to {value:.2g} mm long, and {low:.2g} to {high:.2g} mm in ordinary cases"
    ),
    "error": Measure(
        _log,
        math.exp,
        0.1,
        "{percent[value]} of the segmented volume is expected to be wrong, and {percent[low]} to {percent[high]} in "
        "ordinary cases",
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


def measure(prediction: Prediction, organ_sums: np.ndarray, edges: Mapping[str, tuple[str, ...]]) -> Measures:
    """Measure a case.

    Args:
        prediction: The prediction.
        organ_sums: `SlidingWindow.organ_sums`, (3 + F,).
        edges: `plausibility.Edges.image`.
    """
    volumes = prediction.volumes_ml()
    _, first, second, *rest = organ_sums / max(float(organ_sums[0]), 1e-12)
    values = {
        "intensity": float(first),
        "contrast": math.sqrt(max(float(second - first**2), 0.0)),
        "thickness": float(max(prediction.grid.spacing)),
        "error": prediction.expected_error_mm3 / 1000 / max(sum(volumes.values()), 1e-6),
    }
    segmented = prediction.segmentation[prediction.segmented_box]
    for label in prediction.labels:
        if volumes[label.name]:
            values[f"volume:{label.name}"] = volumes[label.name]
            values[f"stray:{label.name}"] = _stray(label.mask(segmented))
    return Measures(values, np.array(rest), edges)


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

    Raises:
        ModelError: As `compare`.
    """
    result, error = Suitability(judged=fingerprint is not None), measures.values["error"]
    for sentence in mistaken:
        result = result.worsened(Level.NOT_USABLE, sentence)
    missing = [label.name for label in labels if f"volume:{label.name}" not in measures.values]
    if len(missing) == len(labels):
        return result.worsened(Level.NOT_USABLE, f"no {' and no '.join(map(readable, missing))} was found")
    found = []
    if fingerprint is not None:
        deviations = compare(measures, fingerprint)
        result = replace(result, deviations=deviations)
        for name, deviation in sorted(deviations.items(), key=lambda item: -item[1]):
            if deviation >= fingerprint.limits[0]:
                level = Level.NOT_USABLE if deviation >= fingerprint.limits[1] else Level.UNUSUAL
                found.append((level, _words(name, measures, fingerprint, labels)))
    if error > MAX_ERROR_FRACTION and not any("expected to be wrong" in reason for _, reason in found):
        found.append((Level.NOT_USABLE, f"{percent(error)} of the segmented volume is expected to be wrong"))
    found += [(Level.UNUSUAL, f"no {readable(name)} was found") for name in missing]
    found += [(Level.UNUSUAL, sentence) for sentence in cut]
    for level, reason in found:
        result = result.worsened(level, reason)
    return result


def compare(measures: Measures, fingerprint: Fingerprint) -> dict[str, float]:
    """Compute by how many standard deviations each measure is away from the ordinary cases; at least 0 each.

    Raises:
        ModelError: The fingerprint is of a network with another number of features.
    """
    known, size = dict(measures.values), len(fingerprint.density.centre)
    if measures.features.size not in (0, size):
        raise ModelError(
            f"The model's fingerprint is of a network with {size} features, but this one has {measures.features.size}; "
            "measure it again with mob-training fingerprint."
        )
    if measures.features.size:
        known["features"] = fingerprint.density.distance(measures.features)
    return _deviations(known, fingerprint.measures)


def _deviations(values: Mapping[str, float], ordinary: Mapping[str, Ordinary]) -> dict[str, float]:
    deviations = {}
    for name in ordinary.keys() & values.keys():
        kind = _kind(name)
        away = (kind.scale(values[name]) - ordinary[name].median) / ordinary[name].deviation
        deviations[name] = max(away, 0.0) if kind.upper_only else abs(away)
    return deviations


def fit_fingerprint(training: Sequence[Measures], validation: Sequence[Measures], data: str) -> Fingerprint:
    """Fit a fingerprint to ordinary cases; those without any organ do not count.

    Args:
        training: Of cases to which the density of features is fitted.
        validation: Of others, which neither the network nor the density has seen: by these alone those measures are
            judged of which only a large value is unusual.
        data: Which cases they are, in a few words.

    Raises:
        SettingsError: There are fewer than `MIN_CASES`.
    """
    training, validation = (
        [case for case in part if any(name.startswith("volume:") for name in case.values)]
        for part in (training, validation)
    )
    if min(len(training), 2 * len(validation)) < MIN_CASES:
        raise SettingsError(
            f"A fingerprint needs {MIN_CASES} training and {MIN_CASES // 2} validation cases in which the model finds "
            f"an organ, these are {len(training)} and {len(validation)}; add labelled cases."
        )
    cases = [*training, *validation]
    features = np.stack([case.features for case in training])
    density = Density.fit(features, min(RANK, features.shape[1] - 1))
    known = [dict(case.values) | {"features": density.distance(case.features)} for case in validation]
    ordinary = {}
    for name in sorted({name for values in known for name in values}):
        seen = [] if _kind(name).upper_only else [case.values for case in training]
        ordinary[name] = _ordinary(name, [values[name] for values in (*known, *seen) if name in values])
    farthest = sorted(max(_deviations(values, ordinary).values()) for values in known)
    unusual = round(max(LIMITS[0], farthest[math.ceil(0.98 * len(farthest)) - 1]), 2)
    reached = Counter((name, side) for case in cases for name, sides in case.edges.items() for side in sides)
    edges: dict[str, dict[str, float]] = {}
    for (name, side), count in sorted(reached.items()):
        edges.setdefault(name, {})[side] = round(count / len(cases), 3)
    return Fingerprint(len(cases), data, ordinary, density, (unusual, 2 * unusual), edges)


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
    if name == "features":
        value = fingerprint.density.distance(measures.features) / kind.back(ordinary.median)
    else:
        value = measures.values[name]
    label = name.partition(":")[2]
    what = f"the {readable(label)}" if label else " and ".join(f"the {readable(each.name)}" for each in labels[:3])
    numbers = {"value": value, "low": low, "high": high}
    return kind.words.format(what=what, percent={name: percent(each) for name, each in numbers.items()}, **numbers)


def _stray(mask: np.ndarray) -> float:
    """Compute the fraction of a mask that lies outside its largest piece (faces, edges and corners connect)."""
    box = bounding_box(shadows(mask))
    pieces, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    return 1 - float(sizes.max()) / float(sizes.sum())
