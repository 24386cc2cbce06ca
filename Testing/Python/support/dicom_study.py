"""What DICOM objects are made of, for tests that write them one by one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.dicom.objects import make_dicom_seg, make_parametric_map, make_structure_set
from MoBUncertaintyLib.output.dicom.study import Study, save
from MoBUncertaintyLib.regions.prediction import Prediction
from support.fake_case import PANCREAS, regions_of

MODEL = {"name": "Pancreas, MoB rank 4", "digest": "5e" * 32}


def study_of(
    files: Iterable[Path], segmentation: sitk.Image, labels: Sequence[Label], model: dict = MODEL, **changes: Any
) -> Study:
    """The study of a segmentation, its image from these files."""
    array = sitk.GetArrayFromImage(segmentation).astype(np.uint8)
    maps = np.zeros((len(labels), *array.shape), np.float32)
    prediction = Prediction(array, maps, maps, grid_of(segmentation), tuple(labels), {"model": model})
    regions = regions_of(np.zeros(array.shape, np.uint16), [])
    case = Case(segmentation, prediction, regions, Source(dicom_files=tuple(files)))
    return replace(Study.of(case, array), **changes)


def write_seg(
    path: Path,
    files: Iterable[Path],
    segmentation: sitk.Image,
    labels: Sequence[Label],
    binary: bool = False,
    **changes: Any,
) -> None:
    study = study_of(files, segmentation, labels, **changes)
    save(make_dicom_seg(study, study.equipment(9001, "Segmentation"), binary), path)


def write_map(path: Path, files: Iterable[Path], variance: sitk.Image, labels: Sequence[Label]) -> None:
    """The variance of the pancreas, as bright as 0.08."""
    study = study_of(files, variance * 0, labels)
    label = next(label for label in study.labels if label.value == PANCREAS.value)
    title = f"Predictive variance ({label.name})"
    made = study.equipment(9002, title)
    save(make_parametric_map(study, label, sitk.GetArrayFromImage(variance), title, made, 0.08), path)


def write_structures(
    path: Path, files: Iterable[Path], segmentation: sitk.Image, labels: Sequence[Label], **changes: Any
) -> None:
    study = study_of(files, segmentation, labels, **changes)
    save(make_structure_set(study, study.equipment(9005, "Segmentation")), path)
