"""The templates of pages and of the scene, and how what stands in them is written for people."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.measurements.interval import Interval, volume_number
from MoBUncertaintyLib.model.card import readable

TEMPLATE, PAGE_TEMPLATE, SCENE_TEMPLATE = (
    RESOURCES / "Report" / name for name in ("report.html.jinja", "review.html.jinja", "scene.mrml.jinja")
)
_INCLUDED = [RESOURCES / "Report" / name for name in ("facts.html.jinja", "review.css", "review.js")]


def require_installed(*templates: Path) -> None:
    """Raise `OutputError`, before hours of computing, if a template (default: of report, page or scene) is missing."""
    for path in templates or (TEMPLATE, PAGE_TEMPLATE, SCENE_TEMPLATE, *_INCLUDED):
        if not path.is_file():
            raise OutputError(f"The template {path} is not installed; install MoB Uncertainty again.")


def fill(template: Path, **values: Any) -> str:
    """Fill a template: what a report says is text to it, never markup. Raises `OutputError` if it is not installed."""
    require_installed(template)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "interval": interval_text,
        "number": number_text,
        "readable": readable,
        "volume": volume_text,
        "moment": time_text,
        "percent": percent,
        "png_url": lambda png: "data:image/png;base64," + base64.b64encode(png).decode(),
    }
    return environment.get_template(template.name).render(values)


def number_text(value: float, digits: int = 0) -> str:
    """Write a number with thin spaces between thousands and a true minus sign."""
    return _typeset(f"{value:,.{digits}f}")


def volume_text(ml: float, interval: Mapping[str, float] | None = None) -> str:
    """Write a volume without its unit, with the decimals that it shares with its interval."""
    return _typeset(volume_number(ml, Interval.from_dict(interval)))


def interval_text(values: Mapping[str, float] | None, ml: float) -> str:
    """Write an interval behind its volume; nothing where there is none."""
    interval = Interval.from_dict(values)
    return f" {_typeset(interval.text(ml))}" if interval else ""


def _typeset(number: str) -> str:
    return number.replace(",", "\u2009").replace("-", "\u2212")


def time_text(text: str) -> str:
    """Write a date and time as people write it, with its zone."""
    return datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M %Z").strip()
