"""CTs as DICOM files: classic slices and enhanced multi-frame, each with whatever a test makes of them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

SHAPE = (6, 10, 12)
SPACING = (0.7, 0.8)  # between rows, between columns
DISTANCE = 2.5
INTERCEPT = -1024

Change = Callable[[Dataset], Any]


def hounsfield(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Voxels, (slice, row, column)."""
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def write_slices(folder: Path, values: np.ndarray, changes: dict[int, Change] | None = None) -> list[Path]:
    """One file for each slice; `changes` are made to the datasets of some, by their index."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, slice_ in enumerate(values):
        dataset = _dataset(CTImageStorage, slice_.shape, f"1.2.3.4.{index + 1}")
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [-20, 30, 5 + DISTANCE * index]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = list(SPACING)
        dataset.RescaleIntercept, dataset.RescaleSlope = INTERCEPT, 1
        set_pixels(dataset, slice_ - INTERCEPT)
        paths.append(folder / f"{index:04}.dcm")
        save(dataset, paths[-1], (changes or {}).get(index) or (changes or {}).get(-1))
    return paths


def write_enhanced(path: Path, values: np.ndarray, change: Change | None = None) -> Path:
    """One file with a frame for each slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(EnhancedCTImageStorage, values.shape[1:], "1.2.3.4.1")
    dataset.NumberOfFrames = len(values)
    dataset.DimensionOrganizationSequence = [of(DimensionOrganizationUID="1.2.3.8")]
    dataset.DimensionIndexSequence = [
        of(DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113, DimensionOrganizationUID="1.2.3.8")
    ]
    dataset.SharedFunctionalGroupsSequence = [
        of(
            PixelMeasuresSequence=[of(PixelSpacing=list(SPACING), SliceThickness=DISTANCE)],
            PlaneOrientationSequence=[of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelValueTransformationSequence=[of(RescaleIntercept=INTERCEPT, RescaleSlope=1, RescaleType="HU")],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        of(
            PlanePositionSequence=[of(ImagePositionPatient=[-20, 30, 5 + DISTANCE * index])],
            FrameContentSequence=[of(DimensionIndexValues=[index + 1])],
        )
        for index in range(len(values))
    ]
    set_pixels(dataset, values - INTERCEPT)
    save(dataset, path, change)
    return path


def of(**elements: Any) -> Dataset:
    """A dataset of some elements."""
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def set_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Store values as they are, 16 bits, signed unless they do not fit."""
    dataset.PixelRepresentation = int(stored.max() < 2**15)
    dataset.PixelData = stored.astype(np.int16 if dataset.PixelRepresentation else np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"


def save(dataset: Dataset, path: Path, change: Change | None = None) -> None:
    if change:
        change(dataset)
    dataset.save_as(path, enforce_file_format=True)


def _dataset(kind: str, size: Sequence[int], uid: str) -> Dataset:
    dataset = of(
        SOPClassUID=kind,
        SOPInstanceUID=uid,
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.3.4",
        FrameOfReferenceUID="1.2.3.9",
        Modality="CT",
        SeriesDescription="portal venous",
        Rows=size[0],
        Columns=size[1],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write_series(folder: Path, image: sitk.Image, tags: dict[str, str] | None = None) -> list[Path]:
    """A slice a file, named in no order, as scanners do."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    names = random.Random(0).sample(range(1000), image.GetSize()[2])
    for k, name in enumerate(names):
        slice_ = image[:, :, k]
        cosines = np.reshape(image.GetDirection(), (3, 3))[:, :2].T.ravel()
        common = {
            "0008|0005": "ISO_IR 100",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.5.{k}",
            "0008|0060": "CT",
            "0010|0010": "Doe^Jane",
            "0010|0020": "id-7",
            "0018|0050": "5",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{x:.4f}" for x in image.TransformIndexToPhysicalPoint((0, 0, k))),
            "0020|0037": "\\".join(f"{x:.6f}" for x in cosines),
            "0020|0052": "1.2.3.6",
        }
        for tag, value in (common | (tags or {})).items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{name:03d}.dcm"))
        writer.Execute(slice_)
    return [folder / f"{name:03d}.dcm" for name in names]
