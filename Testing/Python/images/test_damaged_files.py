"""Damaged images are what other programs read in them, or refused in one sentence: no other error, and no long wait."""

import gzip
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.images.reader import ReadImage, check_image, read_image
from support.dicom_files import hounsfield, write_enhanced, write_slices
from support.mutations import flipped, mutant
from support.tiny import make_ct

SOME, MANY = 30, pytest.param(150, marks=pytest.mark.slow)
HEADERS = {"ct.nii": 352, "ct.nii.gz": 352, "raw.nrrd": 400, "packed.nrrd": 400, "raw.mha": 400, "packed.mha": 400}
HEADERS |= {"series": 900, "enhanced": 900}
"""Bytes of the header, where a file is mostly voxels."""
VOXELS = {"ct.nii.gz": b"", "packed.nrrd": b"\n\n", "packed.mha": b"ElementDataFile = LOCAL\n"}
"""What stands before the voxels of files with a checksum of these."""


def written(folder: Path, name: str) -> tuple[Path, Path]:
    """What is read, and the file that is damaged."""
    if name == "series":
        return folder, write_slices(folder, hounsfield())[3]
    if name == "enhanced":
        path = write_enhanced(folder / "ct.dcm", hounsfield())
    else:
        path = folder / name
        sitk.WriteImage(make_ct((28, 32, 32), (4.0, 4.0, 4.0)), path, name.startswith("packed") or name.endswith(".gz"))
    return path, path


def outcome(source: Path, whole: sitk.Image) -> str:
    """`refused`, `unchanged`, or `changed` as other programs say, too."""
    start = time.process_time()
    try:
        read, again = read_image(source), read_image(source)
        assert same(read.image, again.image) and read.sha256 == again.sha256
        if same(read.image, whole):
            return "unchanged"
        if read.is_dicom:
            assert np.allclose(voxels(read.image), as_pydicom_reads(source))
        else:
            given = as_simpleitk_reads(source, read)
            assert same(read.image, given) or any("not finite" in text for text in read.warnings)
        return "changed"
    except UserError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 600
        return "refused"
    finally:
        assert time.process_time() - start < 5


def same(one: sitk.Image, other: sitk.Image) -> bool:
    geometry = ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
    alike = all(np.array_equal(getattr(one, get)(), getattr(other, get)()) for get in geometry)
    return alike and np.array_equal(*map(sitk.GetArrayViewFromImage, (one, other)), equal_nan=True)


def voxels(image: sitk.Image) -> np.ndarray:
    """From below, whatever the direction of the axis."""
    values = sitk.GetArrayViewFromImage(image)
    return values[:: -1 if image.GetDirection()[8] < 0 else 1]


def as_simpleitk_reads(source: Path, read: ReadImage) -> sitk.Image:
    with tempfile.TemporaryDirectory() as folder:  # alone, since SimpleITK takes a neighbour's voxels
        for file in read.files:
            shutil.copy(file, folder)
        return check_image(sitk.ReadImage(Path(folder, source.name)))[0]


def as_pydicom_reads(source: Path) -> np.ndarray:
    """Voxels of a folder of slices, from below, or of an enhanced file, each slice with its own rescaling."""
    slices = []
    for file in [source] if source.is_file() else source.iterdir():
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [dataset]
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [dataset])[0]
        rescale = (shared.get("PixelValueTransformationSequence") or [dataset])[0]
        slope, intercept = float(rescale.get("RescaleSlope", 1)), float(rescale.get("RescaleIntercept", 0))
        frames = np.reshape(dataset.pixel_array, (-1, *dataset.pixel_array.shape[-2:]))
        for group, values in zip(groups, frames, strict=True):
            place = (group.get("PlanePositionSequence") or [dataset])[0].ImagePositionPatient[2]
            slices.append((place, values * slope + intercept))
    return np.stack([values for _, values in sorted(slices, key=lambda each: each[0])])


@pytest.mark.parametrize("count", [SOME, MANY])
@pytest.mark.parametrize("name", HEADERS)
def test_files_changed_in_any_way(tmp_path: Path, name: str, count: int) -> None:
    source, path = written(tmp_path, name)
    whole, content, chance = read_image(source).image, path.read_bytes(), random.Random(f"12 mutants {path.name}")
    packed = name.endswith(".gz")
    content = gzip.decompress(content) if packed else content
    outcomes = []
    for _ in range(count):
        damaged = mutant(content, chance, HEADERS[name])
        path.write_bytes(gzip.compress(damaged, 1) if packed else damaged)
        outcomes.append(outcome(source, whole))
    assert "refused" in outcomes


@pytest.mark.parametrize("count", [SOME, MANY])
@pytest.mark.parametrize("name", HEADERS)
def test_one_flipped_bit(tmp_path: Path, name: str, count: int) -> None:
    """Where a checksum covers the voxels, they are never others."""
    source, path = written(tmp_path, name)
    whole, content, chance = read_image(source).image, path.read_bytes(), random.Random(f"12 flipped {name}")
    mark = VOXELS.get(name)
    start = 0 if mark is None else content.index(mark) + len(mark)
    for _ in range(count):
        path.write_bytes(flipped(content, chance, start))
        found = outcome(source, whole)
        assert mark is None or found != "changed"
