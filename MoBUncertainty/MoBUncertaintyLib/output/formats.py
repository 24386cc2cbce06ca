"""What results and exports can hold beside their record, and which of it is DICOM."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from MoBUncertaintyLib.base.errors import SettingsError


class Format(StrEnum):
    """What a reader can choose. DICOM objects are written in this order: a later one may refer to an earlier one."""

    REPORT = "report"
    """`report.html`, `report.csv` and, if there are clicks, `clicks.csv`."""
    SEGMENTATION = "segmentation"
    """`segmentation.seg.nrrd`, as corrected, and `regions.nrrd`, the label map of the regions."""
    NIFTI = "nifti"
    """`segmentation.nii.gz`, as corrected: a label map with the model's label values, as nnU-Net trains on."""
    DICOM_SEG = "dicom_seg"
    """`segmentation.dcm`: a label map, or binary if the model has one label."""
    DICOM_SEG_BINARY = "dicom_seg_binary"
    """`segmentation_binary.dcm`, for programs that read no label maps."""
    DICOM_SEG_FRACTIONAL = "dicom_seg_fractional"
    """`probability.dcm`: SEG of type FRACTIONAL."""
    RTSTRUCT = "rtstruct"
    """`structures.dcm`: contours for radiotherapy."""
    DICOM_SR = "dicom_sr"
    """`report.dcm`: Structured Report by TID 1500, on a DICOM segmentation, which it brings if there is none."""
    PARAMETRIC_MAP = "parametric_map"
    """`variance.dcm`; with several labels one for each."""


DICOM = {
    Format.DICOM_SEG: ("The DICOM segmentation", "segmentation.dcm"),
    Format.DICOM_SEG_BINARY: ("The binary DICOM segmentation", "segmentation_binary.dcm"),
    Format.DICOM_SEG_FRACTIONAL: ("The DICOM segmentation of probabilities", "probability.dcm"),
    Format.RTSTRUCT: ("The RT Structure Set", "structures.dcm"),
    Format.DICOM_SR: ("The DICOM structured report", "report.dcm"),
    Format.PARAMETRIC_MAP: ("The DICOM parametric map", "variance*.dcm"),
}
"""Name of each DICOM object, as the start of a sentence, and the pattern of its files."""

DEFAULT = (Format.REPORT, Format.SEGMENTATION)
OF_A_PREDICTION = tuple(kind for kind in DICOM if kind is not Format.DICOM_SR)
"""Of the DICOM objects, those that need no review."""


def read_formats(names: Iterable[str], offered: Collection[Format] = tuple(Format)) -> list[Format]:
    """Read formats, in the order of `Format`, hyphens for underscores; raises `SettingsError` for one not offered."""
    plain = {name.replace("-", "_") for name in names}
    if unknown := sorted(plain - set(offered)):
        wrong = option_names(unknown[:1])
        raise SettingsError(f"There is no format {wrong!r} here; choose from {option_names(offered)}.")
    return [kind for kind in Format if kind in plain]


def option_names(formats: Iterable[str]) -> str:
    """List formats as they are typed after `--format`."""
    return ", ".join(name.replace("_", "-") for name in formats)


def check_source(formats: Iterable[Format], files: Sequence[Path], instead: str) -> None:
    """Raise `SettingsError`, with what to do `instead`, for DICOM objects of an image without DICOM files."""
    if not files and (kind := next((kind for kind in formats if kind in DICOM), None)):
        reason = "because the image did not come from DICOM"
        raise SettingsError(f"{DICOM[kind][0]} cannot be written, {reason}; {instead}.")


def dicom_names(kind: Format, values: Sequence[int]) -> list[str]:
    """Name the files of a DICOM object; `values` are those of the labels."""
    pattern = DICOM[kind][1]
    if "*" not in pattern:
        return [pattern]
    return [pattern.replace("*", f"_{value}" if len(values) > 1 else "") for value in values]
