"""The report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.pages.templates import TEMPLATE, fill
from MoBUncertaintyLib.output.pictures.region_pictures import CORRECTED_COLOUR, draw_region
from MoBUncertaintyLib.output.pictures.style import DRAWN_REGIONS, LISTED_REGIONS, Scale, heat_colours, palette_beside
from MoBUncertaintyLib.output.report import VERDICTS

if TYPE_CHECKING:
    import numpy as np


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
