"""A prediction as JSON: what stands in a results folder's `prediction.json`, read strictly.

With arrays beside it, and its regions, it is what the worker answers with, what an export is asked for with, and what
a scene is made from and keeps: `segmentation`, uint8 (z, y, x); `probability` and `variance`, float32, by the label's
value; `region_map`, uint16; `labels`; `regions` in order of rank; `provenance`, as in `prediction.json`, warnings and
settings of clicks included; and the `seconds` that each stage took.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import Grid, whole
from MoBUncertaintyLib.base.integrity import check_manifest, check_seal
from MoBUncertaintyLib.base.json_input import read_object
from MoBUncertaintyLib.base.schema import Range, from_json, out_of_range, to_json
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.drawn import Agreement
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.measurements.volumes import StatedVolume, VolumeBounds
from MoBUncertaintyLib.model.card import Label, overlap
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.covariance import LENGTH_RANGE, Covariance
from MoBUncertaintyLib.model.fingerprint import Suitability
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.findings import Checked
from MoBUncertaintyLib.regions.prediction import Maps, Prediction, PredictionSettings
from MoBUncertaintyLib.regions.region import Coverage, Discrepancy, Region, Regions

RECORD = "prediction.json"
SCHEMA = "mob-uncertainty results"
SCHEMA_VERSION = 1

Fields = dict[str, Any]
Amount = Annotated[float | None, Range(0)]

KEPT = ("labels", "regions", "provenance", "seconds")  # what a scene keeps as JSON; its nodes hold the rest


class RecordError(ValueError):
    """The record is not as it should be; the message is a phrase such as "its 'warnings' must be a list"."""


@dataclass(frozen=True)
class _Form:
    """A part of the record; entries that it does not name may be anything."""

    OPEN: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if problem := out_of_range(self):
            raise ValueError(problem)


@dataclass(frozen=True)
class _Input(_Form):
    """The image: a `Source`, and its grid."""

    name: str | None = None
    path: str | None = None
    sha256: str | None = None
    series: str | None = None
    channels: tuple[Mapping[str, str], ...] = ()
    size: tuple[int, int, int] = (1, 1, 1)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _Volume(_Form):
    """What the record says of a label beside the label itself."""

    volume_ml: Annotated[float, Range(0)]
    expected_error_ml: Amount = None
    interval_ml: Interval | None = None


@dataclass(frozen=True)
class _Regions(_Form):
    count: Annotated[int, Range(0)] = 0
    expected_error_mm3: Annotated[float, Range(0)] = 0.0
    settings: RegionSettings = field(default_factory=RegionSettings)
    coverage: Coverage | None = None
    ranked: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class _Record(_Form):
    """What `prediction.json` says; all of `NEEDED` must be in the file, less in a scene or on the wire."""

    created: datetime | None = None
    input: _Input = field(default_factory=_Input)
    labels: tuple[_Volume, ...] = ()
    expected_error_ml: Amount = None
    covariance: Covariance | None = None
    regions: _Regions = field(default_factory=_Regions)
    click_settings: ClickSettings = field(default_factory=ClickSettings)
    correlation_mm: tuple[float, float, float] | None = None
    shared_fraction: Annotated[float, Range(0, below=1)] = 0.0
    one_piece: tuple[str, ...] = ()
    network_mm: tuple[float, float, float] | None = None
    processed_box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None
    suitability: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    volume_bounds: VolumeBounds | None = None
    network_volumes: Mapping[str, StatedVolume] = field(default_factory=dict)
    checked: Checked | None = None
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: PredictionSettings = field(default_factory=PredictionSettings)
    channels: tuple[str, ...] = ()
    moments: str = ""
    folds: tuple[int | str, ...] = ()
    engine: str = ""
    device: str = ""
    computer: str = ""
    precision: str = ""
    versions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("correlation_mm", "network_mm"):
            if not all(LENGTH_RANGE[0] <= mm <= LENGTH_RANGE[1] for mm in getattr(self, name) or ()):
                raise ValueError(f"'{name}' is out of range")
        if any(index < 0 for axis in self.processed_box or () for index in axis):
            raise ValueError("'processed_box' is out of range")
        if any(min(volume.ml, volume.error_ml) < 0 for volume in self.network_volumes.values()):
            raise ValueError("'network_volumes' is out of range")


NEEDED = (
    "created", "input.size", "input.spacing_mm", "labels", "regions.count", "regions.expected_error_mm3",
    "regions.settings", "warnings", "files",
)  # fmt: skip


def _read(record: Any) -> _Record:
    try:
        return from_json(_Record, record)
    except (SettingsError, TypeError, ValueError) as error:
        raise RecordError(_short(error)) from error


def read_record(folder: Path) -> dict[str, Any]:
    """Read `prediction.json`, and make sure that it and the files it lists are as they were written.

    Raises `RecordError`, `JsonError` or `IntegrityError`, a phrase, if they are not, and `OSError`.
    """
    record = read_object(folder / RECORD)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"it was written by another version of this program, {_short(record.get('schema_version'))}")
    check_seal(record)
    _read(record)
    for name in NEEDED:
        part, _, entry = name.rpartition(".")
        if entry not in (record.get(part, {}) if part else record):
            raise RecordError(f"it lacks {name}")
    read_labels(record["labels"])
    check_manifest(folder, record["files"])
    return record


def record_of(prediction: Prediction) -> dict[str, Any]:
    """Convert to JSON what a prediction is beside its maps: what is in `prediction.json`, in scenes and on the wire."""
    part, suitability = prediction.predicted_part, prediction.suitability
    facts = {
        "covariance": prediction.covariance,
        "correlation_mm": prediction.correlation_mm,
        "shared_fraction": prediction.shared_fraction or None,
        "one_piece": prediction.one_piece or None,
        "network_mm": prediction.network_mm,
        "processed_box": part and [[axis.start, axis.stop] for axis in part],
        "suitability": suitability and suitability.to_dict(),
        "volume_bounds": prediction.stated_bounds,
        "network_volumes": prediction.network_volumes or None,
        "checked": prediction.checked,
        "agreement": prediction.agreement or None,
        "measured": prediction.measured or None,
    }
    return prediction.provenance | {
        **{name: to_json(fact) for name, fact in facts.items() if fact is not None},
        "regions": prediction.provenance.get("regions", {}) | {"settings": asdict(prediction.region_settings)},
        "click_settings": asdict(prediction.click_settings),
        "warnings": list(prediction.warnings),
    }


_FIELDS = (
    "covariance", "correlation_mm", "shared_fraction", "one_piece", "network_mm", "processed_box", "suitability",
    "volume_bounds", "network_volumes", "click_settings", "checked", "agreement", "measured",
)  # fmt: skip
_OF_THE_FILE = ("warnings", "files", "sha256")


def prediction_of(
    record: Mapping[str, Any], labels: tuple[Label, ...], maps: tuple[np.ndarray, Maps, Maps], grid: Grid
) -> Prediction:
    """Invert `record_of`, whose entries may be missing, with the maps: segmentation, probability and variance.

    Raises `RecordError` if an entry is not as it should be, and `ImageError` if the maps do not fit each other.
    """
    content = _read(record)
    try:
        suitability = None if content.suitability is None else Suitability.from_dict(content.suitability)
    except (TypeError, ValueError) as error:
        raise RecordError(_short(error)) from error
    return Prediction(
        *maps,
        grid,
        labels,
        {name: entry for name, entry in record.items() if name not in (*_FIELDS, *_OF_THE_FILE)},
        list(content.warnings),
        dict(content.timings_s),
        content.click_settings,
        overlapping=overlap(labels),
        predicted_part=content.processed_box and tuple(slice(*axis) for axis in content.processed_box),
        covariance=content.covariance,
        correlation_mm=content.correlation_mm,
        shared_fraction=content.shared_fraction,
        one_piece=content.one_piece,
        network_mm=content.network_mm,
        region_settings=content.regions.settings,
        suitability=suitability,
        stated_bounds=content.volume_bounds,
        network_volumes=content.network_volumes,
        checked=content.checked,
        agreement=content.agreement,
        measured=content.measured,
    )


def read_labels(entries: Any) -> tuple[Label, ...]:
    """Read the labels of a record or of a scene; raises `RecordError` if there are none, or two are alike."""
    try:
        own = [{each.name: entry[each.name] for each in fields(Label) if each.name in entry} for entry in entries]
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
    kinds = (Discrepancy if isinstance(each, Mapping) and "discrepancy" in each else Region for each in kept["regions"])
    ranked = tuple(from_json(kind, each, "a region") for kind, each in zip(kinds, kept["regions"], strict=True))
    return Regions(ranked, region_map, whole(region_map.shape), region_map.shape, settings)


def _short(text: Any) -> str:
    """Cut to a line what may be anything."""
    line = " ".join(str(text).split())
    return line if len(line) <= 100 else f"{line[:97]}..."
