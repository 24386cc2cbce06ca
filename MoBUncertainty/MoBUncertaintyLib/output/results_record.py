"""A prediction as JSON: what stands in a results folder's `prediction.json`, read strictly.

With arrays beside it, and its regions, it is what the worker answers with, what an export is asked for with, and what
a scene is made from and keeps:

Entry            Content
---------------  ------------------------------------------------------------------------------------------------
`segmentation`   array, uint8 (z, y, x)
`probability`    array, float32 (z, y, x), by the label's value
`variance`       likewise
`region_map`     array, uint16 (z, y, x): the number of each voxel's region
`labels`         of the segmentation
`regions`        in order of rank
`provenance`     as in `prediction.json`, warnings and settings of clicks included
`seconds`        that each stage took
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import Grid, whole
from MoBUncertaintyLib.base.integrity import check_manifest, check_seal
from MoBUncertaintyLib.base.json_input import is_number, is_whole, read_object
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.measurements.volumes import VolumeBounds
from MoBUncertaintyLib.model.card import Label, overlap
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.covariance import LENGTH_RANGE, Covariance
from MoBUncertaintyLib.model.fingerprint import Suitability
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.prediction import Maps, Prediction
from MoBUncertaintyLib.regions.region import Coverage, Region, Regions

RECORD = "prediction.json"
SCHEMA = "mob-uncertainty results"
SCHEMA_VERSION = 1
TEXT_LIMIT = 10_000  # characters

Fields = dict[str, Any]

KEPT = ("labels", "regions", "provenance", "seconds")  # what a scene keeps as JSON; its nodes hold the rest


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT


def _is_text_or_null(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_count(value: Any) -> bool:
    return is_whole(value) and bool(value >= 0)


def _is_amount(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_length(value: Any) -> bool:
    return is_number(value) and LENGTH_RANGE[0] <= value <= LENGTH_RANGE[1]


FORM: dict[str, Any] = {
    "created": _is_text,
    "input": {
        "name": _is_text_or_null,
        "path": _is_text_or_null,
        "sha256": _is_text_or_null,
        "series": _is_text_or_null,
        "channels?": [{"name": _is_text, "path?": _is_text, "sha256": _is_text}],
        "size": (_is_positive, _is_positive, _is_positive),
        "spacing_mm": (_is_positive, _is_positive, _is_positive),
    },
    "labels": [
        {
            "volume_ml": _is_amount,
            "expected_error_ml?": _is_amount,
            "interval_ml?": {"low": _is_amount, "high": _is_amount, "level": _is_positive},
        }
    ],
    "expected_error_ml?": _is_amount,
    "covariance?": _is_text,
    "regions": {
        "count": _is_count,
        "expected_error_mm3": _is_amount,
        "settings": {},
        "coverage?": {},
    },
    "click_settings?": {},
    "correlation_mm?": (_is_length, _is_length, _is_length),
    "processed_box?": ((_is_count, _is_count), (_is_count, _is_count), (_is_count, _is_count)),
    "warnings": [_is_text],
    "timings_s?": {},
    "volume_bounds?": {},
    "files": {},
    "model?": {"name?": _is_text, "digest?": _is_text, "false_alarms?": _is_text},
    "settings?": {
        "overlap?": is_number,
        "tiling?": _is_text,
        "mirror?": lambda value: isinstance(value, bool),
        "labels?": lambda value: value is None or _fault(value, [_is_text]) is None,
        "region_of_interest?": lambda value: value is None or _fault(value, (is_number,) * 6) is None,
    },
    "channels?": [_is_text],
    "moments?": _is_text,
    "folds?": [lambda value: value == "all" or _is_count(value)],
    "engine?": _is_text,
    "device?": _is_text,
    "computer?": _is_text,
    "precision?": _is_text,
    "versions?": {},
}
"""The form of `prediction.json`: objects by their entries (`?`: may be missing), lists by what is in them, and tests of
values. What is not named here may be anything."""


def _fault(value: Any, form: Any, place: str = "", whole: bool = True) -> str | None:
    """Find the first place where a value has not its form; None: it has. Unless `whole`, entries may be missing."""
    if callable(form):
        return None if form(value) else place
    if not isinstance(value, dict if isinstance(form, dict) else list):
        return place
    if isinstance(form, dict):
        entries = [(name.rstrip("?"), part, whole and name[-1] != "?") for name, part in form.items()]
        inside = [(name, part) for name, part, needed in entries if needed or name in value]
        missing = next((name for name, _ in inside if name not in value), None)
        if missing:
            return f"{place}.{missing}"
        parts = [(value[name], part, f"{place}.{name}") for name, part in inside]
    else:
        if isinstance(form, tuple) and len(value) != len(form):
            return place
        forms = form if isinstance(form, tuple) else form * len(value)
        parts = [(each, part, f"{place}[{i}]") for i, (each, part) in enumerate(zip(value, forms, strict=True))]
    return next((fault for fault in (_fault(*part, whole) for part in parts) if fault is not None), None)


class RecordError(ValueError):
    """The record is not as it should be; the message is a phrase such as "its labels[0].value is not valid"."""


def read_record(folder: Path) -> dict[str, Any]:
    """Read `prediction.json`, and make sure that it and the files it lists are as they were written.

    Raises `RecordError`, `JsonError` or `IntegrityError`, a phrase, if they are not, and `OSError`.
    """
    record = read_object(folder / RECORD)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"it was written by another version of this program, {_short(record.get('schema_version'))}")
    check_seal(record)
    if fault := _fault(record, FORM):
        raise RecordError(f"its {fault.removeprefix('.')} is missing or invalid")
    read_labels(record["labels"])
    check_manifest(folder, record["files"])
    return record


def record_of(prediction: Prediction) -> dict[str, Any]:
    """Convert to JSON what a prediction is beside its maps: what is in `prediction.json`, in scenes and on the wire."""
    bounds, part, lengths = prediction.stated_bounds, prediction.predicted_part, prediction.correlation_mm
    facts: dict[str, Any] = {
        "covariance": prediction.covariance and prediction.covariance.value,
        "correlation_mm": lengths and list(lengths),
        "processed_box": part and [[axis.start, axis.stop] for axis in part],
        "suitability": prediction.suitability and prediction.suitability.to_dict(),
        "volume_bounds": bounds and to_json(bounds),
    }
    return prediction.provenance | {
        **{name: fact for name, fact in facts.items() if fact is not None},
        "regions": prediction.provenance.get("regions", {}) | {"settings": asdict(prediction.region_settings)},
        "click_settings": asdict(prediction.click_settings),
        "warnings": list(prediction.warnings),
    }


_FIELDS = ("covariance", "correlation_mm", "processed_box", "suitability", "volume_bounds", "click_settings")
_OF_THE_FILE = ("warnings", "files", "sha256")


def prediction_of(
    record: dict[str, Any], labels: tuple[Label, ...], maps: tuple[np.ndarray, Maps, Maps], grid: Grid
) -> Prediction:
    """Invert `record_of`, whose entries may be missing, with the maps: segmentation, probability and variance.

    Raises `RecordError` if an entry is not as it should be, and `ImageError` if the maps do not fit each other.
    """
    fault = _fault(record, FORM, whole=False)
    if fault is not None:
        raise RecordError(f"its {fault.removeprefix('.') or 'content'} is invalid")
    try:
        if "coverage" in record.get("regions", {}):
            Coverage(**record["regions"]["coverage"])
        if "created" in record:
            datetime.fromisoformat(record["created"])
        part, lengths, kind = (record.get(name) for name in ("processed_box", "correlation_mm", "covariance"))
        suitability, bounds = record.get("suitability"), record.get("volume_bounds")
        return Prediction(
            *maps,
            grid,
            labels,
            {name: entry for name, entry in record.items() if name not in (*_FIELDS, *_OF_THE_FILE)},
            list(record.get("warnings", [])),
            dict(record.get("timings_s", {})),
            ClickSettings.from_dict(record.get("click_settings", {})),
            overlapping=overlap(labels),
            predicted_part=part and tuple(slice(*axis) for axis in part),
            covariance=None if kind is None else Covariance(kind),
            correlation_mm=lengths and tuple(lengths),
            region_settings=RegionSettings.from_dict(record.get("regions", {}).get("settings", {})),
            suitability=None if suitability is None else Suitability.from_dict(suitability),
            stated_bounds=None if bounds is None else from_json(VolumeBounds, bounds, "the bounds of volumes"),
        )
    except (SettingsError, TypeError, ValueError) as error:
        raise RecordError(_short(error)) from error


def read_labels(entries: Any) -> tuple[Label, ...]:
    """Read the labels of a record or of a scene; raises `RecordError` if there are none, or two are alike."""
    try:
        names = {each.name for each in fields(Label)}
        own = [{name: value for name, value in entry.items() if name in names} for entry in entries]
        labels = tuple(from_json(Label, entry, "a label") for entry in own)
    except (AttributeError, TypeError, ValueError) as error:
        raise RecordError(f"its labels are invalid: {_short(error)}") from error
    if not labels:
        raise RecordError("it names no labels")
    for what in ("value", "name"):
        if len({getattr(label, what) for label in labels}) < len(labels):
            raise RecordError(f"two of its labels have the same {what}")
    return labels


def write_maps(prediction: Prediction, save: Callable[[str, np.ndarray], Any]) -> Fields:
    """Make the entries of the arrays; what `save` returns for a name and an array stands in the array's place."""

    def by_label(kind: str, maps: Maps) -> dict[str, Any]:
        named = zip(prediction.labels, maps, strict=True)
        return {str(label.value): save(f"{kind}_{label.value}", each) for label, each in named}

    return {
        "segmentation": save("segmentation", prediction.segmentation),
        "probability": by_label("probability", prediction.probability),
        "variance": by_label("variance", prediction.variance),
    }


def write_prediction(prediction: Prediction, regions: Regions, save: Callable[[str, np.ndarray], Any]) -> Fields:
    """Make all entries; arguments as for `write_maps`."""
    maps = write_maps(prediction, save) | {"region_map": save("region_map", regions.whole_map())}
    kept = {
        "labels": [asdict(label) for label in prediction.labels],
        "regions": [asdict(region) for region in regions.ranked],
        "provenance": record_of(prediction),
        "seconds": prediction.timings,
    }
    plain: Fields = json.loads(json.dumps(kept))
    return maps | plain  # tuples become lists, as they do on their way


def read_prediction(
    fields: Mapping[str, Any], grid: Grid, load: Callable[[Any], np.ndarray] = np.asarray
) -> Prediction:
    """Read the prediction of all its entries; `load` makes an array of what stands in its place.

    Raises `RecordError`, a phrase, and `ImageError` if the arrays do not fit each other.
    """
    try:
        values = [str(label.value) for label in read_labels(fields["labels"])]
        probability, variance = (
            [load(fields[kind][value]) for value in values] for kind in ("probability", "variance")
        )
        return make_prediction(fields, load(fields["segmentation"]), probability, variance, grid)
    except KeyError as error:
        raise RecordError(f"it lacks {error}") from error


def make_prediction(
    kept: Mapping[str, Any], segmentation: np.ndarray, probability: Maps, variance: Maps, grid: Grid
) -> Prediction:
    """Make the prediction of what a scene keeps of it, and of its arrays; errors as for `read_prediction`."""
    try:
        record, labels = kept["provenance"], read_labels(kept["labels"])
    except KeyError as error:
        raise RecordError(f"it lacks {error}") from error
    prediction = prediction_of(record, labels, (segmentation, probability, variance), grid)
    return prediction.annotated(timings=kept.get("seconds", {}))


def read_regions(kept: Mapping[str, Any], region_map: np.ndarray, settings: RegionSettings) -> Regions:
    """Read the regions with their map, as they were written; they were found with the prediction's settings."""
    ranked = tuple(map(Region.from_dict, kept["regions"]))
    return Regions(ranked, region_map, whole(region_map.shape), region_map.shape, settings)


def _short(text: Any) -> str:
    """Cut to a line what may be anything."""
    line = " ".join(str(text).split())
    return line if len(line) <= 100 else f"{line[:97]}..."
