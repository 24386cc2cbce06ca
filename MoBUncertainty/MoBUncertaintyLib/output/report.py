"""The report of a review, reviewed or not yet: one self-contained HTML file, and the same as CSV and JSON.

`build_report` gathers everything as plain numbers and text; the three formats only present it. Paths of the computer
are left out, and what is known of the patient comes in only if it is handed in.
"""

from __future__ import annotations

import base64
import csv
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.conformal.interval import Interval
from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.files.resources import RESOURCES
from MoBUncertaintyLib.geometry import occupied_rows
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.output.pictures.region_pictures import CORRECTED_COLOUR, draw_region
from MoBUncertaintyLib.output.pictures.scales import Scale, heat_colours
from MoBUncertaintyLib.output.pictures.style import DRAWN_REGIONS, LISTED_REGIONS, REGION_COLOUR
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.finder import table_row
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review

if TYPE_CHECKING:
    import SimpleITK as sitk
    from jinja2 import Environment

SCHEMA = "mob-uncertainty report"
SCHEMA_VERSION = 4
TEMPLATE, PAGE_TEMPLATE, PAGE_STYLE, PAGE_SCRIPT = (
    RESOURCES / "Report" / name for name in ("report.html.jinja", "review.html.jinja", "review.css", "review.js")
)

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
        "model": {key: model.get(key) for key in ("name", "digest")},
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
    return None if found is None else found.to_dict() | {"text": found.text}


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


def write_html(
    path: Path,
    report: Mapping[str, Any],
    case: ReviewedCase,
    corrected: np.ndarray | None = None,
    table: str = "report.csv",
) -> None:
    """Write the report as one HTML file: no script, no other file, pictures inside.

    Of many regions it lists the first `LISTED_REGIONS` and draws the first `DRAWN_REGIONS`.

    Args:
        path: The file.
        report: From `build_report`.
        case: The case.
        corrected: `case.review.corrected()`, if it is at hand.
        table: Name of the file that lists all regions.

    Raises:
        OutputError: The template is not installed.
        OSError: The file cannot be written.
    """
    corrected = case.review.corrected() if corrected is None else corrected
    review, prediction, scale = case.review, case.prediction, Scale.of(case.ct, case.review.settings)
    pictures, before = {}, {}
    for region in review.regions[:DRAWN_REGIONS]:
        name, clicks = region.region_id, review.clicks
        drawn = draw_region(case.ct, region, prediction, corrected, scale, maps=review.maps_in, clicks=clicks)
        pictures[name] = {title: _data_url(png) for title, png in drawn.items()}
        if any(click.region_id == name for click in clicks):
            found = replace(region, mask=region.found.mask)
            drawn = draw_region(case.ct, found, prediction, prediction.segmentation, scale, clicks=clicks)
            before[name] = {title: _data_url(png) for title, png in drawn.items()}
    path.write_text(render_html(report, pictures, scale, table, before), encoding="utf-8")


def check_template() -> None:
    """Find out before hours of computing whether a report and a review page can be written.

    Raises:
        OutputError: A template is not installed.
    """
    for path in (TEMPLATE, PAGE_TEMPLATE, PAGE_STYLE, PAGE_SCRIPT):
        if not path.is_file():
            raise OutputError(f"The report's template {path} is not installed; install MoB Uncertainty again.")


def render_html(
    report: Mapping[str, Any],
    pictures: Mapping[str, Mapping[str, str]],
    scale: Scale,
    table: str = "report.csv",
    before: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Render the HTML text; everything in `report` is text to it, never markup.

    Args:
        report: From `build_report`.
        pictures: Data URLs of the pictures of each region that is drawn: region id -> title -> URL.
        scale: How they were drawn.
        table: Name of the file that lists all regions.
        before: Pictures of regions with clicks as they were predicted, likewise.

    Raises:
        OutputError: The template is not installed.
    """
    check_template()
    environment = make_environment()
    stops = ", ".join(f"rgb{tuple(colour)}" for colour in heat_colours(9).tolist())
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report,
        facts=facts(report),
        verdicts={str(verdict): words for verdict, words in VERDICTS.items()},
        pictures=pictures,
        before=before or {},
        scale=scale,
        heat_stops=stops,
        colours={"corrected": f"rgb{CORRECTED_COLOUR}", "region": f"rgb{REGION_COLOUR}"},
        listed=report["regions"][:LISTED_REGIONS],
        table=table,
        total_error=sum(row["expected_error_mm3"] for row in report["regions"]),
    )


def make_environment() -> Environment:
    """Make the environment of the templates: what a report says is text to it, never markup."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "interval": _interval,
        "number": _number,
        "readable": readable,
        "moment": _moment,
        "percent": _percent,
    }
    return environment


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
    errors, bounds = case.prediction.expected_errors_mm3, case.prediction.volume_bounds
    volumes = {"predicted": before, "corrected": after}
    intervals = {"predicted": case.prediction.volume_intervals(), "corrected": case.review.volume_intervals()}
    margins = {name: each.margin_mm for name, each in bounds.labels.items()} if bounds else {}
    return [
        asdict(label)
        | {f"{name}_ml": round(float(ml[[*label.values]].sum()), 3) for name, ml in volumes.items()}
        | {
            f"{name}_interval": known[label.name].to_dict() if label.name in known else None
            for name, known in intervals.items()
        }
        | {"expected_error_ml": round(errors[label.name] / 1000, 4), "margin_mm": margins.get(label.name)}
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


def facts(report: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """List the facts of the report's first page, by heading; what is not known is left out."""
    ct, prediction, found = report["ct"], report["prediction"], report["review"]["settings"]
    settings = prediction.get("settings", {})
    facts: dict[str, list[tuple[str, Any]]] = {
        "Image": [
            ("Name", ct["name"]),
            ("Voxels", " x ".join(str(n) for n in ct["size"])),
            ("Voxel size", " x ".join(f"{step:.4g}" for step in ct["spacing_mm"]) + " mm"),
            *ct["dicom"].items(),
            ("SHA-256", ct["sha256"]),
        ],
        "Model": [("Name", report["model"]["name"]), ("SHA-256", report["model"]["digest"])],
        "Prediction": [
            ("Made", _moment(prediction["created"]) if "created" in prediction else None),
            ("Moments", prediction.get("moments")),
            ("Folds", ", ".join(map(str, prediction.get("folds", ())))),
            ("Overlap of tiles", settings.get("overlap")),
            ("Tiling", settings.get("tiling")),
            ("Mirrored copies", {True: "yes", False: "no"}.get(settings.get("mirror"))),
            ("Region of interest", _roi(settings.get("region_of_interest"))),
            (
                "Computed on",
                ", ".join(
                    str(prediction[key]) for key in ("device", "precision", "engine", "computer") if key in prediction
                ),
            ),
        ],
        "Volumes": _volume_facts(report["labels"], prediction.get("volume_bounds")),
        "Clicks": _click_facts(report["review"]["click_settings"], prediction) if report["clicks"] else [],
        "Doubtful regions": [
            ("Measure", found["measure"]),
            ("Threshold", RegionSettings.from_dict(found).level),
            ("Smallest region", f"{found['minimum_mm3']:g} mm³"),
        ],
    }
    if "patient" in report:
        facts = {"Patient": list(report["patient"].items())} | facts
    known = {title: [(k, str(v)) for k, v in rows if v not in (None, "", {})] for title, rows in facts.items()}
    return {title: rows for title, rows in known.items() if rows}


def _volume_facts(labels: Sequence[Mapping[str, Any]], bounds: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    known = [label for label in labels if label["predicted_interval"] is not None]
    if bounds is None or not known:
        return []
    level = f"{bounds['level']:.0%}"
    of_labels = [(readable(label["name"]), label["margin_mm"]) for label in known]
    margins = "; ".join(f"{mm:g} mm of the predicted outline of {name}" for name, mm in of_labels if mm is not None)
    return [
        (
            "Intervals hold",
            f"the true volume in {level} of cases that are like the {bounds['cases']} calibration cases",
        ),
        ("True surface", f"{level} of it, on average, within {margins}" if margins else None),
    ]


def _click_facts(settings: Mapping[str, Any], prediction: Mapping[str, Any]) -> list[tuple[str, Any]]:
    deviation, length = settings["prior_deviation"], settings["length_mm"]
    axes = " x ".join(f"{own:.3g}" for own in reversed(prediction.get("correlation_mm", ())))
    return [
        ("Length", f"of the model, {axes} mm" if axes and not length else f"{length or DEFAULT_LENGTH_MM:g} mm"),
        ("Strength", "{strength:g} for the outline, {variance_strength:g} for the uncertainty".format_map(settings)),
        ("Deviation", "of the model" if deviation is None else f"{deviation:g}"),
        ("Sharpening", f"{settings['sharpening']:g}"),
        ("Resolved below", f"{_percent(settings['resolved_fraction'])} of the expected error"),
    ]


def _roi(bounds: Sequence[float] | None) -> str | None:
    if bounds is None:
        return None
    return (
        ", ".join(
            f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in zip("RAS", bounds[::2], bounds[1::2], strict=True)
        )
        + " mm"
    )


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


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _cell(value: Any) -> Any:
    """Make a cell of a spreadsheet, which must not take a reader's text for a formula."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, str) and unicodedata.normalize("NFKC", value.lstrip()[:1]) in ("=", "+", "-", "@"):
        return f"'{value}"
    return value


def _number(value: float, digits: int = 0) -> str:
    """Write a number with thin spaces between thousands and a true minus sign."""
    return f"{value:,.{digits}f}".replace(",", "\u2009").replace("-", "\u2212")


def _interval(values: Mapping[str, float] | None, digits: int = 1) -> str:
    """Write an interval behind its volume; nothing where there is none."""
    interval = Interval.from_dict(values)
    return f" {interval.text(digits)}" if interval else ""


def _percent(value: float) -> str:
    return f"{value:.0%}".replace("%", "\u2009%")


def _moment(text: str) -> str:
    """Write a date and time as people write it, with its zone."""
    return datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M %Z").strip()
