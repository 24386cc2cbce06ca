"""What the report of a review says, reviewed or not yet, and its tables; `pages.report_page` shows it.

`build_report` gathers everything as plain numbers and text; JSON, CSV and HTML only present it. Paths of the computer
are left out, and what is known of the patient comes in only if it is handed in.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.geometry import occupied_rows
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.region import table_row
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review

if TYPE_CHECKING:
    import SimpleITK as sitk

SCHEMA = "mob-uncertainty report"
SCHEMA_VERSION = 4
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


@dataclass(frozen=True)
class ReviewedCase:
    """A CT, and the review of its prediction, whose provenance is as in `prediction.json`."""

    ct: sitk.Image
    review: Review

    @property
    def prediction(self) -> Prediction:
        """What is reviewed."""
        return self.review.prediction


def build_report(
    case: ReviewedCase,
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
    review, provenance = case.review, case.prediction.provenance
    corrected = review.corrected() if corrected is None else corrected
    given, model = provenance.get("input", {}), provenance.get("model", {})
    done, total = review.reviewed
    report = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "notice": "Research software. Not for clinical use.",
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "software": f"MoB Uncertainty {__version__}",
        "ct": {
            "name": given.get("name"),
            "sha256": given.get("sha256"),
            "size": list(case.ct.GetSize()),
            "spacing_mm": list(case.ct.GetSpacing()),
            "dicom": dict(dicom or {}),
        },
        "model": {key: model.get(key) for key in ("name", "digest", "false_alarms")},
        "prediction": {key: provenance[key] for key in _PREDICTION if key in provenance},
        "labels": _labels(case, corrected),
        "regions": [_region_row(region, case) for region in review.regions],
        "clicks": _click_rows(case),
        "expected_error_mm3": dict(zip(("predicted", "now"), review.expected_error_mm3, strict=True)),
        "reviewed": {"decided": done, "of": total},
        "suitability": _suitability(case.prediction),
        "warnings": [*case.prediction.warnings, *warnings],
        "review": review.to_dict(),
    }
    if patient is not None:
        report["patient"] = dict(patient)
    return report


def _suitability(prediction: Prediction) -> dict[str, Any] | None:
    """Say whether the model suits the case; None where an older version predicted it."""
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


def write_csv(path: Path, report: Mapping[str, Any]) -> None:
    """Write one row for each region, with the columns `COLUMNS`.

    Raises:
        OSError: The file cannot be written.
    """
    write_table(path, COLUMNS, report["regions"])


def write_clicks_csv(path: Path, report: Mapping[str, Any]) -> None:
    """Write one row for each click, with the columns `CLICK_COLUMNS`.

    Raises:
        OSError: The file cannot be written.
    """
    write_table(path, CLICK_COLUMNS, report["clicks"])


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON; `mob-uncertainty review --decisions` takes it too.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _labels(case: ReviewedCase, corrected: np.ndarray) -> list[dict[str, Any]]:
    voxel_ml = case.prediction.grid.voxel_mm3 / 1000
    before, after = (_counts(labels) * voxel_ml for labels in (case.prediction.segmentation, corrected))
    errors = case.prediction.expected_errors_mm3
    volumes = {"predicted": before, "corrected": after}
    intervals = {"predicted": case.prediction.volume_intervals(), "corrected": case.review.volume_intervals()}
    return [
        asdict(label)
        | {f"{name}_ml": round(float(ml[[*label.values]].sum()), 3) for name, ml in volumes.items()}
        | {
            f"{name}_interval": known[label.name].to_dict() if label.name in known else None
            for name, known in intervals.items()
        }
        | {"expected_error_ml": round(errors[label.name] / 1000, 4)}
        for label in case.prediction.labels
    ]


def _counts(labels: np.ndarray) -> np.ndarray:
    """Count the voxels of each value; where nothing is segmented (most of a CT) is not counted."""
    inside = labels[occupied_rows(labels)]
    return np.bincount(inside[inside > 0], minlength=256)


def _region_row(region: ReviewRegion, case: ReviewedCase) -> dict[str, Any]:
    found, names = region.region, {label.value: label.name for label in case.prediction.labels}
    voxel_mm3 = case.prediction.grid.voxel_mm3
    before = case.prediction.segmentation[region.box][region.found.mask] > 0
    after = case.review.labels_in(region.box)[region.found.mask] > 0
    values = table_row(found) | {
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


def _click_rows(case: ReviewedCase) -> list[dict[str, Any]]:
    """Say of each click, in order of time, where it is, what it says and what it changed."""
    review, names = case.review, {label.value: label.name for label in case.prediction.labels}
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
