"""Describe a model's card in a few lines of text. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope

NAMES = {
    "held_out_cases": "held-out cases",
    "dice": "Dice",
    "nsd_2mm": "surface Dice at 2 mm",
    "volume": "whole image",
    "box": "box around the organ",
    "pooled": "all cases pooled",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "mce": "maximum calibration error",
    "variance": "regions by variance",
    "bernoulli": "regions by p (1 - p)",
    "entropy": "regions by entropy",
    "regions": "number in a case",
    "longest_mm": "longest",
    "regions_mm3": "volume",
    "error_mm3": "errors of the segmentation",
    "error_fraction": "of these in regions",
    "thick_error_mm3": "errors thicker than a voxel",
    "thick_error_fraction": "of these in regions",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "aurc": "AURC",
    "augrc": "AUGRC",
}
"""What a reader calls the scores of `mob-training evaluate`."""
UNITS = {"mm3": "mm³", "mm": "mm", "ml": "ml", "fraction": "%"}  # by the last word of a score's name

LINES, ITEMS = 12, 8  # how many entries of scores or training are shown, and values of one entry
LENGTH = 300  # characters of an entry that is shown, at most


def covariance_text(spec: CovarianceSpec) -> str:
    """Name a covariance's kind, with the numbers that matter for it."""
    if spec.kind is Covariance.DETERMINISTIC:
        return "none (deterministic)"
    if spec.kind is Covariance.DIAGONAL:
        return ", ".join([spec.kind.value, _scope_text(spec, Scope.VOXEL)])
    parts = [spec.kind.value, f"rank {spec.rank}"]
    if spec.kind is Covariance.MIXTURE_OF_BASES:
        parts += [f"bases {spec.bases}", f"partitions {spec.partitions} per axis"]
    return ", ".join([*parts, _scope_text(spec, spec.scope)])


def _scope_text(spec: CovarianceSpec, scope: Scope) -> str:
    """Say which voxels share their noise; `scope` is that of any model but the local ones."""
    if spec.length_mm is None:
        return f"one draw per {scope.value}"
    smooth = f"noise smooth over {' x '.join(f'{length:.3g}' for length in spec.length_mm)} mm"
    return f"{smooth}, {percent(spec.shared_fraction)} of it one draw per volume" if spec.shared_fraction else smooth


def training_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List name and text of each entry but for long ones."""
    return _short([(name, plain(value)) for name, value in training.items()])


def score_lines(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List name and text of the scores at the top and one level below, without curves and the like.

    `mob-training evaluate` writes a score as its mean, median, minimum and maximum.
    """
    return _short([(_named(name)[0], _main(name, value)) for name, value in scores.items()])


def _short(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    short = [(name, text) for name, text in lines if text and len(text) <= LENGTH][:LINES]
    return short if len(short) == len(lines) else [*short, ("more", "in model.json")]


def plain(value: Any) -> str:
    """Write JSON as text without brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"  # 59536, not 5.954e+04
    return str(value)


def _main(name: str, value: Any) -> str:
    """Write a score, or the first scores of a group."""
    if not isinstance(value, dict):
        return _amount(value, _named(name)[1])
    if (mean := _score(name, value)) is not None:
        bounds = [_amount(value[bound], _named(name)[1]) for bound in ("min", "max") if bound in value]
        return mean + (f" ({' to '.join(bounds)})" if bounds else "")
    means = [(key, mean) for key, entry in value.items() if (mean := _score(key, entry)) is not None]
    return ", ".join(f"{_named(key)[0]} {mean}" for key, mean in means[:ITEMS])


def _score(name: str, value: Any) -> str | None:
    """Write a number, or the mean of a score over cases; None for anything else."""
    if isinstance(value, dict):
        value = value.get("mean")
    return _amount(value, _named(name)[1]) if isinstance(value, int | float) else None


def _named(name: str) -> tuple[str, str]:
    """Return what a reader calls a score, and its unit, "" if it has none; the names of others end in their unit."""
    bare, _, unit = name.rpartition("_")
    text, unit = (bare, UNITS[unit]) if bare and unit in UNITS else (name, "")
    return NAMES.get(name, text.replace("_", " ")), unit


def _amount(value: Any, unit: str) -> str:
    """Write a number to three digits, with its unit; large volumes in ml, fractions in percent. Others as they are."""
    if not isinstance(value, int | float) or not abs(value) < 1e9:
        return plain(value)
    if unit == "mm³" and abs(value) >= 1000:
        value, unit = value / 1000, "ml"
    if unit == "ml":
        return volume_text(value)
    if unit == "%":
        value *= 100
    text = str(value) if isinstance(value, int) else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}" if unit else text
