"""The report of a review, reviewed or not yet: what it says, its page for a browser, and its tables.

Paths of the computer are left out, and the patient comes in only if handed in.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.pages.templates import TEMPLATE, fill
from MoBUncertaintyLib.output.pictures.region_pictures import CORRECTED_COLOUR, draw_region
from MoBUncertaintyLib.output.pictures.style import DRAWN_REGIONS, LISTED_REGIONS, Scale, heat_colours, palette_beside
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.prediction import predicted_intervals
from MoBUncertaintyLib.regions.region import Discrepancy, discrepancy_text
from MoBUncertaintyLib.review.outcome import stated_volumes, volume_intervals
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "mob-uncertainty report"
SCHEMA_VERSION = 1
RESOLVED = "resolved"  # stands in the place of a verdict for a region that clicks have resolved

VERDICTS: dict[str, str] = {
    Verdict.PENDING: "not decided",
    Verdict.ACCEPT: "accepted",
    Verdict.INCLUDE: "included",
    Verdict.EXCLUDE: "excluded",
    Verdict.EDIT: "edited",
    RESOLVED: "resolved by clicks",
}
COLUMNS = (
    "rank", "id", "organ", "location", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "finding", "discrepancy",
    "volume_mm3", "expected_error_mm3", "found_error_mm3", "effect", "mean_variance", "max_variance",
    "mean_probability", "inside_fraction", "extent_mm", "clicks", "verdict", "label", "added_mm3", "removed_mm3",
    "comment",
)  # fmt: skip
CLICK_COLUMNS = (
    "id", "extent", "r_mm", "a_mm", "s_mm", "points", "label", "region", "time", "net_mm3", "changed_mm3",
    "in_conflict",
)  # fmt: skip

MEASUREMENT_COLUMNS = (
    "measurement", "unit", "value", "samples", "median", "samples_low", "samples_high", "interval_low", "interval_high",
    "level",
)  # fmt: skip

_PREDICTION = (
    "created", "settings", "moments", "folds", "engine", "device", "computer", "precision", "tiles", "passes_per_tile",
    "versions", "correlation_mm", "volume_bounds",
)  # fmt: skip


def build_report(
    case: Case,
    *,
    dicom: Mapping[str, str] | None = None,
    patient: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Gather everything the report says, ready for JSON; `dicom` and `patient` are fields by name, if asked for."""
    review, prediction = case.review, case.review.prediction
    model = prediction.provenance.get("model", {})
    stated = {"correlation_mm": prediction.correlation_mm, "volume_bounds": prediction.stated_bounds}
    made = prediction.provenance | {name: to_json(value) for name, value in stated.items() if value is not None}
    (done, total), suits = review.reviewed, prediction.suitability
    describer = RegionDescriber(prediction)
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
        "prediction": {key: made[key] for key in _PREDICTION if key in made},
        "labels": _labels(review),
        "measurements": [_measurement(each) for each in case.measured or prediction.measured],
        "measured_as": "corrected" if case.measured else "predicted",
        "ranked_by": review.ranked_by,
        "region_kind": prediction.region_kind,
        "regions": [_region_row(region, review, describer) for region in review.regions],
        "clicks": _click_rows(review),
        "expected_error_mm3": dict(zip(("predicted", "now"), review.expected_error_mm3, strict=True)),
        "reviewed": {"decided": done, "of": total},
        "checked": to_json(prediction.checked),
        "suitability": suits and suits.to_dict() | {"text": suits.text, "sentence": suits.sentence},
        "warnings": list(prediction.warnings),
        "review": review.to_dict(),
    }
    if patient is not None:
        report["patient"] = dict(patient)
    return report


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON; `mob-uncertainty review --decisions` takes it too. Raises `OSError`."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_html(path: Path, report: Mapping[str, Any], case: Case, corrected: np.ndarray | None = None) -> None:
    """Write the report as one HTML file, with pictures of the first `DRAWN_REGIONS` regions in it. Raises `OSError`."""
    corrected = case.review.corrected() if corrected is None else corrected
    scale = Scale.of(case.image, case.review.settings)
    pictures = {
        region.region_id: draw_region(case, region, corrected, scale) for region in case.review.regions[:DRAWN_REGIONS]
    }
    path.write_text(render_html(report, pictures, scale), encoding="utf-8")


def render_html(
    report: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Mapping[str, bytes]]], scale: Scale
) -> str:
    """Render the report, all of it text and never markup; `pictures` are of `draw_region`, by region id."""
    palette = palette_beside(tuple(label["colour"]) for label in report["labels"])
    return fill(
        TEMPLATE,
        **report,
        report=report,
        default_length_mm=DEFAULT_LENGTH_MM,
        verdicts={str(verdict): words for verdict, words in VERDICTS.items()},
        pictures=pictures,
        scale=scale,
        heat_stops=", ".join(f"rgb{tuple(colour)}" for colour in heat_colours(9).tolist()),
        colours={"corrected": f"rgb{CORRECTED_COLOUR}", "region": f"rgb{palette.region}"},
        listed=report["regions"][:LISTED_REGIONS],
        total_error=sum(row["expected_error_mm3"] for row in report["regions"]),
    )


def _labels(review: Review) -> list[dict[str, Any]]:
    prediction, corrected = review.prediction, stated_volumes(review)
    volumes = {"predicted": prediction.stated_volumes, "corrected": corrected}
    compared = prediction.compared(prediction.stated_volumes)
    intervals = {"predicted": predicted_intervals(prediction), "corrected": volume_intervals(review, corrected)}
    rows = []
    for label in prediction.labels:
        row = asdict(label)
        for name, of_label in volumes.items():
            interval = intervals[name].get(label.name)
            row[f"{name}_ml"] = round(of_label[label.name].ml, 3)
            row[f"{name}_interval"] = interval and interval.to_dict()
        row["expected_error_ml"] = round(volumes["predicted"][label.name].error_ml, 4)
        row["network_ml"] = round(compared[label.name].ml, 3)
        row["network_error_ml"] = round(compared[label.name].error_ml, 4)
        agreement = prediction.agreement.get(label.name)
        row["agreement"] = agreement and asdict(agreement) | {"text": agreement.text}
        rows.append(row | {"locked": label.value in review.locks})
    return rows


def _region_row(region: ReviewRegion, review: Review, describer: RegionDescriber) -> dict[str, Any]:
    described, names = region.region, {label.value: label.name for label in review.prediction.labels}
    voxel_mm3 = review.prediction.grid.voxel_mm3
    organ = describer.organ(region.region, region.box, region.found.mask)
    before = review.prediction.segmentation[region.box][region.found.mask] > 0
    after = review.labels_in(region.box)[region.found.mask] > 0
    values = (
        asdict(described)
        | dict(zip(COLUMNS[4:7], described.centroid_ras, strict=True))
        | {
            "id": region.region_id,
            "organ": organ.name if organ else "",
            "effect": described.effect and described.effect.fraction,
            "finding": discrepancy_text(described),
            "discrepancy": described.discrepancy if isinstance(described, Discrepancy) else None,
            "found_error_mm3": region.found.region.expected_error_mm3,
            "clicks": sum(click.region_id == region.region_id for click in review.clicks),
            "verdict": RESOLVED if region.resolved else region.verdict.value,
            "label": names.get(region.label, "") if region.label else "",
            "added_mm3": float((after & ~before).sum() * voxel_mm3),
            "removed_mm3": float((before & ~after).sum() * voxel_mm3),
            "comment": region.comment,
        }
    )
    return {name: values[name] for name in COLUMNS}


def _click_rows(review: Review) -> list[dict[str, Any]]:
    """Say of each click but locks, in order of time, where it is, what it says and what it changed."""
    names = {label.value: label.name for label in review.prediction.labels}
    ranks = {region.region_id: region.region.rank for region in review.regions}
    rows = []
    for click in review.drawn:
        values = (
            click.click_id, click.extent.value, *click.points_ras[0], len(click.points_ras),
            names.get(click.label, "background"), ranks.get(click.region_id or ""),
            click.time.isoformat(timespec="seconds"),
            *review.refiner.effect(click, review.clicks),
            click.click_id in review.conflicts,
        )  # fmt: skip
        rows.append(dict(zip(CLICK_COLUMNS, values, strict=True)))
    return rows


def _measurement(measured: Measured) -> dict[str, Any]:
    """Say what was measured."""
    spread, histogram = measured.spread, measured.histogram
    return {
        "name": measured.name,
        "unit": measured.unit,
        "value": measured.value,
        "spread": spread and spread.to_dict(),
        "interval": measured.interval and measured.interval.to_dict(),
        "histogram": histogram and histogram._asdict(),
    }


def measurement_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Make a table of measurements: what the samples span, and what calibration promises, if it does."""
    rows = []
    for each in measured:
        spread, interval = each.spread, each.interval
        values = (
            each.name, each.unit, each.value, len(each.samples), each.quantile(0.5),
            *((spread.low, spread.high) if spread else (None, None)),
            *((interval.low, interval.high, interval.level) if interval else (None, None, None)),
        )  # fmt: skip
        rows.append(dict(zip(MEASUREMENT_COLUMNS, values, strict=True)))
    return rows


def write_measurements(path: Path, measured: Sequence[Measured]) -> None:
    """Write measurements as CSV. Raises `OSError`."""
    write_table(path, MEASUREMENT_COLUMNS, measurement_rows(measured))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV for spreadsheets: numbers of six digits, and no text that is a formula. Raises `OSError`."""
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
