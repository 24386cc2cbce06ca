"""The report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.pages.templates import TEMPLATE, fill, time_text
from MoBUncertaintyLib.output.pictures.region_pictures import CORRECTED_COLOUR, draw_region
from MoBUncertaintyLib.output.pictures.style import DRAWN_REGIONS, LISTED_REGIONS, Scale, heat_colours, palette_beside
from MoBUncertaintyLib.output.report import VERDICTS

if TYPE_CHECKING:
    import numpy as np


def write_html(
    path: Path,
    report: Mapping[str, Any],
    case: Case,
    corrected: np.ndarray | None = None,
) -> None:
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
    first_page = facts(report)
    palette = palette_beside(tuple(label["colour"]) for label in report["labels"])
    stops = ", ".join(f"rgb{tuple(colour)}" for colour in heat_colours(9).tolist())
    return fill(
        TEMPLATE,
        **report,
        facts=first_page,
        verdicts={str(verdict): words for verdict, words in VERDICTS.items()},
        pictures=pictures,
        scale=scale,
        heat_stops=stops,
        colours={"corrected": f"rgb{CORRECTED_COLOUR}", "region": f"rgb{palette.region}"},
        listed=report["regions"][:LISTED_REGIONS],
        total_error=sum(row["expected_error_mm3"] for row in report["regions"]),
    )


def facts(report: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """List the facts of the report's first page, by heading; what is not known is left out."""
    ct, prediction, regions = report["ct"], report["prediction"], report["review"]["settings"]
    settings = prediction.get("settings", {})
    facts: dict[str, list[tuple[str, Any]]] = {
        "Image": [
            ("Name", ct["name"]),
            ("Voxels", " x ".join(str(n) for n in ct["size"])),
            ("Voxel size", " x ".join(f"{step:.4g}" for step in ct["spacing_mm"]) + " mm"),
            *ct["dicom"].items(),
            ("SHA-256", ct["sha256"]),
        ],
        "Model": [
            ("Name", report["model"]["name"]),
            ("SHA-256", report["model"]["digest"]),
            ("False alarms", report["model"].get("false_alarms")),
        ],
        "Prediction": [
            ("Made", time_text(prediction["created"]) if "created" in prediction else None),
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
            ("Measure", regions["measure"]),
            ("Threshold", RegionSettings.from_dict(regions).level),
            ("Smallest region", f"{regions['minimum_mm3']:g} mm³"),
        ],
    }
    if "patient" in report:
        facts = {"Patient": list(report["patient"].items())} | facts
    known = {title: [(k, str(v)) for k, v in rows if v not in (None, "", {})] for title, rows in facts.items()}
    return {title: rows for title, rows in known.items() if rows}


def _volume_facts(labels: Sequence[Mapping[str, Any]], bounds: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if bounds is None or not any(label["predicted_interval"] for label in labels):
        return []
    level, cases = percent(bounds["level"]), bounds["cases"]
    return [("Intervals hold", f"the true volume in {level} of cases like the {cases} calibration cases")]


def _click_facts(settings: Mapping[str, Any], prediction: Mapping[str, Any]) -> list[tuple[str, Any]]:
    deviation, length = settings["prior_deviation"], settings["length_mm"]
    axes = " x ".join(f"{own:.3g}" for own in reversed(prediction.get("correlation_mm", ())))
    return [
        ("Length", f"of the model, {axes} mm" if axes and not length else f"{length or DEFAULT_LENGTH_MM:g} mm"),
        ("Strength", "{strength:g} for the outline, {variance_strength:g} for the uncertainty".format_map(settings)),
        ("Deviation", "of the model" if deviation is None else f"{deviation:g}"),
        ("Sharpening", f"{settings['sharpening']:g}"),
        ("Resolved below", f"{percent(settings['resolved_fraction'])} of the expected error"),
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
