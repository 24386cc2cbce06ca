"""The variance as DICOM Parametric Map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.dicom.common import VARIANCE_SERIES_NUMBER, code_of, equipment, line, own_code, save
from MoBUncertaintyLib.output.dicom.series import DicomSeries, read_series
from MoBUncertaintyLib.regions.settings import MAX_VARIANCE

if TYPE_CHECKING:
    import SimpleITK as sitk

# DICOM has codes for several variances, none of them for that of a predicted probability.
PREDICTIVE_VARIANCE = own_code("PREDVAR", "Predictive variance of the organ's probability")

_SIDES = {codes.SCT.Left.value: "L", codes.SCT.Right.value: "R", codes.SCT.RightAndLeft.value: "B"}


def write_parametric_map(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    variance: sitk.Image,
    *,
    model: Mapping[str, Any],
    brightest: float,
    label: Label,
    named: bool = False,
) -> None:
    """Write the variance as DICOM Parametric Map: float32, without unit.

    Slices above and below all variance have no frame: voxels are not compressed, and organs are small.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        variance: Scalar, float32, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        model: `name` and `digest` of the model.
        brightest: Variance that viewers show as white, 0 being black.
        label: The label whose variance it is.
        named: Name it in the description, since there are several.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, or the file cannot be written.
    """
    series = read_series(files)
    whole = series.frames(variance).astype(np.float32, copy=False)
    part = _extent(whole, series)
    description = f"Predictive variance ({label.name})" if named else "Predictive variance"
    parametric_map = ParametricMap(
        source_images=series.datasets if len(series.datasets) == 1 else series.datasets[part],
        pixel_array=np.ascontiguousarray(whole[part]),
        plane_positions=[
            highdicom.PlanePositionSequence(highdicom.CoordinateSystemNames.PATIENT, position.tolist())
            for position in series.positions[part]
        ],
        series_number=VARIANCE_SERIES_NUMBER,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="VARIANCE",
                lut_explanation=line(description),
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, MAX_VARIANCE),
                slope=1.0,
                intercept=0.0,
                quantity_definition=PREDICTIVE_VARIANCE,
            )
        ],
        content_description=line(description),
        # Any other function demands a window of at least 1.
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(brightest / 2, brightest, voi_lut_function="LINEAR_EXACT")
        ],
        **equipment(model, description),
    )
    parametric_map.ContentCreatorName = None  # may be empty, not missing
    for name in ("BodyPartExamined", "Laterality"):  # of the series, where the CT states them
        if value := series.datasets[0].get(name):
            setattr(parametric_map, name, value)
    # Neither is demanded, but dcmqi, which reads parametric maps in 3D Slicer, crashes without the one, and turns the
    # map upside down without the other.
    parametric_map.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy(label)]
    _order_frames(parametric_map, series.orientation[:, 2])
    save(parametric_map, path)


def _extent(frames: np.ndarray, series: DicomSeries) -> slice:
    """Find the frames, in order of their positions, from the first to the last that hold anything; two at least."""
    if len(series.datasets) == 1:  # the frames of one file lie in any order
        return slice(None)
    used = np.flatnonzero(frames.any(axis=(1, 2)))
    start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    start = min(start, len(frames) - 2)
    return slice(start, max(stop, start + 2))


def _anatomy(label: Label) -> Dataset:
    """Say which organ a map is about, and of which side; an organ whose code names no side counts as unpaired."""
    modifier = code_of(label, "modifier")
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [code_of(label, "type")]
    anatomy.FrameLaterality = _SIDES.get(modifier.value if modifier else "", "U")
    return anatomy


def _order_frames(parametric_map: ParametricMap, normal: np.ndarray) -> None:
    """Store the frames in the order of their positions along the slices' normal."""
    groups = parametric_map.PerFrameFunctionalGroupsSequence
    heights = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float) @ normal
    order = np.argsort(heights, kind="stable")
    frames = np.frombuffer(parametric_map.FloatPixelData, "<f4").reshape(len(groups), -1)
    parametric_map.FloatPixelData = frames[order].tobytes()
    parametric_map.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    for number, group in enumerate(parametric_map.PerFrameFunctionalGroupsSequence, 1):
        group.FrameContentSequence[0].DimensionIndexValues = number
