"""How much of a measurement's error is gone once the first regions of a list are mended, by what ranks the list.

Part of `measurements.py`. Rule, written before the scores: held-out cases that the model calls ordinary; mean dose of
both parotids and the mandible, where contour and segmentation have them; the regions that the product lists. A region
is mended by taking the contour within it. The error is the absolute difference to the contour's mean dose. The fraction
of it that is gone is pooled: of the sums over cases and measurements, since single errors may be near 0. Its 95 %
interval, and that of differences between rankings, are bootstrapped with the patient as the unit.

The list is ranked by effect on the measurement (`regions.measurements.effects`), by expected error, as usual, and by
mean variance. The strongest baseline is the expected error of the measured label alone, which knows what is measured,
but not the dose.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from MoBUncertaintyLib.measurements.measurement import Wanted, read_wanted
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.measurements import effects
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of
from MoBUncertaintyLib.regions.region import Regions

MEASURED = ("mean_dose:Parotid_L", "mean_dose:Parotid_R", "mean_dose:Bone_Mandible")
FIRST = 3
EFFECT = "effect on the measurement"
OTHERS = ("expected error of the label", "expected error", "mean variance")
RESAMPLED = 2000

Left = dict[str, list[float]]
"""The error before, and after all regions (`limits`); by ranking, that after the first 1 to `FIRST` regions."""


def errors_left(prediction: Prediction, truth: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, Left]:
    """Mend the regions of a case, by each ranking, for each measurement that is defined; truth is a label map."""
    names = [label.name for label in prediction.labels]
    regions = find_regions(prediction)
    possible = read_wanted([text for text in MEASURED if text.split(":")[1] in names], names, values)
    left = {wanted.text: _left(wanted, prediction, truth, values, regions) for wanted in possible}
    return {text: own for text, own in left.items() if own}


def _left(
    wanted: Wanted, prediction: Prediction, truth: np.ndarray, values: Mapping[str, np.ndarray], regions: Regions
) -> Left:
    """Mend the regions for one measurement; empty where it is not defined."""
    label = next(label for label in prediction.labels if label.name in wanted.labels)
    own, true, where = label.mask(prediction.segmentation), label.mask(truth), regions.whole_map()
    if not (own.any() and true.any()):
        return {}

    def error(numbers: Sequence[int]) -> float:
        mended = np.where(np.isin(where, numbers), true, own)
        drawn, contour = (wanted.compute([mask], prediction.grid, values) for mask in (mended, true))
        return round(abs(drawn - contour), 4)

    p = np.sum([prediction.probability[channel] for channel in channels_of(prediction, label)], axis=0)
    of_label = np.bincount(where.ravel(), np.abs(own - p).ravel(), where.max() + 1)
    by_number = effects(prediction, regions, wanted.text, values)
    orders = {
        EFFECT: lambda region: by_number[region.number].fraction,
        OTHERS[0]: lambda region: of_label[region.number],
        OTHERS[1]: lambda region: region.expected_error_mm3,
        OTHERS[2]: lambda region: region.mean_variance,
    }
    left = {"limits": [error([]), error([*by_number])]}
    for name, order in orders.items():
        numbers = [region.number for region in sorted(regions.ranked, key=order, reverse=True)]
        left[name] = [error(numbers[:count]) for count in range(1, FIRST + 1)]
    return left


def gone(cases: Mapping[str, Mapping[str, Left]], seed: int = 0) -> dict[str, Any]:
    """Pool the fraction of the error that is gone over cases: mean, and 95 % interval over patients.

    By ranking, after the first 1 to `FIRST` regions; likewise by how much the effect's is above the others'.
    """
    judged = [own for own in cases.values() if own]
    before, after_all = np.transpose([np.sum([left["limits"] for left in own.values()], axis=0) for own in judged])
    sums = {name: np.array([np.sum([left[name] for left in own.values()], axis=0) for own in judged])
            for name in (EFFECT, *OTHERS)}  # fmt: skip
    drawn = np.random.default_rng(seed).integers(len(judged), size=(RESAMPLED, len(judged)))

    def pooled(rows: np.ndarray) -> list[float]:
        spread = np.quantile(rows[drawn].sum(axis=1) / before[drawn].sum(axis=1), (0.025, 0.975))
        return [round(float(number), 4) for number in (rows.sum() / before.sum(), *spread)]

    fractions = {name: [pooled(before - rows[:, n]) for n in range(FIRST)] for name, rows in sums.items()}
    above = {name: [pooled(sums[name][:, n] - sums[EFFECT][:, n]) for n in range(FIRST)] for name in OTHERS}
    counts = {"patients": len(judged), "measurements": sum(map(len, judged))}
    return counts | {"all regions": pooled(before - after_all), "gone": fractions, "effect above": above}


def print_table(result: Mapping[str, Any]) -> None:
    """Print what `gone` returns as a table."""
    print(f"\n{result['measurements']} measurements of {result['patients']} patients; ", end="")
    print("of their error is gone with all regions mended {:.0%} ({:.0%} to {:.0%})".format(*result["all regions"]))
    print("\n| ranked by | " + " | ".join(f"after {n + 1}" for n in range(FIRST)) + " |\n| --- |" + " --- |" * FIRST)
    for kind in ("gone", "effect above"):
        for name, rows in result[kind].items():
            numbers = " | ".join("{:.1%} ({:.1%} to {:.1%})".format(*row) for row in rows)
            print(f"| {name if kind == 'gone' else f'{EFFECT}, above {name}'} | {numbers} |")
