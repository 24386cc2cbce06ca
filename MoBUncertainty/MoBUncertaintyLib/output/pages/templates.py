"""The templates of pages and of the scene, and how what stands in them is written for people."""

from __future__ import annotations

import base64
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.measurements.interval import Interval, volume_number
from MoBUncertaintyLib.model.card import readable

if TYPE_CHECKING:
    from jinja2 import Environment

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
    return _environment(template.parent).get_template(template.name).render(values)


@cache
def _environment(folder: Path) -> Environment:
    """Make what compiles each template of a folder once, which takes as long as a small report itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "readable": readable,
        "percent": percent,
        "number": lambda value, digits=0: _typeset(f"{value:,.{digits}f}"),
        # A volume without its unit, with the decimals that it shares with its interval, and that behind it.
        "volume": lambda ml, interval=None: _typeset(volume_number(ml, Interval.from_dict(interval))),
        "interval": lambda values, ml: f" {_typeset(Interval(**values).text(ml))}" if values else "",
        "moment": lambda text: datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M %Z").strip(),
        "png_url": lambda png: "data:image/png;base64," + base64.b64encode(png).decode(),
    }
    return environment


def _typeset(number: str) -> str:
    """Write a number with thin spaces between thousands and a true minus sign."""
    return number.replace(",", "\u2009").replace("-", "\u2212")
