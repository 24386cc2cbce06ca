"""What stands in a results folder's `prediction.json` and `regions.csv`, read strictly."""

from __future__ import annotations

import csv
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.card import Label
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.integrity import check_manifest, check_seal
from MoBUncertaintyLib.json_input import read_object
from MoBUncertaintyLib.region_settings import RegionSettings
from MoBUncertaintyLib.regions import COLUMNS

RECORD = "prediction.json"
SCHEMA = "mob-uncertainty results"
SCHEMA_VERSION = 2
CSV_LIMIT = 64 * 2**20  # bytes; a region takes some hundred


def _numbers(count: int, **range_: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "number"} | range_, "minItems": count, "maxItems": count}


_TEXT = {"type": "string", "maxLength": 10_000}
_TEXT_OR_NULL = {"type": ["string", "null"], "maxLength": 10_000}
_COUNT = {"type": "integer", "minimum": 0}
_AMOUNT = {"type": "number", "minimum": 0}

FORMAT: dict[str, Any] = {
    "type": "object",
    "required": ["schema", "schema_version", "created", "input", "organs", "regions", "warnings", "files", "sha256"],
    "properties": {
        "schema": {"const": SCHEMA},
        "schema_version": {"const": SCHEMA_VERSION},
        "created": _TEXT,
        "input": {
            "type": "object",
            "required": ["size", "spacing_mm"],
            "properties": {
                "name": _TEXT_OR_NULL,
                "path": _TEXT_OR_NULL,
                "sha256": _TEXT_OR_NULL,
                "series": _TEXT_OR_NULL,
                "size": _numbers(3, exclusiveMinimum=0),
                "spacing_mm": _numbers(3, exclusiveMinimum=0),
                "origin_lps_mm": _numbers(3),
                "direction": _numbers(9),
            },
        },
        "organs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 255,
            "items": {
                "type": "object",
                "required": ["name", "value", "colour", "terminology", "volume_ml"],
                "properties": {
                    "name": _TEXT,
                    "value": {"type": "integer", "minimum": 1, "maximum": 255},
                    "colour": _numbers(3),
                    "terminology": {"type": "object"},
                    "volume_ml": _AMOUNT,
                },
            },
        },
        "regions": {
            "type": "object",
            "required": ["count", "expected_error_mm3", "settings"],
            "properties": {"count": _COUNT, "expected_error_mm3": _AMOUNT, "settings": {"type": "object"}},
        },
        "warnings": {"type": "array", "items": _TEXT},
        "timings_s": {"type": "object", "additionalProperties": _AMOUNT},
        "model": {"type": "object", "properties": {"name": _TEXT, "digest": _TEXT}},
        "settings": {
            "type": "object",
            "properties": {
                "overlap": {"type": "number"},
                "tiling": _TEXT,
                "mirror": {"type": "boolean"},
                "samples": {"type": ["integer", "null"]},
                "region_of_interest": {"anyOf": [{"type": "null"}, _numbers(6)]},
            },
        },
        "moments": _TEXT,
        "folds": {"type": "array", "items": {"type": ["integer", "string"]}},
        "device": _TEXT,
        "precision": _TEXT,
        "versions": {"type": "object", "additionalProperties": _TEXT_OR_NULL},
        "files": {"type": "object", "additionalProperties": _TEXT},
        "sha256": _TEXT,
    },
}
"""The form of `prediction.json` as a JSON Schema; what is not named here may be anything."""


class RecordError(ValueError):
    """The record is not as it should be; the message is a phrase such as "its organs[0].value is not valid"."""


def read_record(folder: Path) -> dict[str, Any]:
    """Read `prediction.json`, and make sure that it and the files it lists are as they were written.

    Raises:
        RecordError, JsonError, IntegrityError: They are not; the message is a phrase.
        OSError: It cannot be read.
    """
    record = read_object(folder / RECORD)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"it was written by another version of this program, {_short(record.get('schema_version'))}")
    check_seal(record)
    check_form(record)
    check_manifest(folder, record["files"])
    return record


def check_form(record: dict[str, Any]) -> None:
    """Check that a record has the form it should, so that its values can be used without further care.

    Raises:
        RecordError: It has not.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    if wrong := best_match(Draft202012Validator(FORMAT).iter_errors(record)):
        place = wrong.json_path.removeprefix("$").removeprefix(".") or "content"
        reason = f"is not {wrong.validator_value}" if wrong.validator in ("type", "const") else "is not as it should be"
        raise RecordError(f"its {_short(place)} {reason}")
    try:
        labels = [label_of(organ) for organ in record["organs"]]
        RegionSettings.from_dict(record["regions"]["settings"])
        datetime.fromisoformat(record["created"])
    except (SettingsError, TypeError, ValueError) as error:
        raise RecordError(_short(error)) from error
    for what in ("value", "name"):
        if len({getattr(label, what) for label in labels}) < len(labels):
            raise RecordError(f"two of its organs have the same {what}")


def label_of(organ: dict[str, Any]) -> Label:
    """An entry of a record's organs as a label.

    Raises:
        TypeError, ValueError: It is none.
    """
    return Label(**{name: organ[name] for name in ("value", "name", "colour", "terminology")})


def read_table(path: Path) -> list[dict[str, int | float | str]]:
    """Read `regions.csv`: rows with the keys `COLUMNS`, in order of rank.

    Raises:
        RecordError: It is not such a table.
        OSError: It cannot be read.
    """
    if path.stat().st_size > CSV_LIMIT:
        raise RecordError(f"{path.name} is larger than {CSV_LIMIT >> 20} MB")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise RecordError(f"{path.name} has other columns than {', '.join(COLUMNS)}")
            rows = [_row(row) for row in reader]
    except (csv.Error, TypeError, ValueError) as error:
        raise error if isinstance(error, RecordError) else RecordError(f"{path.name}: {_short(error)}") from error
    if [row["rank"] for row in rows] != list(range(1, len(rows) + 1)):
        raise RecordError(f"the ranks in {path.name} are not 1, 2, ...")
    return rows


def _row(row: dict[str, str]) -> dict[str, int | float | str]:
    if None in row or None in row.values():
        raise ValueError("a row has not as many fields as there are columns")
    return {name: _cell(name, row[name]) for name in COLUMNS}


def _cell(name: str, text: str) -> int | float | str:
    if name == "location":
        return text
    if name in ("rank", "label"):
        return int(text) if len(text) < 10 else _refuse(name, text)
    number = float(text)
    return number if math.isfinite(number) else _refuse(name, text)


def _refuse(name: str, text: str) -> int:
    raise ValueError(f"{name} is {text[:20]}")


def _short(text: Any) -> str:
    """At most a line of what may be anything."""
    line = " ".join(str(text).split())
    return line if len(line) <= 100 else f"{line[:97]}..."
