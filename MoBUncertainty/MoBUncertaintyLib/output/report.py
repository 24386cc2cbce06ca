"""What the report of a review says, reviewed or not yet, and its tables; `pages.report_page` shows it.

`build_report` gathers everything as plain numbers and text; JSON, CSV and HTML only present it. Paths of the computer
are left out, and what is known of the patient comes in only if it is handed in.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.geometry import occupied_rows
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.results_record import record_of
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import table_row
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict

SCHEMA = "mob-uncertainty report"
SCHEMA_VERSION = 1
RESOLVED = "resolved"
"""Stands in the place of a verdict for a region that clicks have resolved."""

VERDICTS: dict[str, str] = {
    Verdict.PENDING: "not decided",
    Verdict.ACCEPT: "accepted",
    Verdict.INCLUDE: "included",
    Verdict.EXCLUDE: "excluded",
    Verdict.EDIT: "edited",
    RESOLVED: "resolved by clicks",
}
COLUMNS = (
    "rank", "id", "location", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "volume_mm3", "expected_error_mm3",
    "found_error_mm3", "mean_variance", "max_variance", "mean_probability", "inside_fraction", "extent_mm", "clicks",
    "verdict", "label", "added_mm3", "removed_mm3", "comment",
)  # fmt: skip
CLICK_COLUMNS = (
    "id", "r_mm", "a_mm", "s_mm", "points", "label", "region", "time", "net_mm3", "changed_mm3", "in_conflict",
)  # fmt: skip


def build_report(
    case: Case,
    *,
    dicom: Mapping[str, str] | None = None,
    patient: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    corrected: np.ndarray | None = None,
) -> dict[str, Any]:
    """Gather everything the report says, ready for JSON.

    Args:
        case: The case.
        dicom: Number and UIDs of the CT's series and study, by name.
        patient: Fields of the patient, by name; only if they were asked for.
        warnings: One sentence each.
        corrected: `case.review.corrected()`, if it is at hand.
    """
    review, record = case.review, record_of(case.review.prediction)
    corrected = review.corrected() if corrected is None else corrected
    model = record.get("model", {})
    done, total = review.reviewed
    report = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "notice": "Research software. Not for clinical use.",
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "software": f"MoB Uncertainty {__version__}",
        "ct": {
            "name": case.source.name or None,
            "sha256": case.source.sha256,
            "size": list(case.image.GetSize()),
            "spacing_mm": list(case.image.GetSpacing()),
            "dicom": dict(dicom or {}),
        },
        "model": {key: model.get(key) for key in ("name", "digest", "false_alarms")},
        "prediction": {key: record[key] for key in _PREDICTION if key in record},
        "labels": _labels(case, corrected),
        "regions": [_region_row(region, case) for region in review.regions],
        "clicks": _click_rows(case),
        "expected_error_mm3": dict(zip(("predicted", "now"), review.expected_error_mm3, strict=True)),
        "reviewed": {"decided": done, "of": total},
        "suitability": _suitability(case.review.prediction),
        "warnings": [*case.review.prediction.warnings, *warnings],
        "review": review.to_dict(),
    }
    if patient is not None:
        report["patient"] = dict(patient)
    return report


def _suitability(prediction: Prediction) -> dict[str, Any] | None:
    """Say whether the model suits the case; None where nobody has looked."""
    found = prediction.suitability
    return None if found is None else found.to_dict() | {"text": found.text, "sentence": found.sentence}


_PREDICTION = (
    "created",
    "settings",
    "moments",
    "folds",
    "engine",
    "device",
    "computer",
    "precision",
    "tiles",
    "passes_per_tile",
    "versions",
    "volume_bounds",
)


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON; `mob-uncertainty review --decisions` takes it too.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _labels(case: Case, corrected: np.ndarray) -> list[dict[str, Any]]:
    voxel_ml = case.review.prediction.grid.voxel_mm3 / 1000
    before, after = (_counts(labels) * voxel_ml for labels in (case.review.prediction.segmentation, corrected))
    errors = case.review.prediction.expected_errors_mm3
    volumes = {"predicted": before, "corrected": after}
    intervals = {"predicted": case.review.prediction.volume_intervals(), "corrected": case.review.volume_intervals()}
    return [
        asdict(label)
        | {f"{name}_ml": round(float(ml[[*label.values]].sum()), 3) for name, ml in volumes.items()}
        | {
            f"{name}_interval": by_name[label.name].to_dict() if label.name in by_name else None
            for name, by_name in intervals.items()
        }
        | {"expected_error_ml": round(errors[label.name] / 1000, 4)}
        for label in case.review.prediction.labels
    ]


def _counts(labels: np.ndarray) -> np.ndarray:
    """Count the voxels of each value; where nothing is segmented (most of a CT) is not counted."""
    inside = labels[occupied_rows(labels)]
    return np.bincount(inside[inside > 0], minlength=256)


def _region_row(region: ReviewRegion, case: Case) -> dict[str, Any]:
    described, names = region.region, {label.value: label.name for label in case.review.prediction.labels}
    voxel_mm3 = case.review.prediction.grid.voxel_mm3
    before = case.review.prediction.segmentation[region.box][region.found.mask] > 0
    after = case.review.labels_in(region.box)[region.found.mask] > 0
    values = table_row(described) | {
        "id": region.region_id,
        "found_error_mm3": region.found.region.expected_error_mm3,
        "clicks": sum(click.region_id == region.region_id for click in case.review.clicks),
        "verdict": RESOLVED if region.resolved else region.verdict.value,
        "label": names.get(region.label, "") if region.label else "",
        "added_mm3": float((after & ~before).sum() * voxel_mm3),
        "removed_mm3": float((before & ~after).sum() * voxel_mm3),
        "comment": region.comment,
    }
    return {name: values[name] for name in COLUMNS}


def _click_rows(case: Case) -> list[dict[str, Any]]:
    """Say of each click, in order of time, where it is, what it says and what it changed."""
    review, names = case.review, {label.value: label.name for label in case.review.prediction.labels}
    ranks = {region.region_id: region.region.rank for region in review.regions}
    effects, conflicts = review.effects, review.conflicts
    rows = []
    for click in review.clicks:
        net, changed = effects[click.click_id]
        values = (
            click.click_id, *click.points_ras[0], len(click.points_ras), names.get(click.label, "background"),
            ranks.get(click.region_id or ""), click.time.isoformat(timespec="seconds"), net, changed,
            click.click_id in conflicts,
        )  # fmt: skip
        rows.append(dict(zip(CLICK_COLUMNS, values, strict=True)))
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV for spreadsheets: numbers of six digits, and no text that is a formula.

    Raises:
        OSError: The file cannot be written.
    """
    # With its mark at the start, spreadsheets read UTF-8 as such.
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(row[name]) for name in columns})


def _cell(value: Any) -> Any:
    """Make a cell of a spreadsheet, which must not take a reader's text for a formula."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, str) and unicodedata.normalize("NFKC", value.lstrip()[:1]) in ("=", "+", "-", "@"):
        return f"'{value}"
    return value
