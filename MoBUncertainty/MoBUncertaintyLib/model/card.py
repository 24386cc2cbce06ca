"""The card of a model, `model.json`: all about a model except its weights. Needs no torch."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import ModelError, SettingsError, require
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.measurements.volumes import VolumeCalibration
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.click_trees import TREES_FILE
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.fingerprint import Fingerprint
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings, check_stated

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 1

Fold = int | str
"""A fold of nnU-Net: 0, 1, ... or `"all"`."""

# The only files of a model folder, beside model.json, that are ever read.
GRAPH = "graph.json"
FOLD = r"0|[1-9][0-9]{0,2}|all"
MODEL_FILE = re.compile(
    rf"plans\.json|dataset\.json|{re.escape(TREES_FILE)}|fold_(?P<weights>{FOLD})/weights\.safetensors|"
    rf"fold_({FOLD})/graph\.json"
)

CODE_LENGTHS = (16, 16, 64)
"""Characters of a code's scheme, value and meaning: DICOM's short, short and long strings."""

NOT_STATED = "not stated"  # what a card says where nobody has said anything


@dataclass(frozen=True)
class Label:
    """A foreground class; raises `ValueError` for an attribute out of range.

    Where a model's labels overlap (nnU-Net's region-based training), `covers` are the values of the segmentation that
    belong to it, its own among them; else it is empty.
    """

    value: int  # in the segmentation, 1 to 255
    name: str  # as in `dataset.json`
    colour: tuple[int, int, int]  # red, green, blue; 0 to 255
    terminology: dict[str, tuple[str, str, str] | None]  # category, type, modifier: SNOMED-CT (scheme, code, meaning)
    covers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(1 <= self.value <= 255, f"label value {self.value} is not between 1 and 255")
        _require_line(self.name, f"the name of label {self.value}")
        where = f"of label '{self.name}'"
        require(all(0 <= part <= 255 for part in self.colour), f"the colour {where} must be numbers from 0 to 255")
        require(
            all(1 <= value <= 255 for value in self.covers) and (not self.covers or self.value in self.covers),
            f"what label '{self.name}' covers must be values from 1 to 255, its own among them",
        )
        codes = self.terminology
        require(
            codes.keys() == {"category", "type", "modifier"} and None not in (codes["category"], codes["type"]),
            f"the terminology {where} must have a category, a type and a modifier, which alone may be null",
        )
        for key, code in codes.items():
            require(
                code is None or _is_dicom_code(code),
                f"the terminology {key} {where} must be [scheme, code, meaning], printable text of at "
                f"most {', '.join(map(str, CODE_LENGTHS))} characters without backslash, as DICOM can hold it",
            )

    @property
    def values(self) -> tuple[int, ...]:
        """The values of the segmentation that belong to it."""
        return self.covers or (self.value,)

    def mask(self, segmentation: np.ndarray) -> np.ndarray:
        """Return where a segmentation has it, bool."""
        mask: np.ndarray = reduce(operator.or_, (segmentation == value for value in self.values))
        return mask


@dataclass(frozen=True)
class Pieces:
    """Mean Dice of a label over cases that trained nothing: of all its pieces, and without those that lie apart."""

    cases: int
    dice: float
    without: float

    def __post_init__(self) -> None:
        require(self.cases > 0 and 0 <= self.dice <= 1 and 0 <= self.without <= 1, "the Dice must be of cases, 0 to 1")

    @property
    def text(self) -> str:
        """The numbers in words."""
        return f"Dice {self.dice:.3f}, {self.without:.3f} without what lies apart, over {self.cases} cases"


@dataclass(frozen=True)
class ModelCard:
    """The description of a model; raises `ValueError` for an attribute out of range.

    The orientation is SimpleITK's DICOMOrient code of the arrays that the model was trained on: the axes of `RAS` run
    to right, anterior, superior. Default: stored axes are used as they are.
    """

    name: str
    task: str  # what it segments in which images, one sentence
    labels: tuple[Label, ...]  # foreground classes, in the order of the network's channels 1, 2, ...
    covariance: CovarianceSpec
    configuration: str  # of nnU-Net, for example `3d_fullres`
    orientation: str | None
    spacing: tuple[float, float, float]  # mm, at which the network works; x, y, z of the image in that orientation
    mirror_axes: tuple[int, ...] = ()  # axes of the network's input that were mirrored in training
    training: dict[str, Any] = field(default_factory=dict)  # data and settings
    scores: dict[str, Any] = field(default_factory=dict)  # with the data that they were measured on
    licence: str = NOT_STATED
    regions: dict[str, float] = field(default_factory=dict)  # settings that suit its organs, of `STATED_BY_MODELS`
    click_settings: ClickSettings = field(default_factory=ClickSettings)
    fingerprint: Fingerprint | None = None  # what ordinary cases look like, if cases are compared with them
    pieces: dict[str, Pieces] = field(default_factory=dict)  # of labels, by name, if that was measured
    volume_calibration: VolumeCalibration | None = None  # what intervals of volumes are made of, if they are stated
    files: dict[str, str] = field(default_factory=dict)  # path -> SHA-256, of all but `model.json`; none: a raw folder
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require_line(self.name, "'name'")
        for what, text in (("task", self.task), ("licence", self.licence)):
            require(text.isprintable(), f"'{what}' must be one line of printable text")
        _require_line(self.configuration, "'configuration'")
        values = [label.value for label in self.labels]
        different = len(set(values)) == len(values)
        require(
            bool(values) and (different if overlap(self.labels) else values == list(range(1, len(values) + 1))),
            "'labels' must have the values 1, 2, ... in this order or, if they overlap, different ones",
        )
        require(
            not overlap(self.labels) or self.covariance.kind is Covariance.DETERMINISTIC,
            "labels that overlap have no covariance",
        )
        require(
            self.orientation is None or _is_orientation(self.orientation),
            f"'orientation' must be three letters such as RAS, or null, not {self.orientation!r}",
        )
        require(all(0 < step < math.inf for step in self.spacing), "'spacing' must be three positive numbers in mm")
        different = len({0, 1, 2} & set(self.mirror_axes)) == len(self.mirror_axes)
        require(different, "'mirror_axes' must be different numbers out of 0, 1, 2")
        names = {label.name for label in self.labels}
        require(
            self.pieces.keys() <= names and not (self.pieces and overlap(self.labels)),
            "'pieces' must be of labels, and these must not overlap",
        )
        try:
            check_stated(self.regions)
        except SettingsError as error:
            raise ValueError(f"'regions' is wrong ({str(error).rstrip('.')})") from None
        for path, digest in self.files.items():
            require(MODEL_FILE.fullmatch(path) is not None, f"'files' lists {path!r}, which is not a model's file")
            require(re.fullmatch("[0-9a-f]{64}", digest) is not None, f"'files' has no SHA-256 for {path}")

    @property
    def region_settings(self) -> RegionSettings:
        """The region settings of its organs; the measure of a model without covariance is p (1 - p)."""
        without = self.covariance.kind is Covariance.DETERMINISTIC
        settings: dict[str, Any] = {**self.regions}
        return RegionSettings(Measure.BERNOULLI if without else Measure.VARIANCE, **settings)

    @property
    def one_piece(self) -> frozenset[str]:
        """Names of the labels of which what lies apart is taken back: it does not lower their mean Dice."""
        return frozenset(name for name, pieces in self.pieces.items() if pieces.without >= pieces.dice)

    def to_json(self) -> str:
        """Write the text of `model.json`; what was learned of clicks is in a file of its own."""
        own = replace(self, click_settings=replace(self.click_settings, learned=None))
        content = {"schema_version": self.schema_version} | to_json(own)
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def card_from_json(data: dict[str, Any], where: str) -> ModelCard:
    """Read a card strictly; raises `ModelError`, which names `where`, if it is not one of this schema version."""
    version: Any = data.get("schema_version")
    if not is_whole(version) or version < 1:
        raise ModelError(f"model.json in {where} does not say its schema version; export the model again.")
    if version > SCHEMA_VERSION:
        raise ModelError(
            f"{where} was made for a newer version of MoB Uncertainty (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); update MoB Uncertainty."
        )
    try:
        return from_json(ModelCard, data)
    except ValueError as error:
        raise ModelError(f"model.json in {where} cannot be used: {error}; export the model again.") from error


def read_pieces(values: dict[str, Any]) -> dict[str, Pieces]:
    """Read what JSON made of `ModelCard.pieces`; raises `SettingsError`."""
    try:
        return {name: from_json(Pieces, entry) for name, entry in values.items()}
    except ValueError as error:
        raise SettingsError(f"The file of pieces is invalid ({error}).") from error


def _is_dicom_code(code: tuple[str, str, str]) -> bool:
    """Whether DICOM can hold three strings unchanged: a backslash would separate two values."""
    return all(
        0 < len(part) <= length and part.isprintable() and part == part.strip() and "\\" not in part
        for part, length in zip(code, CODE_LENGTHS, strict=True)
    )


def _is_orientation(code: str) -> bool:
    """Whether a code has one letter of each of R/L, A/P and S/I, in any order."""
    axes = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    return len(code) == 3 and {axes.get(letter) for letter in code} == {0, 1, 2}


def _require_line(text: str, what: str) -> None:
    require(
        0 < len(text) <= 100 and text.isprintable() and text == text.strip(),
        f"{what} must be one line of 1 to 100 characters",
    )


def overlap(labels: Iterable[Label]) -> bool:
    """Whether a voxel can have several of the labels at once, as in nnU-Net's region-based training."""
    return any(label.covers for label in labels)


def chosen_labels(labels: tuple[Label, ...], names: Sequence[str] | None) -> tuple[Label, ...]:
    """Find labels by their names, in the model's order; all if no names are given."""
    there = [label.name for label in labels]
    if unknown := ", ".join(printable(name) for name in names or () if name not in there):
        raise SettingsError(f"The model has no label {unknown}; choose from {', '.join(there)}.")
    if names is None or set(there) <= set(names):
        return labels
    chosen = [label for label in labels if label.name in names]
    values = [label.value for label in chosen]
    covered = [tuple(value for value in label.covers if value in values) for label in chosen]
    return tuple(
        replace(label, covers=covers if len(covers) > 1 else ()) for label, covers in zip(chosen, covered, strict=True)
    )


def readable(name: str) -> str:
    """Write a label's name for people: "adrenal gland left" for `adrenal_gland_left`."""
    return name.replace("_", " ")
