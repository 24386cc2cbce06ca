"""Read the headers of NIfTI, NRRD and MetaImage files: geometry, and where the voxels lie in the file.

The geometry comes from SimpleITK, which opens whatever file a header names. So it gets nothing but the header, in a
private place, and voxels in another file are refused. Here it is checked that the geometry is stated, and once.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, reason_of, require
from MoBUncertaintyLib.base.input_files import BoundedReader

_SUFFIXES = {"NIfTI": (".nii", ".nii.gz"), "NRRD": (".nrrd", ".nhdr"), "MetaImage": (".mha", ".mhd")}
VOLUME_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)

_HEADER_LIMIT = 1 << 22  # bytes; no program writes a longer text header
_SAME_SCALE = 0.01  # relative difference that is allowed between the two voxel sizes of a NIfTI header
_OPPOSED = 0.5  # cosine of 60 degrees: at a larger angle two statements of an axis contradict each other
_DETACHED = "{} has its voxels in another file, which is not supported; save it as one file."
_NOTHING = np.finfo(float).eps  # a slope or an intercept below it counts as none


@dataclass(frozen=True)
class VolumeHeader:
    """The contents of a volume file's header."""

    path: Path
    geometry: Any  # SimpleITK's reader of the header, asked as an image is: size, spacing, origin, direction, modality
    dtype: np.dtype  # type of a stored value, byte order included
    packing: str  # "raw", "gzip" or "zlib"
    start: int  # byte of the file at which the voxels, or their compressed stream, begin
    skip: int = 0  # bytes of the stream before the first voxel
    packed: int | None = None  # bytes of the compressed stream, where the header states it
    scale: tuple[float, float] = (1.0, 0.0)  # what stored values are multiplied by, and what is added to them then
    warnings: Sequence[str] = ()  # sentences on geometry that is missing or contradicts itself

    @property
    def layout(self) -> tuple[tuple[int, ...], int, int]:
        """Voxels along each axis, values per voxel, and SimpleITK's number of their type."""
        return self.geometry.GetSize(), self.geometry.GetNumberOfComponents(), self.geometry.GetPixelID()

    @property
    def length(self) -> int:
        """Bytes of the voxels, unpacked, of one value each."""
        return int(math.prod(self.geometry.GetSize()) * self.dtype.itemsize)


def is_volume_name(name: str) -> bool:
    """Whether a file of this name should be a volume."""
    return name.lower().endswith(VOLUME_SUFFIXES)


def read_header(path: Path) -> VolumeHeader:
    """Read the header of a volume file; raises `ImageError` if it is malformed, or the voxels are in another file."""
    kind = next((name for name, suffixes in _SUFFIXES.items() if path.name.lower().endswith(suffixes)), None)
    if kind is None:
        raise ImageError(f"{path.name} is not a NIfTI, NRRD, MetaImage or DICOM file; convert it first.")
    try:
        with BoundedReader(path) as file:
            return {"NIfTI": _nifti, "NRRD": _nrrd, "MetaImage": _metaimage}[kind](path, file)
    except (ImageError, MemoryError):
        raise
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path.name} is truncated or damaged; copy or download it again.") from error
    except Exception as error:  # a header can be wrong in as many ways as it has fields
        raise ImageError(
            f"{path.name} is not a readable {kind} image ({reason_of(error)}); export it again."
        ) from error


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def _nifti(path: Path, file: BinaryIO) -> VolumeHeader:
    import nibabel

    packed = path.name.lower().endswith(".gz")
    block = gzip.GzipFile(fileobj=file).read(540) if packed else file.read(540)
    kinds: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    size = next((size for order in ("little", "big") if (size := int.from_bytes(block[:4], order)) in kinds), 0)
    require(0 < size <= len(block), "it has no header")
    header = kinds[size](block[:size], check=False)
    magic = header["magic"].item()[:4].rstrip(b"\0")
    require(magic in (b"n+1", b"n+2"), "its voxels are in another file" if b"ni" in block else "it has no header")
    shape = tuple(int(n) for n in header.get_data_shape())
    dtype = header.get_data_dtype()
    offset = float(header["vox_offset"])
    require(min(shape, default=0) > 0 and dtype.itemsize > 0, "it states no size")
    valid = size + 4 <= offset < 2**63 and offset == int(offset)
    require(valid, f"its voxels cannot begin at byte {offset:g}")
    spacing = np.asarray(header["pixdim"][1:4], float)
    if not (np.isfinite(spacing) & (spacing != 0)).all():
        steps = " x ".join(f"{s:g}" for s in spacing)
        raise ImageError(f"The header of {path.name} gives a spacing of {steps} mm; correct the header.")
    return VolumeHeader(
        path,
        _geometry(path, "NIfTI", block[:size] + bytes(4)),  # no extensions
        dtype,
        "gzip" if packed else "raw",
        start=0 if packed else int(offset),
        skip=int(offset) if packed else 0,
        scale=_nifti_scale(float(header["scl_slope"]), float(header["scl_inter"])),
        warnings=_nifti_warnings(path, header, shape),
    )


def _nifti_scale(slope: float, intercept: float) -> tuple[float, float]:
    """Read slope and intercept as SimpleITK does: NaN means that there are none."""
    slope, intercept = slope or 1.0, 0.0 if abs(intercept) < _NOTHING else intercept
    if math.isnan(slope) or abs(slope) < _NOTHING or (slope == 1 and math.isnan(intercept)):
        return 1.0, 0.0
    require(math.isfinite(slope) and math.isfinite(intercept), "its slope or intercept is not a number")
    return slope, intercept


def _nifti_warnings(path: Path, header: Any, shape: Sequence[int]) -> list[str]:
    """Find what to warn of where a NIfTI header states the geometry twice, or not at all; refuse contradictions."""
    qform, sform = _nifti_forms(header)
    if qform is None and sform is None:
        return [_unknown_place(path, "its qform and sform codes are 0")]
    if sform is None:
        return []
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], float))
    scale = np.linalg.norm(sform[:3, :3], axis=0)
    if not scale.all():
        return []  # SimpleITK takes the qform then, or refuses
    warnings = []
    if np.abs(scale / pixdim - 1).max() > _SAME_SCALE:
        one, other = (" x ".join(f"{step:.3g}" for step in steps) for steps in (pixdim, scale))
        warnings.append(
            f"{path.name} gives two voxel sizes, {one} mm (pixdim) and {other} mm (sform); volumes may be wrong."
        )
    if qform is None:
        return warnings
    cosines = (qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0) * sform[:3, :3] / scale).sum(axis=0)
    if cosines.min() < _OPPOSED:
        raise ImageError(
            f"{path.name} has two contradictory orientations (qform and sform), so left and right may "
            "be swapped; correct the header, or convert the image again from its source."
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array([*shape, 1, 1, 1][:3]) - 1
    apart = float(np.linalg.norm((corners @ (qform - sform).T)[:, :3], axis=1).max())
    if not warnings and apart > pixdim.max():
        warnings.append(f"{path.name} has two positions (qform and sform), up to {apart:.3g} mm apart; sform was used.")
    return warnings


def _nifti_forms(header: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read the two matrices, qform and sform; None for one that is not stated, or cannot be used beside the other."""
    from nibabel.spatialimages import HeaderDataError

    quaternion = [header[f"quatern_{axis}"] for axis in "bcd"] + [header[f"qoffset_{axis}"] for axis in "xyz"]
    quaternion = quaternion if header["qform_code"] > 0 else []
    rows = [header[f"srow_{axis}"] for axis in "xyz"] if header["sform_code"] > 0 else []
    require(bool(np.isfinite(quaternion).all() and np.isfinite(rows).all()), "its qform or sform is not a number")
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1  # as the standard says
    sform = header.get_sform(coded=True)[0]
    try:
        return header.get_qform(coded=True)[0], sform
    except (HeaderDataError, ValueError):  # not quite a rotation, which SimpleITK makes one
        if sform is None:
            raise
        return None, sform


def _unknown_place(path: Path, reason: str) -> str:
    return f"{path.name} has no valid patient coordinates ({reason}): left and right may be swapped and sizes wrong."


# --- NRRD ------------------------------------------------------------------------------------------------------------

_NRRD_PACKINGS = {"raw": "raw", "gz": "gzip", "gzip": "gzip"}
_PATIENT_SPACES = ("ras", "las", "lps", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior")


def _nrrd(path: Path, file: BinaryIO) -> VolumeHeader:
    fields = _nrrd_fields(_lines(file))
    _count_sizes(fields.get("sizes", ""))
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_PACKINGS:
        raise ImageError(f"{path.name} has the encoding {encoding!r}, which is not supported; save it as raw or gzip.")
    if "datafile" in fields:
        raise ImageError(_DETACHED.format(path.name))
    if any(fields.get(name, "0") != "0" for name in ("lineskip", "byteskip")):
        raise ImageError(f"{path.name} skips bytes before its voxels, which is not supported; save it again.")
    geometry = _geometry(path, "NRRD", _before(file))
    dtype = _dtype(geometry, big=fields.get("endian", "").lower() == "big")
    return VolumeHeader(
        path, geometry, dtype, _NRRD_PACKINGS[encoding], start=file.tell(), warnings=_nrrd_warnings(path, fields)
    )


def _nrrd_fields(lines: Iterator[str]) -> dict[str, str]:
    """Read the fields of an NRRD header, by lower-case name without spaces."""
    fields: dict[str, str] = {}
    require(bool(re.fullmatch("NRRD000[1-5]", next(lines, ""))), "it has no header")
    for line in lines:
        if not line:
            break
        name, separator, value = line.partition(":")
        key = "".join(name.split()).lower()
        if line.startswith("#") or (separator and value.startswith("=") and key != "datafile"):
            continue  # a comment, or another program's own key
        require(bool(separator) and key not in fields, f"its header has the line {line[:40]!r}")
        fields[key] = value.strip()
    return fields


def _nrrd_warnings(path: Path, fields: dict[str, str]) -> list[str]:
    space = fields.get("space", "").lower()
    warnings = []
    if space.removesuffix("-time") not in _PATIENT_SPACES:
        reason = f"its space is {space!r}" if space else "its header names no space"
        warnings.append(_unknown_place(path, reason))
    elif "spacedirections" not in fields:
        warnings.append(_unknown_place(path, "its header has no space directions"))
    units = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))) - {"mm", "millimeter", "millimetre", "", "???"}
    if units:
        warnings.append(f"{path.name} gives sizes in {', '.join(sorted(units))}; they were read as mm.")
    return warnings


# --- MetaImage -------------------------------------------------------------------------------------------------------

_META_FIELDS = {"NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "BinaryData", "BinaryDataByteOrderMSB"}
_META_FIELDS |= {"CompressedData", "CompressedDataSize", "HeaderSize"}
_TRUE = ("T", "t", "1")
# So many numbers they have, as a power of the number of axes.
_META_VECTORS = {"TransformMatrix": 2, "Rotation": 2, "Orientation": 2, "Offset": 1, "Position": 1, "Origin": 1}
_META_VECTORS |= {"CenterOfRotation": 1, "ElementSpacing": 1, "ElementSize": 1}


def _metaimage(path: Path, file: BinaryIO) -> VolumeHeader:
    fields = _meta_fields(_lines(file))
    axes = _count_sizes(fields.get("DimSize", ""))
    require(fields.get("NDims") == str(axes), "its NDims is not the number of its DimSize")
    require("ElementType" in fields, "its header has no ElementType")
    for name in _META_VECTORS.keys() & fields.keys():
        valid = _are_numbers(fields[name], axes ** _META_VECTORS[name])
        require(valid, f"its {name} is {fields[name][:40]!r}")
    if fields.get("BinaryData", "True")[:1] not in _TRUE:
        raise ImageError(f"{path.name} stores its voxels as text, which is not supported; save it as binary.")
    if fields["ElementDataFile"] not in ("LOCAL", "Local", "local"):
        raise ImageError(_DETACHED.format(path.name))
    skipped = fields.get("HeaderSize", "0")
    require(skipped == "0", f"its HeaderSize is {skipped[:40]!r}")
    packed, size = fields.get("CompressedData", "False")[:1] in _TRUE, fields.get("CompressedDataSize", "")
    require(packed or not size, "it states a CompressedDataSize, and that its voxels are not compressed")
    require(not packed or bool(re.fullmatch(r"[1-9]\d{0,17}", size)), f"its CompressedDataSize is {size!r}")
    geometry = _geometry(path, "MetaImage", _before(file))
    return VolumeHeader(
        path,
        geometry,
        _dtype(geometry, big=fields.get("BinaryDataByteOrderMSB", "False")[:1] in ("T", "1")),  # as SimpleITK reads it
        "zlib" if packed else "raw",
        start=file.tell(),
        packed=int(size) if packed else None,
        warnings=_meta_warnings(path, fields),
    )


def _meta_fields(lines: Iterator[str]) -> dict[str, str]:
    """Read the fields of a MetaImage header, the last of which names the voxels' file."""
    fields: dict[str, str] = {}
    for line in lines:
        name, separator, value = (part.strip() for part in line.partition("="))
        is_last = re.fullmatch(r"ElementDataFile ?= ?\S.*", line)
        # Nowhere else may anything look like that line.
        misleading = not is_last and "elementdatafile" in line.lower()
        valid = bool(name and separator) and not misleading and not (name in _META_FIELDS and name in fields)
        require(valid, f"its header has the line {line[:40]!r}" if line else "it has no header")
        fields[name] = value
        if is_last:
            return fields
    raise ValueError("its header has no ElementDataFile")


def _meta_warnings(path: Path, fields: dict[str, str]) -> list[str]:
    names = (("TransformMatrix", "Rotation", "Orientation"), ("ElementSpacing", "ElementSize"))
    missing = [usual for usual, *others in names if not fields.keys() & {usual, *others}]
    return [_unknown_place(path, f"its header has no {' and no '.join(missing)}")] if missing else []


# --- for several formats ---------------------------------------------------------------------------------------------

_READERS = {"NIfTI": "NiftiImageIO", "NRRD": "NrrdImageIO", "MetaImage": "MetaImageIO"}


def _geometry(path: Path, kind: str, header: bytes) -> sitk.ImageFileReader:
    """Let SimpleITK read a header alone, from a private file."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[kind])
    display = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # on stderr; those that matter are warnings of ours
    try:
        with TemporaryDirectory(prefix="mob-uncertainty-", ignore_cleanup_errors=True) as folder:
            file = Path(folder, f"header{_SUFFIXES[kind][0]}")
            file.write_bytes(header)
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].split("ERROR: ")[-1].rstrip(".")  # no positions in the source
        raise ImageError(
            f"{path.name} cannot be read ({reason}); give an intact NIfTI, NRRD, MetaImage or DICOM file."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(display)
    return reader


def _dtype(geometry: sitk.ImageFileReader, big: bool) -> np.dtype:
    """Return the type of values that are stored as SimpleITK has read, and in which order of bytes."""
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1], geometry.GetPixelID())).dtype
    return dtype.newbyteorder(">" if big else "<")


def _lines(file: BinaryIO) -> Iterator[str]:
    """Read the lines of a header; refuse those that another program could read as two, or as a shorter one."""
    while line := file.readline(_HEADER_LIMIT):
        text = line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
        require(file.tell() <= _HEADER_LIMIT, "its header has no end")
        require(not {"\r", "\0"} & set(text), f"its header has the line {text[:40]!r}")
        yield text


def _before(file: BinaryIO) -> bytes:
    """Return what was read of a file, and leave it there."""
    end = file.tell()
    file.seek(0)
    return file.read(end)


def _count_sizes(text: str) -> int:
    """Count the sizes of a header; there is nothing else that another program could read as one."""
    require(bool(re.fullmatch(r"[1-9]\d{0,8}(\s+[1-9]\d{0,8}){0,4}", text)), f"its sizes are {text[:40]!r}")
    return len(text.split())


def _are_numbers(text: str, count: int) -> bool:
    words = text.split()
    return len(words) == count and all(math.isfinite(float(word)) for word in words)
