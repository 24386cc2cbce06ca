"""Judge whether a model suits a case, by what can be seen without its truth.

What is evident is looked at for every model: another modality, no organ, one that is cut off, a large part of it
expected to be wrong, or too many doubtful regions. A model whose card states a fingerprint is compared with its
ordinary cases besides. All but the regions is measured in the network's voxels: finer ones in the image change nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import bounding_box, shadows
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.fingerprint import USUAL, Fingerprint, Level, Measures, Ordinary, Suitability
from MoBUncertaintyLib.regions.prediction import Prediction

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.preprocessing import Case
    from MoBUncertaintyLib.regions.region import Region

MAX_ERROR_FRACTION = 0.5
"""Of the segmented volume; beyond it a result is of no use, unless ordinary cases themselves reach it. On images like
its training images (16 phantoms, 130 hippocampi) a model expects 0.08 to 0.26 of it to be wrong, with random weights
several times the whole of it."""
LIMIT = 2.8
"""Deviations from which on a case is unusual, unless ordinary cases themselves reach it, and not usable at twice as
many. Of the tenths that flag at most 15 % of the simulated changes that lower Dice by less than 0.03, it flags the most
of those that lower it by 0.10, of several the largest: on 30 validation cases (Testing/Benchmarks/suitability.py)."""
MIN_CASES = 10
EXPECTED_ERROR = "the expected error is"

# On images like its training images (20 phantoms, 50 hippocampi) a model finds 3 to 11 regions per label, with an
# expected error of 0.05 to 0.18 of the organ's volume in them. On others (the hippocampus model on an abdomen, the
# phantoms' model on a real CT) looser regions were 748 and 1,462, or held 0.26 to 0.45 of the volume.
MAX_REGIONS, MAX_REGIONS_PER_LABEL = 100, 25
MAX_REGIONS_ERROR = 0.25

_TOWARDS = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))  # against and along each axis, LPS


@dataclass(frozen=True)
class Measure:
    """A number of a case, and how it is compared.

    Attributes:
        scale: Function after which ordinary cases are spread about evenly.
        back: Its inverse.
        min_deviation: On that scale: cases may differ by this much, even if all ordinary ones agree.
        words: Reason, from `what` (the label), `value`, `low` and `high` (of ordinary cases); `percent` and `volume`
            hold all three as texts.
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
        _same, _same, 0.1, "the intensity of {what} is {value:.2f} ({low:.2f} to {high:.2f} in ordinary cases)"
    ),
    "contrast": Measure(
        _log, math.exp, 0.2, "the intensity of {what} varies by {value:.2f} ({low:.2f} to {high:.2f} in ordinary cases)"
    ),
    "thickness": Measure(
        _log, math.exp, 0.35, "a voxel is up to {value:.2g} mm long (at most {high:.2g} mm in ordinary cases)", True
    ),
    "error": Measure(
        _log,
        math.exp,
        0.1,
        "the expected error is {ratio} the segmented volume ({percent[low]} to {percent[high]} in ordinary cases)",
        upper_only=True,
    ),
    "volume": Measure(
        _log, math.exp, 0.1, "{what} measures {volume[value]} ({volume[low]} to {volume[high]} in ordinary cases)"
    ),
    "stray": Measure(
        _same,
        _same,
        0.02,
        "{percent[value]} of {what} lies outside its largest piece (at most {percent[high]} in ordinary cases)",
        upper_only=True,
    ),
}
"""Intensities are those of the network's input: of a CT in training's standard deviations, else of the image's."""


def measure(
    prediction: Prediction,
    voxel_mm: float,
    intensity: tuple[float, float],
    apart: Mapping[str, float],
    edges: Mapping[str, tuple[str, ...]],
) -> Measures:
    """Measure a case, in float64 and by nothing but its maps: so engines and precisions give the same.

    Args:
        prediction: On the network's grid (`maps.filling.unresampled`).
        voxel_mm: The largest edge of the image's voxels.
        intensity: Of `organ_intensity`.
        apart: Of `fractions_apart`, before anything is taken back.
        edges: `Edges.image`.
    """
    volumes = prediction.volumes_ml()
    values = {
        "intensity": intensity[0],
        "contrast": intensity[1],
        "thickness": voxel_mm,
        "error": prediction.expected_error_mm3 / 1000 / max(sum(volumes.values()), 1e-6),
    }
    values |= {f"volume:{name}": volume for name, volume in volumes.items() if volume}
    values |= {f"stray:{name}": fraction for name, fraction in apart.items()}
    return Measures(values, edges)


def fractions_apart(prediction: Prediction) -> dict[str, float]:
    """Compute the fraction of each segmented label that lies outside its largest piece, by the label's name."""
    segmented = prediction.segmentation[prediction.segmented_box]
    masks = ((label.name, label.mask(segmented)) for label in prediction.labels)
    return {name: _stray(mask) for name, mask in masks if mask.any()}


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
    reasons, limit = list[tuple[Level, str]](), MAX_ERROR_FRACTION
    if fingerprint is not None:
        missing = [name for name in missing if fingerprint.missing.get(name, 0) <= USUAL]
        limit = max(limit, _usual_error(fingerprint))
        deviations = compare(measures.values, fingerprint.measures)
        result = replace(result, deviations=deviations)
        for name, deviation in sorted(deviations.items(), key=lambda item: -item[1]):
            if deviation >= fingerprint.limits[0]:
                level = Level.NOT_USABLE if deviation >= fingerprint.limits[1] else Level.UNUSUAL
                words = _words(_stated(name, measures, fingerprint, deviations), measures, fingerprint, labels)
                if words not in (reason for _, reason in reasons):
                    reasons.append((level, words))
    if error > limit and not any(reason.startswith(EXPECTED_ERROR) for _, reason in reasons):
        reasons.append((Level.NOT_USABLE, f"{EXPECTED_ERROR} {_ratio(error)} the segmented volume"))
    reasons += [(Level.UNUSUAL, f"no {readable(name)} was found") for name in missing]
    reasons += [(Level.UNUSUAL, sentence) for sentence in cut]
    for level, reason in reasons:
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


def fit_fingerprint(
    labels: Sequence[str], ordinary: Sequence[Measures], data: str, engine: str = "", precision: str = ""
) -> Fingerprint:
    """Fit a fingerprint to ordinary cases that did not train the model; those without an organ do not count.

    Args:
        labels: Names of the model's labels.
        ordinary: Of the cases.
        data: Which they are, in a few words.
        engine, precision: What the network ran with.

    Raises:
        SettingsError: There are fewer than `MIN_CASES`.
    """
    cases = [case for case in ordinary if any(name.startswith("volume:") for name in case.values)]
    if len(cases) < MIN_CASES:
        raise SettingsError(
            f"A fingerprint needs {MIN_CASES} validation cases in which the model finds an organ, but there are only "
            f"{len(cases)}; add labelled cases."
        )
    measures = {
        name: _ordinary(name, [case.values[name] for case in cases if name in case.values])
        for name in sorted({name for case in cases for name in case.values})
    }
    farthest = sorted(max(compare(case.values, measures).values()) for case in cases)
    unusual = max(LIMIT, math.ceil(10 * _at(farthest, 0.95)) / 10)
    volumes = Counter(name.partition(":")[2] for case in cases for name in case.values if name.startswith("volume:"))
    missing = {name: round(1 - volumes[name] / len(cases), 3) for name in labels if volumes[name] < len(cases)}
    reached = Counter((name, side) for case in cases for name, sides in case.edges.items() for side in sides)
    edges: dict[str, dict[str, float]] = {}
    for (name, side), count in sorted(reached.items()):
        edges.setdefault(name, {})[side] = round(count / len(cases), 3)
    limits = (unusual, round(2 * unusual, 1))
    return Fingerprint(len(cases), data, measures, limits, edges, missing, engine, precision)


def _usual_error(fingerprint: Fingerprint) -> float:
    """Return the expected error, as a fraction of the segmented volume, that 95 % of the ordinary cases stay below."""
    if (error := fingerprint.measures.get("error")) is None:
        return 0.0
    return MEASURES["error"].back(error.median + 1.96 * error.deviation)


def _kind(name: str) -> Measure:
    return MEASURES[name.partition(":")[0]]


def _ordinary(name: str, values: Sequence[float]) -> Ordinary:
    scaled = np.array([_kind(name).scale(value) for value in values])
    median = float(np.median(scaled))
    away = np.sort(np.abs(scaled - median))
    # Of a Gaussian the first is the standard deviation; ordinary cases may be of two kinds, so the median would not do.
    # The second is for tails that are longer: what few ordinary cases reach must not raise the limit of all measures.
    spread = max(float(np.quantile(away, 0.95)) / 1.96, _at(away, 0.98) / LIMIT)
    return Ordinary(round(median, 4), round(max(spread, _kind(name).min_deviation), 4))


def _at(ordered: Sequence[float] | np.ndarray, fraction: float) -> float:
    """Return the value that at least a fraction of ordered ones does not exceed."""
    return float(ordered[math.ceil(fraction * len(ordered)) - 1])


def _stated(name: str, measures: Measures, fingerprint: Fingerprint, deviations: Mapping[str, float]) -> str:
    """Choose the measure that a reason states: of a label with unusually little volume that, no fraction of it."""
    kind, _, label = name.partition(":")
    volume = f"volume:{label}"
    if kind == "stray" and deviations.get(volume, 0.0) >= fingerprint.limits[0]:
        return volume if _log(measures.values[volume]) < fingerprint.measures[volume].median else name
    return name


def _words(name: str, measures: Measures, fingerprint: Fingerprint, labels: Sequence[Label]) -> str:
    kind, ordinary = _kind(name), fingerprint.measures[name]
    low, high = (kind.back(ordinary.median + side * 2 * ordinary.deviation) for side in (-1, 1))
    value = measures.values[name]
    label = name.partition(":")[2]
    what = f"the {readable(label)}" if label else " and ".join(f"the {readable(one.name)}" for one in labels[:3])
    numbers = {"value": value, "low": low, "high": high}
    percents = {name: percent(number) for name, number in numbers.items()}
    volumes = {name: volume_text(number) for name, number in numbers.items()}
    return kind.words.format(what=what, percent=percents, volume=volumes, ratio=_ratio(value), **numbers)


def _ratio(fraction: float) -> str:
    """Say what fraction of a volume another is: what is missed can be more than what is segmented."""
    return f"{percent(fraction)} of" if fraction <= 1 else f"{fraction:.3g} times"


def _stray(mask: np.ndarray) -> float:
    """Compute the fraction of a mask that lies outside its largest piece (faces, edges and corners connect)."""
    box = bounding_box(shadows(mask))
    pieces, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    return 1 - float(sizes.max()) / float(sizes.sum())


def unsuitable(regions: Sequence[Region], prediction: Prediction) -> str | None:
    """Warn in a sentence if the model evidently does not suit the image; None if it may.

    Of a case whose expected error was compared with that of ordinary ones, the error in the regions tells no more.

    Args:
        regions: All doubtful regions.
        prediction: On the image's grid.
    """
    reasons, volumes_ml, suitability = [], prediction.volumes_ml(), prediction.suitability
    if len(regions) > max(MAX_REGIONS, MAX_REGIONS_PER_LABEL * len(volumes_ml)):
        reasons.append(f"{len(regions):,} doubtful regions were found")
    error, segmented = sum(region.expected_error_mm3 for region in regions) / 1000, sum(volumes_ml.values())
    fraction = error / segmented if segmented else 0.0
    network, image = prediction.network_volumes.values(), prediction.stated_volumes.values()
    network_error, image_error = (sum(volume.error_ml for volume in volumes) for volumes in (network, image))
    if (ml := sum(volume.ml for volume in network)) and image_error:  # in the network's voxels
        fraction = error * network_error / image_error / ml
    compared = suitability is not None and "error" in suitability.deviations
    if segmented and fraction > MAX_REGIONS_ERROR and not compared:
        reasons.append(
            f"{volume_text(error)} of error is expected in the doubtful regions, "
            f"and only {volume_text(segmented)} is segmented"
        )
    if not reasons:
        return None
    return (
        f"The model does not seem to suit this image: {', and '.join(reasons)}; check that the image shows what the "
        "model was trained on, and the threshold if you changed it."
    )


def not_found(volumes_ml: Mapping[str, float]) -> list[str]:
    """Warn of each label that has no voxel, in a sentence."""
    return [f"No {readable(name)} was found in this image." for name, volume in volumes_ml.items() if not volume]


class Edges(NamedTuple):
    """Where labels reach an edge: by the label's name, the patient's sides; labels that reach none are left out.

    Attributes:
        image: Edges of the image.
        part: Other edges of the part of it that was processed.
    """

    image: dict[str, tuple[str, ...]]
    part: dict[str, tuple[str, ...]]


def reached_edges(segmentation: np.ndarray, labels: Sequence[Label], case: Case) -> Edges:
    """Find the labels that reach an edge and may continue beyond it.

    Args:
        segmentation: On the network's grid, where results are wanted.
        labels: Its foreground classes.
        case: The network's input, which tells the part of the image that was processed.
    """
    edges = Edges({}, {})
    for axis, (part, size) in enumerate(zip(case.target, case.frame.shape, strict=True)):
        for end, at_image in ((0, part.start == 0), (-1, part.stop == size)):
            here, reached = np.unique(segmentation.take(end, axis)), edges.image if at_image else edges.part
            for name in (label.name for label in labels if label.mask(here).any()):
                reached[name] = (*reached.get(name, ()), _side(case, axis, end))
    return edges


def cut_off(edges: Edges, region_of_interest: bool, fingerprint: Fingerprint | None) -> list[str]:
    """Warn of labels that reach an edge, in a sentence for each kind of edge; not where ordinary cases do.

    Args:
        edges: Which they reach.
        region_of_interest: Whether the user chose the part of the image that was processed.
        fingerprint: Of the model; None: it states none.
    """
    usual = fingerprint.usual_edges if fingerprint else {}
    image = {
        name: tuple(side for side in sides if side not in usual.get(name, ())) for name, sides in edges.image.items()
    }
    part = "region of interest" if region_of_interest else "part of the image that was processed"
    return [
        f"The segmentation reaches the edge of the {edge}: {_listed(sides_of)} may be cut off there."
        for edge, sides_of in (("image", image), (part, edges.part))
        if any(sides_of.values())
    ]


def _side(case: Case, axis: int, end: int) -> str:
    """Name the patient's side beyond the first (0) or last (-1) plane along an axis of the network."""
    direction = np.reshape(case.frame.image.GetDirection(), (3, 3))[:, 2 - case.frame.axes[axis]]
    outward = direction * (-1 if (end == 0) != case.frame.flips[axis] else 1)
    nearest = int(np.abs(outward).argmax())
    return _TOWARDS[nearest][int(outward[nearest] > 0)]


def _listed(sides_of: Mapping[str, Sequence[str]]) -> str:
    named = [f"{readable(name)} ({', '.join(sides)})" for name, sides in sides_of.items() if sides]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
