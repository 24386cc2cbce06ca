"""The card of a model, `model.json`: everything about a model but its weights. Needs no torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from MoBUncertaintyLib.errors import ModelError, SettingsError
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings, check_stated

SCHEMA_VERSION = 1

Fold = int | str
"""A fold of nnU-Net: 0, 1, ... or `"all"`."""

# The only files of a model folder, beside model.json, that are ever read.
MODEL_FILE = re.compile(r"plans\.json|dataset\.json|fold_(?P<fold>0|[1-9][0-9]{0,2}|all)/weights\.safetensors")

CODE_LENGTHS = (16, 16, 64)
"""Characters of a code's scheme, value and meaning: DICOM's short, short and long strings."""

_KINDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object", type(None): "null"}


@dataclass(frozen=True)
class Label:
    """A foreground class.

    Attributes:
        value: In the segmentation, 1 to 255.
        name: As in `dataset.json`.
        colour: Red, green, blue; 0 to 255.
        terminology: `category`, `type` and `modifier` (or None), each (scheme, code, meaning), in SNOMED-CT, as DICOM
            can hold them.

    Raises:
        ValueError: One of them is not so.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
    terminology: dict[str, tuple[str, str, str] | None]

    def __post_init__(self) -> None:
        _require(_is(self.value, int) and 1 <= self.value <= 255, f"label value {self.value} is not between 1 and 255")
        _require_line(self.name, f"the name of label {self.value}")
        colour = tuple(self.colour)
        _require(
            len(colour) == 3 and all(_is(part, int) and 0 <= part <= 255 for part in colour),
            f"the colour of label '{self.name}' must be three whole numbers from 0 to 255",
        )
        object.__setattr__(self, "colour", colour)
        codes = _fields(
            self.terminology,
            f"the terminology of label '{self.name}'",
            category=(list, tuple),
            type=(list, tuple),
            modifier=(list, tuple, type(None)),
        )
        for key, code in codes.items():
            _require(
                code is None or _is_dicom_code(code),
                f"the terminology {key} of label '{self.name}' must be [scheme, code, meaning], printable text of at "
                f"most {', '.join(map(str, CODE_LENGTHS))} characters without backslash, as DICOM can hold it",
            )
        object.__setattr__(self, "terminology", {k: None if v is None else tuple(v) for k, v in codes.items()})


@dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes:
        name: Short name, one line.
        task: What it segments in what, one sentence, printable.
        labels: Foreground classes, in the order of the network's channels 1, 2, ...
        covariance: Kind and shape of the covariance head.
        configuration: nnU-Net configuration, for example `3d_fullres`.
        orientation: Orientation of the arrays the model was trained on (`RAS`: axes run to right, anterior, superior;
            SimpleITK's DICOMOrient code); None: stored axes are used as they are.
        spacing: Voxel size the network works at, mm; x, y, z of the image in that orientation.
        mirror_axes: Axes of the network's input that it was trained mirrored along; empty: none (left is not right).
        training: What it was trained on and how.
        scores: How well it does, and on what.
        licence: Licence of the weights, printable.
        regions: What counts as a doubtful region of what it segments (`region_settings.STATED_BY_MODELS`); what is not
            stated is as for abdominal organs.
        files: Path in the model folder -> SHA-256, for every file beside `model.json`; empty for a raw nnU-Net folder.
        schema_version: Of `model.json`.

    Raises:
        ValueError: One of them is not so.
    """

    name: str
    task: str
    labels: tuple[Label, ...]
    covariance: CovarianceSpec
    configuration: str
    orientation: str | None
    spacing: tuple[float, float, float]
    mirror_axes: tuple[int, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = "not stated"
    regions: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require_line(self.name, "'name'")
        for what, text in (("task", self.task), ("licence", self.licence)):
            _require(_is(text, str) and text.isprintable(), f"'{what}' must be one line of printable text")
        _require_line(self.configuration, "'configuration'")
        labels = tuple(self.labels)
        _require(
            [label.value for label in labels] == list(range(1, len(labels) + 1)) and bool(labels),
            "'labels' must have the values 1, 2, ... in this order",
        )
        object.__setattr__(self, "labels", labels)
        _require(
            self.orientation is None or _is_orientation(self.orientation),
            f"'orientation' must be three letters such as RAS, or null, not {self.orientation!r}",
        )
        spacing = tuple(self.spacing)
        _require(
            len(spacing) == 3 and all(_is(step, (int, float)) and 0 < step < math.inf for step in spacing),
            "'spacing' must be three positive numbers in mm",
        )
        object.__setattr__(self, "spacing", tuple(float(step) for step in spacing))
        axes = tuple(self.mirror_axes)
        _require(
            all(_is(axis, int) and axis in (0, 1, 2) for axis in axes) and len(set(axes)) == len(axes),
            "'mirror_axes' must be different numbers out of 0, 1, 2",
        )
        object.__setattr__(self, "mirror_axes", axes)
        numbers = all(_is(size, (int, float)) for size in self.regions.values())
        _require(numbers, "'regions' must hold numbers")
        try:
            check_stated(self.regions)
        except SettingsError as error:
            raise ValueError(f"'regions' is wrong ({str(error).rstrip('.')})") from None
        for path, digest in self.files.items():
            _require(MODEL_FILE.fullmatch(path) is not None, f"'files' lists {path!r}, which is no file of a model")
            _require(
                _is(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None,
                f"'files' gives {path} no SHA-256",
            )

    @property
    def region_settings(self) -> RegionSettings:
        """What counts as a doubtful region of what it segments; without a covariance p (1 - p) is the measure."""
        without = self.covariance.kind is Covariance.DETERMINISTIC
        return RegionSettings(Measure.BERNOULLI if without else Measure.VARIANCE, **self.regions)

    def to_json(self) -> str:
        """The text of `model.json`."""
        content = {"schema_version": self.schema_version} | asdict(self)
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def card_from_json(data: dict[str, Any], where: str) -> ModelCard:
    """Read a card strictly: every entry must be there, of its type, and none may be unknown.

    Args:
        data: Content of `model.json`.
        where: The model, as the user knows it, for messages.

    Raises:
        ModelError: It is not a card of this schema version.
    """
    version = data.get("schema_version")
    if not _is(version, int):
        raise ModelError(f"model.json in {where} does not say its schema version; export the model again.")
    if version > SCHEMA_VERSION:
        raise ModelError(
            f"{where} was made for a newer version of MoB Uncertainty (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); update MoB Uncertainty."
        )
    if version < 1:
        raise ModelError(f"model.json in {where} has the unknown schema version {version}; export the model again.")
    try:
        return _parse(data)
    except (ValueError, TypeError) as error:
        raise ModelError(f"model.json in {where} cannot be used: {error}; export the model again.") from error


def _parse(data: dict[str, Any]) -> ModelCard:
    fields = _fields(
        {"regions": {}} | data,  # cards that state none have those of abdominal organs
        "it",
        schema_version=int,
        name=str,
        task=str,
        labels=list,
        covariance=dict,
        configuration=str,
        orientation=(str, type(None)),
        spacing=list,
        mirror_axes=list,
        training=dict,
        scores=dict,
        licence=str,
        regions=dict,
        files=dict,
    )
    fields["labels"] = tuple(
        Label(**_fields(label, "a label", value=int, name=str, colour=list, terminology=dict))
        for label in fields["labels"]
    )
    fields["covariance"] = covariance_from_json(fields["covariance"])
    return ModelCard(**fields)


def covariance_from_json(data: Any) -> CovarianceSpec:
    """The covariance model as JSON states it; one that does not state its assignment has the hard one.

    Raises:
        ValueError: An entry is missing, unknown or out of range.
    """
    if isinstance(data, dict):
        data = {"assignment": "hard"} | data
    kinds = {"kind": str, "rank": int, "bases": int, "partitions": int, "scope": str, "assignment": str}
    return CovarianceSpec(**_fields(data, "'covariance'", **kinds))


def _fields(data: Any, what: str, **kinds: Any) -> dict[str, Any]:
    """The entries of an object, which must be exactly `kinds`, each of its type."""
    _require(isinstance(data, dict), f"{what} must be an object")
    for name, kind in kinds.items():
        _require(name in data, f"{what} lacks '{name}'")
        allowed = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(_KINDS[each] for each in allowed if each in _KINDS)
        _require(_is(data[name], allowed), f"'{name}' must be {names}")
    unknown = sorted(set(data) - set(kinds))
    _require(not unknown, f"{what} has an unknown entry '{unknown[0] if unknown else ''}'")
    return dict(data)


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """isinstance, but True and False are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_dicom_code(code: Any) -> bool:
    """Three texts that DICOM's strings can hold as they are: a backslash would part two values."""
    return len(code) == len(CODE_LENGTHS) and all(
        _is(part, str) and 0 < len(part) <= longest and part.isprintable() and part == part.strip() and "\\" not in part
        for part, longest in zip(code, CODE_LENGTHS, strict=True)
    )


def _is_orientation(code: Any) -> bool:
    """One letter out of each of R/L, A/P, S/I, in any order."""
    axes = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    return _is(code, str) and len(code) == 3 and {axes.get(letter) for letter in code} == {0, 1, 2}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_line(text: str, what: str) -> None:
    _require(
        _is(text, str) and 0 < len(text) <= 100 and text.isprintable() and text == text.strip(),
        f"{what} must be one line of 1 to 100 characters",
    )


def readable(name: str) -> str:
    """A label's name as people write it: `adrenal_gland_left` is the adrenal gland left."""
    return name.replace("_", " ")
