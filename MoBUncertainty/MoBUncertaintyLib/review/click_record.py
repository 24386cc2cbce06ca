"""Clicks as JSON: those that hold, and those that held when a region was found or decided."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.state import YEARS

CLICK_ID = re.compile("c[1-9][0-9]{0,8}")
MAX_POINTS = 100_000
"""Of all clicks of a review: a thousand times what a reader gives."""


class ClickBook:
    """The distinct clicks of a record, each with its place in a list.

    Args:
        clicks: Those that hold; they come first.

    Attributes:
        clicks: Those that hold.
    """

    def __init__(self, clicks: tuple[Click, ...]) -> None:
        self.clicks = clicks
        self._places = {click: place for place, click in enumerate(clicks)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], check: Callable[[Click], Any]) -> ClickBook:
        """Read what `to_dict` made.

        Args:
            data: The record.
            check: Raises ReviewError for a click that cannot be one of this prediction.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is no such list of clicks.
        """
        clicks = tuple(map(_read_click, data["clicks"]))
        earlier = tuple(map(_read_click, data["earlier_clicks"]))
        if len({click.click_id for click in clicks}) < len(clicks):
            raise ValueError("two clicks have one id")
        if sum(len(click.points_ras) for click in clicks + earlier) > MAX_POINTS:
            raise ValueError("it has too many clicks")
        try:
            for click in clicks + earlier:
                check(click)
        except ReviewError as error:
            raise ValueError(str(error).rstrip(".")) from error
        book = cls(in_order(clicks))
        book._places = {click: place for place, click in enumerate(clicks + earlier)}
        return book

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Write all clicks: those that hold, and the others that were put in."""
        written = [write_click(click) for click in self._places]
        return {"clicks": written[: len(self.clicks)], "earlier_clicks": written[len(self.clicks) :]}

    def places_of(self, clicks: Iterable[Click]) -> list[int]:
        """Put clicks in, unless they are there, and return their places in the list of all."""
        return [self._places.setdefault(click, len(self._places)) for click in clicks]

    def clicks_at(self, places: Iterable[int]) -> tuple[Click, ...]:
        """Return the clicks at places in the list of all.

        Raises:
            ValueError: There is none.
        """
        clicks = list(self._places)
        if not all(isinstance(place, int) and 0 <= place < len(clicks) for place in places):
            raise ValueError("a region was decided with a click that is not there")
        return in_order(clicks[place] for place in places)


def in_order(clicks: Iterable[Click]) -> tuple[Click, ...]:
    """Sort clicks as they were given."""
    return tuple(sorted(clicks, key=lambda click: click.order))


def write_click(click: Click) -> dict[str, Any]:
    """Make a click ready for JSON."""
    return {
        "id": click.click_id,
        "points_ras": [list(point) for point in click.points_ras],
        "label": click.label,
        "time": click.time.isoformat(),
        "region": click.region_id,
    }


def _read_click(entry: Mapping[str, Any]) -> Click:
    click_id, region_id, time = entry["id"], entry["region"], datetime.fromisoformat(entry["time"])
    if not (isinstance(click_id, str) and CLICK_ID.fullmatch(click_id)):
        raise ValueError("the id of a click is not c1, c2, ...")
    if not (region_id is None or isinstance(region_id, str)):
        raise ValueError("the region of a click is no id")
    if time.year not in YEARS:
        raise ValueError(f"the year {time.year} of a click is not possible")
    points = tuple((float(r), float(a), float(s)) for r, a, s in entry["points_ras"])
    try:
        return Click(click_id, points, entry["label"], time, region_id)
    except ReviewError as error:
        raise ValueError(str(error).rstrip(".")) from error
