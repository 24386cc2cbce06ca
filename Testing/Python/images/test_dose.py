"""A dose is read in Gy where it was planned, whatever its grid, or refused in a sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTDoseStorage

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.dose import read_dose
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import ReadImage, read_image
from support import dicom_files as dicom

SCALE = 0.002


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> ReadImage:
    folder = tmp_path_factory.mktemp("ct")
    dicom.write_slices(folder, dicom.hounsfield())
    return read_image(folder)


def gray_at(ras: np.ndarray) -> np.ndarray:
    """A dose that is linear, so that interpolation changes nothing."""
    return 60 + ras @ (0.5, -0.25, 0.8)


def rtdose(path: Path, change: Callable[[Dataset], object] = lambda _: None) -> Path:
    """RT Dose on a grid of its own, which covers the CT."""
    heights = np.arange(2, 26, 3.0)
    z, y, x = np.meshgrid(heights, np.arange(20, 50, 2.0), np.arange(-30, 10, 2.5), indexing="ij")
    gray = gray_at(np.stack([-x, -y, z], axis=-1))
    dataset = dicom.of(
        SOPClassUID=RTDoseStorage, SOPInstanceUID="1.2.3.7", Modality="RTDOSE", FrameOfReferenceUID="1.2.3.9",
        Rows=gray.shape[1], Columns=gray.shape[2], NumberOfFrames=len(gray), SamplesPerPixel=1, BitsAllocated=16,
        BitsStored=16, HighBit=15, PixelRepresentation=0, PhotometricInterpretation="MONOCHROME2", DoseUnits="GY",
        DoseType="PHYSICAL", DoseSummationType="PLAN", DoseGridScaling=SCALE, PixelSpacing=[2.0, 2.5],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[-30, 20, heights[0]],
        GridFrameOffsetVector=(heights - heights[0]).tolist(),
    )  # fmt: skip
    dataset.PixelData = np.rint(gray / SCALE).astype(np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.save(dataset, path, change)
    return path


def from_the_head_down(dataset: Dataset) -> None:
    frames = dataset.pixel_array[::-1]
    dataset.PixelData = frames.tobytes()
    offsets = np.array(dataset.GridFrameOffsetVector, float)
    dataset.ImagePositionPatient = [-30, 20, 2 + offsets[-1]]
    dataset.GridFrameOffsetVector = (-offsets).tolist()


def at_heights(dataset: Dataset) -> None:
    dataset.GridFrameOffsetVector = [2 + offset for offset in dataset.GridFrameOffsetVector]


@pytest.mark.parametrize("change", [lambda _: None, from_the_head_down, at_heights])
def test_rt_dose_is_scaled_and_lies_where_it_was_planned(ct, tmp_path, change) -> None:
    gray = read_dose(rtdose(tmp_path / "dose.dcm", change), ct.image, ct.files)
    index = np.moveaxis(np.indices(gray.shape), 0, -1)
    np.testing.assert_allclose(gray, gray_at(grid_of(ct.image).to_ras(index)), atol=1.5 * SCALE)


@pytest.mark.parametrize(
    "change",
    [
        {"DoseUnits": "RELATIVE"},
        {"DoseType": "ERROR"},
        {"DoseSummationType": "BEAM"},
        {"FrameOfReferenceUID": "1.2.3.10"},
        {"GridFrameOffsetVector": [0, 3, 6, 9, 12, 15, 18, 24]},
        {"GridFrameOffsetVector": [0]},
        {"DoseGridScaling": 0.2},
        {"ImagePositionPatient": [-30, 20, 500]},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        {"PixelData": b"\0\0"},
        {"PixelSpacing": None},
    ],
    ids=str,
)
def test_what_is_no_dose_on_this_image_is_refused(ct, tmp_path, change) -> None:
    def damage(dataset: Dataset) -> None:
        for name, value in change.items():
            setattr(dataset, name, value)

    with pytest.raises(ImageError):
        read_dose(rtdose(tmp_path / "dose.dcm", damage), ct.image, ct.files)


def test_a_volume_file_on_the_image_is_taken_as_it_is_and_beyond_it_nothing_is_known(ct, tmp_path) -> None:
    dose = sitk.Cast(ct.image, sitk.sitkFloat32) * 0.01 + 20
    sitk.WriteImage(dose, tmp_path / "dose.nii.gz")
    read = read_dose(tmp_path / "dose.nii.gz", ct.image, ct.files)
    np.testing.assert_array_equal(read, sitk.GetArrayFromImage(dose))
    sitk.WriteImage(dose[:8], tmp_path / "part.nii.gz")
    part = read_dose(tmp_path / "part.nii.gz", ct.image, ct.files)
    np.testing.assert_allclose(part[..., :8], read[..., :8], rtol=1e-5)
    assert np.isnan(part[..., 9:]).all()


def test_stored_numbers_without_their_scale_are_refused(ct, tmp_path) -> None:
    sitk.WriteImage(sitk.Cast(ct.image, sitk.sitkFloat32) + 1500, tmp_path / "dose.nii.gz")
    with pytest.raises(ImageError, match="Gy"):
        read_dose(tmp_path / "dose.nii.gz", ct.image, ct.files)
