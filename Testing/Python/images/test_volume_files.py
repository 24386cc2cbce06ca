"""Volume files as they come: damaged, cut short, with voxels elsewhere, without geometry. Refused, or named."""

from __future__ import annotations

import ast
import gzip
import math
import os
import random
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.reader import digest, read_image, read_volume
from MoBUncertaintyLib.images.volume_files import check_voxels
from MoBUncertaintyLib.images.volume_headers import read_header
from support.repository import tracked

PACKED = ("ct.nii.gz", "ct.nrrd", "ct.mha")
PLAIN = ("ct.nii", *PACKED[1:])
SCALES = {"scaled": (0.5, 3), "no slope": (0, 0), "intercept alone": (0, 3), "no numbers": (math.nan, math.nan)}
"""What is stored in the header as slope and intercept."""


def check_file(path: Path) -> list[str]:
    """Check a file whole, without keeping its voxels; warnings for the user."""
    header = read_header(path)
    return [*header.warnings, *check_voxels(header)[1]]


def volume(shape: tuple[int, ...] = (6, 8, 10)) -> sitk.Image:
    values = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((-10, 20, 5))
    return image


def written(path: Path, packed: bool, image: sitk.Image | None = None) -> Path:
    """A volume file."""
    sitk.WriteImage(volume() if image is None else image, path, packed)
    return path


def refused(path: Path) -> str:
    """Why a file is refused, by the check alone and when it is read."""
    with pytest.raises(ImageError, match=r"\.$") as checked:
        check_file(path)
    with pytest.raises(ImageError) as read:
        read_image(path)
    assert str(read.value) == str(checked.value)
    return str(read.value)


# --- voxels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PACKED, *PLAIN])
def test_intact_files_are_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, name in PACKED)
    assert check_file(path) == []
    read = read_image(path)
    assert read.warnings == []
    assert read.files == (path,) and read.sha256 == digest(path)
    assert np.array_equal(sitk.GetArrayFromImage(read.image), sitk.GetArrayFromImage(volume()))


@pytest.mark.parametrize("kind", [sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkInt64, sitk.sitkFloat64])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nrrd", "ct.mha"])
def test_other_kinds_of_voxels_are_counted_rightly(tmp_path: Path, name: str, kind: int) -> None:
    values = sitk.GetArrayFromImage(volume()) // 10 + 100
    path = written(tmp_path / name, False, sitk.Cast(sitk.GetImageFromArray(values), kind))
    assert check_file(path) == []
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path).image), values)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "|u1", "<u2", "<i4", "<f4", ">f8"])
@pytest.mark.parametrize("change", [*SCALES, "none", "four dimensions", "an extension"])
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii"])
def test_nifti_is_what_simpleitk_reads(tmp_path: Path, name: str, kind: str, change: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(kind)
    values = values[..., None] if change == "four dimensions" else values
    affine = np.array([[-0.7, 0, 0, 9], [0, 0, 2.5, -4], [0, 0.8, 0, 3], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(values, affine, nibabel.Nifti1Header(endianness=kind[0].replace("|", "<")))
    image.header.set_data_dtype(values.dtype)
    if change == "an extension":
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a long word " * 99))
    path = tmp_path / name
    nibabel.save(image, path)
    if scale := SCALES.get(change):
        content = bytearray(gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes())
        content[112:120] = struct.pack(f"{kind[0].replace('|', '<')}ff", *scale)
        path.write_bytes(gzip.compress(bytes(content)) if name.endswith("gz") else content)
    found, theirs = read_volume(path), sitk.ReadImage(str(path))
    for get in ("GetPixelID", "GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(found, get)() == getattr(theirs, get)()
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(theirs))


@pytest.mark.parametrize("kind", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkFloat32])
@pytest.mark.parametrize("neighbour", ["ct.nii", "CT.nii", "ct.hdr"])
def test_a_neighbour_of_nearly_the_same_name_is_not_read(tmp_path: Path, neighbour: str, kind: int) -> None:
    """As `gunzip -k` leaves it, and as it is then changed; SimpleITK reads the voxels of `ct.nii`."""
    image = sitk.Cast(volume() // 10 + 100, kind)
    sitk.WriteImage(image, tmp_path / "ct.nii.gz")
    sitk.WriteImage(image * 0, tmp_path / neighbour)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "ct.nii.gz")), sitk.GetArrayFromImage(image))
    if neighbour.endswith(".nii"):
        assert not sitk.GetArrayFromImage(read_volume(tmp_path / neighbour)).any()


def test_nothing_else_opens_an_image() -> None:
    """What is hashed is what is read only if one function reads: SimpleITK alone takes other files' voxels."""
    readers = {"ReadImage", "ImageFileReader", "ImageSeriesReader"}
    found: dict[str, list[str]] = {}
    for path in tracked("MoBUncertainty/*.py", "training/*.py"):
        names = [node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)]
        if used := sorted(readers & set(names)):
            found[path.name] = used
    # DICOM that pydicom cannot decompress is read by GDCM; what was just written, by what has written it.
    assert found == {"dicom.py": ["ReadImage"], "reader.py": ["ImageFileReader"], "segment_nrrd.py": ["ReadImage"]}


@pytest.mark.parametrize("name", PACKED)
def test_every_flipped_bit_of_a_compressed_stream_is_found(tmp_path: Path, name: str) -> None:
    """Or it is in a part of gzip's header that says nothing of the voxels."""
    path = written(tmp_path / name, True)
    content = path.read_bytes()
    start = 0 if name.endswith(".gz") else len(content) // 2
    rng = random.Random(name)
    found = 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[rng.randrange(start, len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = sitk.GetArrayFromImage(read_image(path).image)
        except ImageError as error:
            assert str(error).endswith(".")
            found += 1
        else:
            assert np.array_equal(read, sitk.GetArrayFromImage(volume()))
    assert found > 35


@pytest.mark.parametrize(("name", "packed"), [*((name, True) for name in PACKED), *((name, False) for name in PLAIN)])
def test_missing_voxels_are_refused(tmp_path: Path, name: str, packed: bool) -> None:
    """SimpleITK alone reads them as 0 from .nii and .mha files."""
    path = written(tmp_path / name, packed)
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{name} is truncated" in refused(path)


@pytest.mark.parametrize("name", PLAIN)
def test_bytes_behind_the_voxels(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, False)
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert check_file(path) == [f"{name} holds 1 bytes more than its voxels, which were ignored."]
    path.write_bytes(content + bytes(9999))
    assert "holds more than the 960" in refused(path) or "its header is wrong" in refused(path)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd"])
def test_gigabytes_of_zeros_behind_the_voxels_are_not_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, True)
    zeros = gzip.compress(bytes(1 << 24))
    with path.open("ab") as file:
        for _ in range(256):  # 4 GB
            file.write(zeros)
    start = time.process_time()
    assert "its header is wrong" in refused(path)
    assert time.process_time() - start < 5


def test_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "ct.nii", False)
    read = sitk.ImageFileReader.ReadImageInformation

    def read_and_replace(reader: sitk.ImageFileReader) -> None:
        read(reader)
        sitk.WriteImage(volume() + 1, path)

    monkeypatch.setattr(sitk.ImageFileReader, "ReadImageInformation", read_and_replace)
    with pytest.raises(ImageError, match=r"ct\.nii was changed while it was read; try again"):
        read_image(path)


# --- headers that name files -----------------------------------------------------------------------------------------

DETACHED = "has its voxels in another file, which is not read; save it as one file."


@pytest.mark.parametrize("name", ["ct.nhdr", "ct.mhd"])
def test_voxels_in_another_file_are_not_read(tmp_path: Path, name: str) -> None:
    assert DETACHED in refused(written(tmp_path / name, False))


@pytest.mark.parametrize("spelling", ["datafile:", "DATA FILE:", "Data  File :", "data file:="])
def test_voxels_of_a_header_in_any_spelling(tmp_path: Path, spelling: str) -> None:
    path = written(tmp_path / "ct.nrrd", False)
    path.write_bytes(path.read_bytes().replace(b"encoding:", f"{spelling} /etc/passwd\nencoding:".encode()))
    assert DETACHED in refused(path) or "header has the line" in refused(path)


@pytest.mark.parametrize(
    "line",
    [
        "ElementDataFile = LOcAL",  # a file of that name, SimpleITK says
        "ElementDataFile\t= LOCAL\nElementDataFile = /etc/passwd",
        "elementdatafile = LOCAL\nElementDataFile = /etc/passwd",
        "Comment = ElementDataFile = /etc/passwd",
        "Comment = a\rElementDataFile = /etc/passwd",
        "ElementDataFile = LOCAL\0",
    ],
)
def test_metaimage_headers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "ct.mha", False)
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile = LOCAL", line.encode()))
    assert "its header has the line" in refused(path) or DETACHED in refused(path)


@pytest.mark.parametrize("line", [" \ndata file: /etc/passwd", "# a\rdata file: /etc/passwd", "a:=b\0\ndata file: x"])
def test_nrrd_headers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "ct.nrrd", False)
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", f"{line}\nencoding: raw".encode()))
    assert "its header has the line" in refused(path)


@pytest.mark.parametrize("encoding", ["ascii", "text", "hex", "bzip2", "zrl"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path / "ct.nrrd", False)
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", f"encoding: {encoding}".encode()))
    assert f"has the encoding '{encoding}', which is not read; save it as raw or gzip." in refused(path)


def test_metaimage_as_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "ct.mha", False)
    path.write_bytes(path.read_bytes().replace(b"BinaryData = True", b"BinaryData = False"))
    assert "has its voxels as text" in refused(path)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha", "ct"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            listener.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        assert "is not a regular file" in refused(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ct.vtk"
    sitk.WriteImage(volume(), path)
    assert "ct.vtk is no NIfTI, NRRD, MetaImage or DICOM file; convert it" in refused(path)


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0, -352, 100, 352.5, 1e30, 3e38])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_nifti_voxels_that_begin_nowhere_are_refused(tmp_path: Path, name: str, value: float) -> None:
    path = written(tmp_path / "ct.nii", False)
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 108, value)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert "cannot begin at byte" in refused(tmp_path / name) or "is truncated" in refused(tmp_path / name)


@pytest.mark.parametrize("sizes", ["2048 2048 512", "99999999 9999999 9999999", "0 8 6", "-10 8 6", "1e3 8 6", ""])
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, sizes: str) -> None:
    for name, line in (("ct.mha", b"DimSize = "), ("ct.nrrd", b"sizes: ")):
        path = written(tmp_path / name, False)
        path.write_bytes(path.read_bytes().replace(line + b"10 8 6", line + sizes.encode()))
        for read in (check_file, read_image):
            with pytest.raises(ImageError, match=r"is truncated|its sizes are|is larger than"):
                read(path)


@pytest.mark.parametrize("stated", ["", "0", "9", "8x"])
def test_compressed_metaimage_that_states_another_length_is_refused(tmp_path: Path, stated: str) -> None:
    """SimpleITK alone makes an image of memory that nothing was written to."""
    path = written(tmp_path / "ct.mha", True)
    line = f"CompressedDataSize = {stated}\n" if stated else ""
    path.write_bytes(re.sub(rb"CompressedDataSize = \d+\n", line.encode(), path.read_bytes()))
    assert "CompressedDataSize" in refused(path) or "is truncated or damaged" in refused(path)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_endless_header_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((b"NRRD0004\n" if name == "ct.nrrd" else b"") + b"comment := or = field\n" * 500_000)
    start = time.process_time()
    assert "its header has no end" in refused(path)
    assert time.process_time() - start < 10


# --- geometry --------------------------------------------------------------------------------------------------------

AFFINE = np.array([[1.0, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])


def nifti(path: Path, qform: np.ndarray, sform: np.ndarray, codes: tuple[int, int] = (1, 1)) -> Path:
    image = nibabel.Nifti1Image(sitk.GetArrayFromImage(volume()).T, None)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    nibabel.save(image, path)
    return path


def rotated(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    return affine


@pytest.mark.parametrize("mirror", [np.diag([-1, 1, 1, 1.0]), np.diag([1, 1, -1, 1.0]), np.diag([-1, -1, 1, 1.0])])
def test_nifti_whose_orientations_contradict_each_other_is_refused(tmp_path: Path, mirror: np.ndarray) -> None:
    for name, pair in (("a.nii", (AFFINE, mirror @ AFFINE)), ("b.nii", (mirror @ AFFINE, AFFINE))):
        assert "states two orientations that contradict each other" in refused(nifti(tmp_path / name, *pair))


@pytest.mark.parametrize(
    ("make", "warning"),
    [
        (lambda path: nifti(path, AFFINE, AFFINE), None),
        (lambda path: nifti(path, AFFINE, AFFINE, (1, 0)), None),
        (lambda path: nifti(path, AFFINE, AFFINE, (0, 2)), None),
        (lambda path: nifti(path, AFFINE, rotated(0.5)), None),
        (lambda path: nifti(path, AFFINE, AFFINE, (0, 0)), "does not say where its voxels lie .* codes are 0"),
        (lambda path: nifti(path, AFFINE, rotated(20)), r"states two places \(qform and sform\), up to .* mm apart"),
        (
            lambda path: nifti(path, AFFINE, AFFINE * [2, 2, 2, 1]),
            r"states two voxel sizes, 1 x 2 x 3 mm \(pixdim\) and 2 x 4 x 6 mm \(sform\); volumes may be wrong",
        ),
    ],
)
def test_nifti_geometry_that_is_not_known(tmp_path: Path, make: Callable, warning: str | None) -> None:
    check_warnings(make(tmp_path / "ct.nii"), warning)


def check_warnings(path: Path, warning: str | None) -> None:
    found = read_image(path).warnings
    assert len(found) == (warning is not None)
    if warning:
        assert re.search(warning, found[0]), found[0]


UNKNOWN = r"does not say where its voxels lie in the patient \({}\): left and right may be exchanged"


@pytest.mark.parametrize(
    ("name", "change", "warning"),
    [
        ("ct.nrrd", (b"space: left-posterior-superior", b"space: RAS"), None),
        ("ct.nrrd", (b"space: left-posterior-superior", b"space: scanner-xyz"), UNKNOWN.format("its space is .*")),
        ("ct.nrrd", (b"space: left-posterior-superior", b"space dimension: 3"), UNKNOWN.format(".* names no space")),
        ("ct.nrrd", (b"kinds: domain", b'space units: "mm" "mm" "mm"\nkinds: domain'), None),
        (
            "ct.nrrd",
            (b"kinds: domain", b'space units: "m" "m" "m"\nkinds: domain'),
            "sizes in m; they were taken as mm",
        ),
        (
            "ct.mha",
            (b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b""),
            UNKNOWN.format(".* no TransformMatrix"),
        ),
        ("ct.mha", (b"ElementSpacing = 1 2 3\n", b""), UNKNOWN.format("its header has no ElementSpacing")),
    ],
)
def test_geometry_that_is_not_known(tmp_path: Path, name: str, change: tuple[bytes, bytes], warning: str) -> None:
    path = written(tmp_path / name, False)
    content = path.read_bytes()
    assert change[0] in content
    path.write_bytes(content.replace(*change))
    check_warnings(path, warning)


def test_nrrd_without_any_geometry(tmp_path: Path) -> None:
    path = tmp_path / "ct.nrrd"
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 10 8 6\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + sitk.GetArrayFromImage(volume()).tobytes())
    check_warnings(path, UNKNOWN.format("its header names no space"))
