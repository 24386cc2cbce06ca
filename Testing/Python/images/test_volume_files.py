"""Volume files as they come: damaged, cut short, with voxels elsewhere, without geometry. Refused, or named."""

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
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.images.reader import digest, read_image, read_volume
from support.marks import needs_posix
from support.repository import tracked

PACKED = ("ct.nii.gz", "ct.nrrd", "ct.mha")
PLAIN = ("ct.nii", *PACKED[1:])
FILES = [*((name, True) for name in PACKED), *((name, False) for name in PLAIN)]
SCALES = {"scaled": (0.5, 3), "no slope": (0, 0), "intercept alone": (0, 3), "no numbers": (math.nan, math.nan)}
"""What is stored in the header as slope and intercept."""


def volume(shape: tuple[int, ...] = (6, 8, 10)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16))
    image.SetSpacing((1, 2, 3, 1)[: len(shape)])
    image.SetOrigin((-10, 20, 5, 0)[: len(shape)])
    return image


def written(path: Path, packed: bool = False, image: sitk.Image | None = None) -> Path:
    sitk.WriteImage(volume() if image is None else image, path, packed)
    return path


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The file with something else in its header."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def packed_into(path: Path, form: str, offset: int, *values: Any) -> Path:
    """A NIfTI file with other numbers at an offset of its header."""
    zipped = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def refused(path: Path) -> str:
    """Why a file is refused."""
    with pytest.raises(ImageError, match=r"\.$") as error:
        read_image(path)
    return str(error.value)


def check_as_simpleitk(path: Path) -> None:
    ours, theirs = read_volume(path), sitk.ReadImage(str(path))
    theirs = theirs[:, :, :, 0] if theirs.GetDimension() == 4 else theirs
    for get in ("GetPixelID", "GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, get)() == getattr(theirs, get)()
    assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))


# --- voxels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "packed"), FILES)
def test_intact_files_are_read(tmp_path: Path, name: str, packed: bool) -> None:
    image = volume()
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    path = written(tmp_path / name, packed, image)
    read = read_image(path)
    assert read.warnings == []
    assert read.files == (path,) and read.sha256 == digest(path) and not read.is_dicom
    assert np.array_equal(sitk.GetArrayFromImage(read.image), sitk.GetArrayFromImage(image))
    assert read.image.GetPixelID() == sitk.sitkInt16
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(read.image, get)() == pytest.approx(getattr(image, get)(), abs=1e-6)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "|u1", "<u2", "<i4", "<f4", ">f8"])
@pytest.mark.parametrize("change", [*SCALES, "none", "four dimensions", "an extension"])
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii"])
def test_nifti_is_what_simpleitk_reads(tmp_path: Path, name: str, kind: str, change: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(kind)
    values = values[..., None] if change == "four dimensions" else values
    affine = np.array([[-0.7, 0, 0, 9], [0, 0, 2.5, -4], [0, 0.8, 0, 3], [0, 0, 0, 1]])
    order = kind[0].replace("|", "<")
    image = nibabel.Nifti1Image(values, affine, nibabel.Nifti1Header(endianness=order))
    image.header.set_data_dtype(values.dtype)
    if change == "an extension":
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a long word " * 99))
    path = tmp_path / name
    nibabel.save(image, path)
    if scale := SCALES.get(change):
        packed_into(path, f"{order}ff", 112, *scale)
    check_as_simpleitk(path)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("name", "packed"), [file for file in FILES if ".nii" not in file[0]])
def test_nrrd_and_metaimage_are_what_simpleitk_reads(
    tmp_path: Path, name: str, packed: bool, kind: str, big: bool
) -> None:
    values = (sitk.GetArrayFromImage(volume()) // 10 + 100).astype(kind)
    path = written(tmp_path / name, packed, sitk.GetImageFromArray(values))
    if big and b"endian: little" in path.read_bytes():
        replaced(path, b"endian: little", b"endian: big")
    elif big and name == "ct.mha":
        replaced(path, b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    check_as_simpleitk(path)
    if not big:
        assert np.array_equal(sitk.GetArrayFromImage(read_image(path).image), values)


@pytest.mark.parametrize("name", ["Bäuche 臓.nii.gz", "Bäuche.seg.nrrd", "臓.mha", "ct.nii"])
def test_simpleitk_opens_no_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On Windows it cannot open every name, and it may take the voxels of another file."""
    names: list[str] = []

    class Reader(sitk.ImageFileReader):
        def SetFileName(self, path: Any) -> None:  # noqa: N802 - SimpleITK's
            names.append(path)
            super().SetFileName(path)

    (tmp_path / "Müller").mkdir()
    path = written(tmp_path / "Müller" / name, name != "ct.nii")
    monkeypatch.setattr(sitk, "ImageFileReader", Reader)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path).image), sitk.GetArrayFromImage(volume()))
    assert names and all("Müller" not in opened and Path(opened).name.isascii() for opened in names)


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
    """What is hashed is what is read only if one function reads."""
    readers = {"ReadImage", "ImageFileReader", "ImageSeriesReader"}
    users: dict[str, list[str]] = {}
    for path in tracked("MoBUncertainty/*.py", "training/*.py"):
        calls = (node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
        if used := sorted(readers & {call.attr for call in calls if isinstance(call, ast.Attribute)}):
            users[path.name] = used
    # GDCM reads DICOM that pydicom cannot unpack; of volumes it is the header alone, and layers of segments; what was
    # just written is compared.
    assert users == {
        "dicom.py": ["ReadImage"],
        "volume_headers.py": ["ImageFileReader"],
        "segmentations.py": ["ReadImage"],
        "segment_nrrd.py": ["ReadImage"],
    }


@pytest.mark.parametrize("name", PACKED)
def test_every_flipped_bit_of_a_compressed_stream_is_found(tmp_path: Path, name: str) -> None:
    """Or it is in a part of gzip's header that says nothing of the voxels."""
    path = written(tmp_path / name, True)
    content = path.read_bytes()
    start = 0 if name.endswith(".gz") else len(content) // 2
    rng = random.Random(name)
    refusals = 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[rng.randrange(start, len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = sitk.GetArrayFromImage(read_image(path).image)
        except ImageError as error:
            assert str(error).endswith(".")
            refusals += 1
        else:
            assert np.array_equal(read, sitk.GetArrayFromImage(volume()))
    assert refusals > 35


@pytest.mark.parametrize(("name", "packed"), FILES)
@pytest.mark.parametrize("missing", [1, 300])
def test_missing_voxels_are_refused(tmp_path: Path, name: str, packed: bool, missing: int) -> None:
    """SimpleITK alone reads them as 0 from .nii and .mha files."""
    path = written(tmp_path / name, packed)
    path.write_bytes(path.read_bytes()[:-missing])
    assert f"{name} is truncated" in refused(path)


@pytest.mark.parametrize("name", PLAIN)
def test_bytes_behind_the_voxels(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert read_image(path).warnings == [f"{name} contains 1 extra bytes after its voxels, which were ignored."]
    path.write_bytes(content + bytes(9999))
    assert "export it again" in refused(path)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd"])
def test_gigabytes_of_zeros_behind_the_voxels_are_not_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, True)
    zeros = gzip.compress(bytes(1 << 24))
    with path.open("ab") as file:
        for _ in range(256):  # 4 GB
            file.write(zeros)
    start = time.process_time()
    assert "export it again" in refused(path)
    assert time.process_time() - start < 5


def test_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "ct.nii")
    read = sitk.ImageFileReader.ReadImageInformation

    def read_and_replace(reader: sitk.ImageFileReader) -> None:
        read(reader)
        written(path, image=volume() + 1)

    monkeypatch.setattr(sitk.ImageFileReader, "ReadImageInformation", read_and_replace)
    assert "ct.nii changed while it was being read" in refused(path)


def test_nan_in_a_nifti_file_is_not_mistaken_for_water(tmp_path: Path) -> None:
    """SimpleITK alone reads it as 0 HU, without a word."""
    values = np.random.default_rng(0).normal(40, 10, (6, 7, 8)).astype(np.float32)
    values[0] = -1000
    values[1, 2, 3], values[4, 5, 6] = np.nan, np.inf
    read = read_image(written(tmp_path / "ct.nii.gz", image=sitk.GetImageFromArray(values)))
    array = sitk.GetArrayFromImage(read.image)
    assert array[1, 2, 3] == array[4, 5, 6] == -1024
    assert array[1, 2, 2] == values[1, 2, 2]
    assert len(read.warnings) == 1


# --- headers that name files -----------------------------------------------------------------------------------------

DETACHED = "has its voxels in another file, which is not supported; save it as one file."


@pytest.mark.parametrize("name", ["ct.nhdr", "ct.mhd"])
def test_voxels_in_another_file_are_not_read(tmp_path: Path, name: str) -> None:
    assert DETACHED in refused(written(tmp_path / name))


AMBIGUOUS = {
    "ct.mha": [
        "ElementDataFile = LOcAL",  # a file of that name, SimpleITK says
        "ElementDataFile\t= LOCAL\nElementDataFile = /etc/passwd",
        "elementdatafile = LOCAL\nElementDataFile = /etc/passwd",
        "Comment = ElementDataFile = /etc/passwd",
        "Comment = a\rElementDataFile = /etc/passwd",
        "ElementDataFile = LOCAL\0",
    ],
    "ct.nrrd": [
        *(f"{name} /etc/passwd\nencoding: raw" for name in ("datafile:", "DATA FILE:", "Data  File :", "data file:=")),
        " \ndata file: /etc/passwd\nencoding: raw",
        "# a\rdata file: /etc/passwd\nencoding: raw",
        "a:=b\0\ndata file: x\nencoding: raw",
    ],
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in AMBIGUOUS.items() for line in lines])
def test_headers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, name: str, line: str) -> None:
    last = b"ElementDataFile = LOCAL" if name == "ct.mha" else b"encoding: raw"
    reason = refused(replaced(written(tmp_path / name), last, line.encode()))
    assert "its header has the line" in reason or DETACHED in reason


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        *(("ct.nrrd", "encoding: raw", f"encoding: {kind}") for kind in ("ascii", "text", "hex", "bzip2", "zrl")),
        ("ct.nrrd", "encoding: raw", "byte skip: 8\nencoding: raw"),
        ("ct.mha", "BinaryData = True", "BinaryData = False"),
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, name: str, old: str, new: str) -> None:
    assert "which is not supported; save it" in refused(replaced(written(tmp_path / name), old.encode(), new.encode()))


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha", "ct"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@needs_posix
def test_what_is_no_regular_file_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = Path(name)
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            listener.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        assert "is not a regular file" in refused(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    assert "is not a NIfTI, NRRD, MetaImage or DICOM file" in refused(written(tmp_path / "ct.vtk"))
    assert "does not exist" in refused(tmp_path / "nowhere.nii.gz")


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha"])
def test_text_file_with_an_image_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is not an image. " * 100)
    assert refused(tmp_path / name).startswith(f"{name} is not a readable")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0, -352, 100, 352.5, 1e30, 3e38])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_nifti_voxels_that_begin_nowhere_are_refused(tmp_path: Path, name: str, value: float) -> None:
    reason = refused(packed_into(written(tmp_path / name), "<f", 108, value))
    assert "cannot begin at byte" in reason or "is truncated" in reason


def test_nifti_that_simpleitk_takes_for_analyze_is_refused(tmp_path: Path) -> None:
    """It has no place in the patient then."""
    assert "it has no header" in refused(packed_into(written(tmp_path / "ct.nii"), "<4s", 344, b"n+1e"))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_spacing_that_is_none_is_refused_not_repaired(tmp_path: Path, value: float) -> None:
    assert "gives a spacing of" in refused(packed_into(written(tmp_path / "ct.nii"), "<f", 80, value))
    spacing = f"ElementSpacing = {value} 2 3".encode()
    refused(replaced(written(tmp_path / "ct.mha"), b"ElementSpacing = 1 2 3", spacing))


@pytest.mark.parametrize("sizes", ["2048 2048 512", "99999999 9999999 9999999", "0 8 6", "-10 8 6", "1e3 8 6", ""])
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, sizes: str) -> None:
    for name, line in (("ct.mha", b"DimSize = "), ("ct.nrrd", b"sizes: ")):
        reason = refused(replaced(written(tmp_path / name), line + b"10 8 6", line + sizes.encode()))
        assert "its sizes are" in reason or "is larger than" in reason or "too large" in reason


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


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha"])
def test_what_is_no_scalar_volume_is_refused_from_its_header(tmp_path: Path, name: str) -> None:
    grey = sitk.Cast(volume(), sitk.sitkUInt8)
    assert "3 values per voxel" in refused(written(tmp_path / name, image=sitk.Compose(grey, grey, grey)))
    assert "single slice (10 x 8 x 1)" in refused(written(tmp_path / name, image=volume()[:, :, 3:4]))
    moving = sitk.JoinSeries([volume(), volume()])
    assert "four dimensions (10 x 8 x 6 x 2)" in refused(written(tmp_path / name, image=moving))


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
        assert "has two contradictory orientations" in refused(nifti(tmp_path / name, *pair))


def test_sheared_volumes_are_refused(tmp_path: Path) -> None:
    """As of a tilted gantry; ITK makes an image of such an NRRD file without a word, and its volumes are wrong."""
    path = packed_into(written(tmp_path / "ct.nii"), "<4f", 280, 1, 0.5, 0, 0)
    assert "orthonormal" in refused(packed_into(path, "<hh", 252, 0, 1))
    path = replaced(written(tmp_path / "ct.nrrd"), b"(0,0,3)", b"(0,0.9,3)")
    assert "tilted gantry" in refused(path)


def check_warnings(path: Path, warning: str | None) -> None:
    warnings = read_image(path).warnings
    assert len(warnings) == (warning is not None)
    if warning:
        assert re.search(warning, warnings[0]), warnings[0]


UNKNOWN = r"has no valid patient coordinates \({}\): left and right may be swapped"


@pytest.mark.parametrize(
    ("make", "warning"),
    [
        (lambda path: nifti(path, AFFINE, AFFINE), None),
        (lambda path: nifti(path, AFFINE, AFFINE, (1, 0)), None),
        (lambda path: nifti(path, AFFINE, AFFINE, (0, 2)), None),
        (lambda path: nifti(path, AFFINE, rotated(0.5)), None),
        (lambda path: nifti(path, AFFINE, AFFINE, (0, 0)), UNKNOWN.format(".* codes are 0")),
        (lambda path: nifti(path, AFFINE, rotated(20)), r"has two positions \(qform and sform\), up to .* mm apart"),
        (
            lambda path: nifti(path, AFFINE, AFFINE * [2, 2, 2, 1]),
            r"gives two voxel sizes, 1 x 2 x 3 mm \(pixdim\) and 2 x 4 x 6 mm \(sform\); volumes may be wrong",
        ),
    ],
)
def test_nifti_geometry_that_is_not_known(tmp_path: Path, make: Callable, warning: str | None) -> None:
    check_warnings(make(tmp_path / "ct.nii"), warning)


@pytest.mark.parametrize(
    ("name", "old", "new", "warning"),
    [
        ("ct.nrrd", b"space: left-posterior-superior", b"space: RAS", None),
        ("ct.nrrd", b"space: left-posterior-superior", b"space: scanner-xyz", UNKNOWN.format("its space is .*")),
        ("ct.nrrd", b"space: left-posterior-superior", b"space dimension: 3", UNKNOWN.format(".* names no space")),
        ("ct.nrrd", b"kinds: domain", b'space units: "mm" "mm" "mm"\nkinds: domain', None),
        ("ct.nrrd", b"kinds: domain", b'space units: "m" "m" "m"\nkinds: domain', "sizes in m; they were read as mm"),
        ("ct.mha", b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"", UNKNOWN.format(".* no TransformMatrix")),
        ("ct.mha", b"ElementSpacing = 1 2 3\n", b"", UNKNOWN.format("its header has no ElementSpacing")),
    ],
)
def test_geometry_that_is_not_known(tmp_path: Path, name: str, old: bytes, new: bytes, warning: str | None) -> None:
    check_warnings(replaced(written(tmp_path / name), old, new), warning)


def test_nrrd_without_any_geometry(tmp_path: Path) -> None:
    path = tmp_path / "ct.nrrd"
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 10 8 6\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + sitk.GetArrayFromImage(volume()).tobytes())
    check_warnings(path, UNKNOWN.format("its header names no space"))
