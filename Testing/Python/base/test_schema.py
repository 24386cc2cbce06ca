"""What JSON is read as: the dataclass is the schema."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

import pytest

from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.prediction import PredictionSettings


class Kind(StrEnum):
    ROUND = "round"


@dataclass(frozen=True)
class Part:
    size: float
    kind: Kind = Kind.ROUND

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("the size must not be negative")


@dataclass(frozen=True)
class Whole:
    name: str
    parts: Mapping[str, Part]
    place: tuple[float, float] | None = None
    steps: tuple[int, ...] = ()
    folds: tuple[int | str, ...] | None = None
    first: Part | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    shown: bool = False
    made: datetime | None = None
    shapes: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Open:
    OPEN: ClassVar[bool] = True

    name: str


WHOLE = Whole(
    "a", {"b": Part(2.5)}, (1.0, 2.0), (1, 2), (0, "all"), Part(0.0), {"any": [1, {"thing": None}]}, True,
    datetime(2026, 5, 31, 14, 30, tzinfo=UTC), (Part(1.0), Part(2.0)),
)  # fmt: skip


def test_what_is_written_is_read_as_it_was() -> None:
    assert from_json(Whole, json.loads(json.dumps(to_json(WHOLE)))) == WHOLE
    assert from_json(Whole, {"name": "a", "parts": {}}) == Whole("a", {})


@pytest.mark.parametrize(
    "settings",
    [
        RegionSettings(Measure.ENTROPY, threshold=0.3, minimum_error=0.2),
        PredictionSettings(folds=(0, "all"), region_of_interest=(0, 1, 2, 3, 4, 5), labels=("spleen",)),
    ],
)
def test_settings_are_read_as_they_were(settings: Any) -> None:
    assert type(settings).from_dict(json.loads(json.dumps(asdict(settings)))) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "'name' must be text"),
        ({"of_later": 1}, "it has an unknown entry 'of_later'"),
        ({"a\nb": 1}, r"it has an unknown entry 'a\nb'"),
        ({"parts": []}, "'parts' must be an object"),
        ({"parts": {"b": {}}}, "'parts' lacks 'size'"),
        ({"parts": {"b": {"size": True}}}, "'size' must be a number"),
        ({"parts": {"b": {"size": 10**400}}}, "'size' must be a number"),
        ({"parts": {"b": {"size": -1}}}, "the size must not be negative"),
        ({"parts": {"b": {"size": 1, "kind": "flat"}}}, "'kind' must be round"),
        ({"place": [1]}, "'place' must be a list of 2 or null"),
        ({"place": "12"}, "'place' must be a list of 2 or null"),
        ({"steps": [1.5]}, "'steps' must be a whole number"),
        ({"steps": [True]}, "'steps' must be a whole number"),
        ({"first": {"size": "1"}}, "'size' must be a number"),
        ({"shown": 1}, "'shown' must be true or false"),
        ({"made": "noon"}, "'made' must be a time such as 2026-05-31T14:30 or null"),
        ({"shapes": [{"size": 1}, {}]}, "entry 2 of 'shapes' is wrong: it lacks 'size'"),
    ],
)
def test_what_is_of_another_form_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_json(Whole, to_json(WHOLE) | change)
    assert str(caught.value) == message


def test_an_open_class_takes_entries_that_it_does_not_know() -> None:
    assert from_json(Open, {"name": "a", "of_later": 1}) == Open("a")


def test_a_missing_entry_without_a_default_is_refused() -> None:
    for data in ({"name": "a"}, [], None):
        with pytest.raises(ValueError, match=r"it lacks 'parts'|it must be an object"):
            from_json(Whole, data)
