"""Match a segmentation that others have drawn with a model's labels, and hold it against the model's prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.geometry import hull, occupied
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.images.reader import ReadImage
from MoBUncertaintyLib.images.segmentations import Segmentation, Structure, read_segmentation, segmentation_digest
from MoBUncertaintyLib.model.card import Label, overlap
from MoBUncertaintyLib.model.terminology import TISSUE, terminology
from MoBUncertaintyLib.regions.agreement import dice, expected_agreement
from MoBUncertaintyLib.regions.findings import Checked, Second, plain_findings
from MoBUncertaintyLib.regions.prediction import Prediction

_LISTED = 5


@dataclass(frozen=True, eq=False)
class Drawing:
    """A segmentation with a model's labels: the label map (z, y, x), those labels, and sentences for the user.

    `second` is the label map of another one with which it is compared, in the labels that both have; default: none.
    """

    segmentation: np.ndarray
    labels: tuple[Label, ...]
    checked: Checked
    warnings: tuple[str, ...] = ()
    second: np.ndarray | None = None

    def compared(self, other: Drawing) -> Drawing:
        """Return it with another segmentation as its second; raises `ImageError` if they have no label in common."""
        names, warnings = f"{self.checked.name} and {other.checked.name}", [*self.warnings, *other.warnings]
        if self.checked.sha256 == other.checked.sha256:
            raise ImageError(f"{names} are the same segmentation; give another one to compare with.")
        ours, theirs = (
            {label.name: label.value for label in each.labels if (each.segmentation == label.value).any()}
            for each in (self, other)
        )
        both = {name: value for name, value in ours.items() if name in theirs}
        if not both:
            raise ImageError(f"{names} have no label of the model in common; name them alike.")
        if alone := sorted(ours.keys() ^ theirs.keys()):
            text = f"Not compared, since only one of {names} has it: {', '.join(alone)}; the other has background there"
            warnings.append(f"{text}, whatever else it has.")
        second = np.where(np.isin(other.segmentation, [*both.values()]), other.segmentation, np.uint8(0))
        overlap = {name: dice(self.segmentation, second, value) for name, value in both.items()}
        checked = replace(self.checked, second=Second(other.checked.name, other.checked.sha256, overlap))
        return replace(self, checked=checked, warnings=tuple(warnings), second=second)

    def held_against(self, prediction: Prediction) -> Prediction:
        """Return a prediction of the image, of all labels, with this segmentation in the place of its own.

        The maps of the labels that are not in it are left out. No interval is stated: those hold for predicted volumes.
        """
        wanted = {label.name for label in self.labels}
        channels = [place for place, label in enumerate(prediction.labels) if label.name in wanted]
        labels = tuple(prediction.labels[place] for place in channels)
        own, drawn = prediction.segmentation, self.segmentation
        findings, box = plain_findings(drawn, prediction, labels), hull([prediction.segmented_box, occupied(drawn)])
        overlaps = {label.name: dice(drawn[box], own[box], label.value) for label in labels}
        agreement = expected_agreement(prediction, drawn)
        return replace(
            prediction,
            segmentation=drawn,
            probability=[prediction.probability[place] for place in channels],
            variance=[prediction.variance[place] for place in channels],
            labels=labels,
            network_volumes={},
            checked=replace(self.checked, overlap=overlaps, findings=findings),
            second=self.second,
            agreement={name: expected for name, expected in agreement.items() if name in wanted},
        )


def read_drawing(
    path: Path, image: ReadImage, labels: Sequence[Label], names: Mapping[str, str], against: Path | None = None
) -> Drawing:
    """Read a segmentation of an image with the labels of a model, and a second one `against` which it is compared.

    Its structures are matched by `names` (theirs, and the model's), by name, by SNOMED-CT code or, in a label map
    without names, by value; of the second, by those of the `names` that it has. Raises `ImageError` if one cannot be
    read or nothing matches, and `SettingsError` for `names` that are not there, or a model whose labels overlap.
    """
    read = read_segmentation(path, image)
    if against is None:
        return drawing_of(read, printable(path.name), labels, names)
    other = read_segmentation(against, image)
    has, others = ({_plain(each.name) for each in one.structures} for one in (read, other))
    own = {theirs: ours for theirs, ours in names.items() if _plain(theirs) in has or _plain(theirs) not in others}
    shared = {theirs: ours for theirs, ours in names.items() if _plain(theirs) in others}
    first = drawing_of(read, printable(path.name), labels, own)
    first = replace(first, checked=replace(first.checked, mapped=_printable(names)))
    return first.compared(drawing_of(other, printable(against.name), labels, shared))


def drawing_of(
    read: Segmentation, source: str, labels: Sequence[Label], names: Mapping[str, str] | None = None
) -> Drawing:
    """Make the drawing of a segmentation that is read, from a source of that name; arguments and errors as above."""
    if overlap(labels):
        raise SettingsError("The labels of this model overlap, so no label map can be held against it; choose another.")
    matched = match(read, labels, names or {}, source)
    drawn, twice = np.zeros(0, np.uint8), 0
    for label, structure in matched:
        mask = structure.load()
        drawn = drawn if drawn.size else np.zeros(mask.shape, np.uint8)
        twice += int(np.count_nonzero(drawn[mask]))
        drawn[mask] = label.value
    if not drawn.any():
        raise ImageError(f"{source} is empty: no voxel has a label of the model; give another one.")
    warnings = []
    if twice:
        fraction = percent(twice / np.count_nonzero(drawn))
        warnings.append(f"Labels of {source} overlap in {fraction} of their voxels; the last one counts.")
    structures = [structure for _, structure in matched]
    unmatched = tuple(printable(each.name) for each in read.structures if each not in structures)
    called = {label.name: printable(structure.name) for label, structure in matched}
    checked = Checked(source, read.sha256, called, unmatched, mapped=_printable(names or {}))
    return Drawing(drawn, tuple(label for label, _ in matched), checked, tuple(warnings))


def is_of(
    checked: Mapping[str, Any] | None, path: Path | None, names: Mapping[str, str], against: Path | None = None
) -> bool:
    """Whether results, by what their record says was checked, are of these segmentations, or both of none."""
    if path is None or checked is None:
        return path is None and checked is None
    made, wanted = (
        {_plain(theirs): _plain(ours) for theirs, ours in _printable(mapped).items()}
        for mapped in (checked.get("mapped", {}), names)
    )
    digests = [checked["sha256"], (checked.get("second") or {}).get("sha256")]
    return made == wanted and digests == [segmentation_digest(path), against and segmentation_digest(against)]


def match(
    segmentation: Segmentation, labels: Sequence[Label], names: Mapping[str, str], source: str
) -> list[tuple[Label, Structure]]:
    """Find labels and their structures, in the labels' order; arguments and errors as for `read_drawing`."""
    structures = segmentation.structures
    matched: dict[str, Structure] = {}
    for theirs, ours in names.items():
        structure = _only([each for each in structures if _plain(each.name) == _plain(theirs)])
        label = _only([each for each in labels if _plain(each.name) == _plain(ours)])
        if structure is None or label is None:
            what, wrong, candidates = (source, theirs, structures) if structure is None else ("The model", ours, labels)
            raise SettingsError(f"{what} has no label {printable(wrong)!r} to map; it has {_list(candidates)}.")
        matched[label.name] = structure
    left = [each for each in structures if each not in matched.values()]
    nameless = all(each.name.isdecimal() for each in structures)
    ways: list[Callable[[Structure, Label], bool]] = [_same_name, _same_code]
    for same in [*ways, _same_value] if nameless else ways:
        for label in labels:
            fitting = [each for each in left if same(each, label)] if label.name not in matched else []
            if len(fitting) > 1:
                text = f"{source} has several labels for {printable(label.name)}: {_list(fitting)}"
                raise ImageError(f"{text}; choose one with --map THEIRS={printable(label.name)}.")
            if fitting:
                matched[label.name] = fitting[0]
                left.remove(fitting[0])
    if not matched:
        raise ImageError(
            f"{source} has no label of the model; name them alike, or with --map THEIRS=OURS (theirs: "
            f"{_list(structures)}; the model's: {_list(labels)})."
        )
    return [(label, matched[label.name]) for label in labels if label.name in matched]


def _printable(names: Mapping[str, str]) -> dict[str, str]:
    return {printable(theirs): printable(ours) for theirs, ours in names.items()}


def _only(fitting: Sequence[Any]) -> Any:
    return fitting[0] if len(fitting) == 1 else None


def _same_name(structure: Structure, label: Label) -> bool:
    return _plain(structure.name) == _plain(label.name)


def _same_code(structure: Structure, label: Label) -> bool:
    """Whether both are the same structure of the same side; where a file has no code, its name may tell it."""
    kind, modifier = structure.code, structure.modifier
    if kind in (None, TISSUE[:2]):  # which Slicer writes for whatever is drawn
        codes, _ = terminology(structure.name)
        kind, modifier = (code and code[:2] for code in (codes["type"], codes["modifier"]))
    own = [code and code[:2] for code in (label.terminology["type"], label.terminology["modifier"])]
    return kind != TISSUE[:2] and own == [kind, modifier]


def _same_value(structure: Structure, label: Label) -> bool:
    return structure.name == str(label.value)


def _plain(name: str) -> str:
    """Write a name as programs spell it differently: case, spaces, hyphens and underscores do not count."""
    return "".join(letter for letter in name.casefold() if letter not in " -_")


def _list(named: Sequence[Any]) -> str:
    names = [printable(each.name) for each in named]
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "") or "none"
