"""Read the headers of NIfTI, NRRD and MetaImage files: size, where the voxels lie in the file, geometry.

They are read strictly, because SimpleITK opens whatever file a header names: voxels in another file than the header are
refused. The geometry itself comes from SimpleITK; here it is only checked that it is stated, and once.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from MoBUncertaintyLib.base.errors import ImageError, reason_of
from MoBUncertaintyLib.base.input_files import BoundedReader, check_regular

_SUFFIXES = {"NIfTI": (".nii", ".nii.gz"), "NRRD": (".nrrd", ".nhdr"), "MetaImage": (".mha", ".mhd")}
VOLUME_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)

# Bytes; no program writes a longer text header.
_HEADER_LIMIT = 1 << 22
# Relative difference that is allowed between the two voxel sizes of a NIfTI header.
_SAME_SCALE = 0.01
# Cosine of 60 degrees: at a larger angle two statements of an axis contradict each other.
_OPPOSED = 0.5
_NOTHING = np.finfo(float).eps  # a slope or an intercept below it counts as none


@dataclass(frozen=True)
class Voxels:
    """Where a volume's voxels lie.

    Attributes:
        start: Byte of the file at which they, or their compressed stream, begin.
        skip: Bytes of the stream before the first voxel.
        length: Bytes of the voxels, unpacked.
        packing: "raw", "gzip" or "zlib".
        packed: Bytes of the compressed stream, where the header states it.
    """

    start: int
    skip: int
    length: int
    packing: str
    packed: int | None = None


@dataclass(frozen=True)
class VolumeHeader:
    """The contents of a volume file's header.

    Attributes:
        path: The file with the header.
        reader: SimpleITK's name for the format.
        shape: Voxels along each axis.
        components: Values per voxel.
        voxels: Where they lie.
        warnings: Sentences on geometry that is missing or contradicts itself.
        dtype: Type of the stored voxels, byte order included, where it is known.
        block: Of NIfTI, the header itself.
        slope, intercept: Of NIfTI, what stored voxels are multiplied by, and what is added then.
    """

    path: Path
    reader: str
    shape: tuple[int, ...]
    components: int
    voxels: Voxels
    warnings: tuple[str, ...] = ()
    dtype: np.dtype | None = None
    block: bytes = b""
    slope: float = 1.0
    intercept: float = 0.0


def is_volume_name(name: str) -> bool:
    """Whether a file of this name should be a volume."""
    return name.lower().endswith(VOLUME_SUFFIXES)


def read_header(path: str | Path) -> VolumeHeader:
    """Read a volume file's header.

    Raises:
        ImageError: It is no regular file, its header is malformed, or its voxels are in another file.
    """
    path = Path(path)
    check_regular(path)
    kind = next((name for name, suffixes in _SUFFIXES.items() if path.name.lower().endswith(suffixes)), None)
    if kind is None:
        raise ImageError(f"{path.name} is no NIfTI, NRRD, MetaImage or DICOM file; convert it to one of them first.")
    try:
        return {"NIfTI": _nifti, "NRRD": _nrrd, "MetaImage": _metaimage}[kind](path)
    except (ImageError, MemoryError):
        raise
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path.name} is truncated or damaged; copy or download it again.") from error
    except Exception as error:  # a header can be wrong in as many ways as it has fields
        raise ImageError(
            f"{path.name} is not a readable {kind} image ({reason_of(error)}); export it again."
        ) from error


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def _nifti(path: Path) -> VolumeHeader:
    import nibabel

    packed = path.name.lower().endswith(".gz")
    with BoundedReader(path) as file:
        block = gzip.GzipFile(fileobj=file).read(540) if packed else file.read(540)
    kinds: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    size = next((size for order in ("little", "big") if (size := int.from_bytes(block[:4], order)) in kinds), 0)
    if not size or len(block) < size:
        raise ValueError("it has no header")
    header = kinds[size](block[:size], check=False)
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise ValueError("its voxels are said to be in another file" if b"ni" in block else "it has no header")
    shape = tuple(int(n) for n in header.get_data_shape())
    dtype = header.get_data_dtype()
    offset = float(header["vox_offset"])
    if not (shape and min(shape) > 0 and dtype.itemsize):
        raise ValueError("it states no size")
    if not (math.isfinite(offset) and offset == int(offset) and offset >= size + 4):
        raise ValueError(f"its voxels cannot begin at byte {offset:g}")
    spacing = np.asarray(header["pixdim"][1:4], float)
    if not (np.isfinite(spacing) & (spacing != 0)).all():
        steps = " x ".join(f"{s:g}" for s in spacing)
        raise ImageError(f"The header of {path.name} states a spacing of {steps} mm; correct the header.")
    skip, start = (int(offset), 0) if packed else (0, int(offset))
    length = math.prod(shape) * dtype.itemsize
    voxels = Voxels(start, skip, length, "gzip" if packed else "raw")
    components = len(dtype.names) if dtype.names else 1
    warnings = tuple(_nifti_geometry(path, header, shape))
    scale = _nifti_scale(float(header["scl_slope"]), float(header["scl_inter"]))
    return VolumeHeader(path, "NiftiImageIO", shape, components, voxels, warnings, dtype, block[:size], *scale)


def _nifti_scale(slope: float, intercept: float) -> tuple[float, float]:
    """Read slope and intercept as SimpleITK does: NaN means that there are none."""
    if math.isnan(slope) or 0 < abs(slope) < _NOTHING:
        return 1.0, 0.0
    slope, intercept = slope or 1.0, 0.0 if abs(intercept) < _NOTHING else intercept
    if slope == 1 and math.isnan(intercept):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError("its slope or intercept is not a number")
    return slope, intercept


def _nifti_geometry(path: Path, header: Any, shape: Sequence[int]) -> list[str]:
    """Find what to warn of, as a NIfTI header can state the geometry twice, or not at all.

    Raises:
        ImageError: The two statements contradict each other, so that left and right, say, may be exchanged.
    """
    qform, sform = _nifti_forms(header)
    if qform is None and sform is None:
        return [_unknown_place(path, "its qform and sform codes are 0")]
    if sform is None:
        return []
    stated = np.abs(np.asarray(header["pixdim"][1:4], float))
    scale = np.linalg.norm(sform[:3, :3], axis=0)
    if not scale.all():
        return []  # SimpleITK takes the qform then, or refuses
    warnings = []
    if np.abs(scale / stated - 1).max() > _SAME_SCALE:
        two = [" x ".join(f"{step:.3g}" for step in steps) for steps in (stated, scale)]
        warnings.append(
            f"{path.name} states two voxel sizes, {two[0]} mm (pixdim) and {two[1]} mm (sform); volumes may be wrong."
        )
    if qform is None:
        return warnings
    cosines = (qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0) * sform[:3, :3] / scale).sum(axis=0)
    if cosines.min() < _OPPOSED:
        raise ImageError(
            f"{path.name} states two orientations that contradict each other (qform and sform), so that left and right "
            "may be exchanged; correct the header, or convert the image again from its source."
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array([*shape, 1, 1, 1][:3]) - 1
    apart = float(np.linalg.norm((corners @ (qform - sform).T)[:, :3], axis=1).max())
    if not warnings and apart > stated.max():
        warnings.append(
            f"{path.name} states two places (qform and sform), up to {apart:.3g} mm apart; sform was taken."
        )
    return warnings


def _nifti_forms(header: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read the two matrices, qform and sform; None for one that is not stated, or cannot be used beside the other."""
    from nibabel.spatialimages import HeaderDataError

    quaternion = [header[f"quatern_{axis}"] for axis in "bcd"] + [header[f"qoffset_{axis}"] for axis in "xyz"]
    quaternion = quaternion if header["qform_code"] > 0 else []
    rows = [header[f"srow_{axis}"] for axis in "xyz"] if header["sform_code"] > 0 else []
    if not (np.isfinite(quaternion).all() and np.isfinite(rows).all()):
        raise ValueError("its qform or sform is not a number")
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
    return (
        f"{path.name} does not say where its voxels lie in the patient ({reason}): left and right may be exchanged, "
        "and sizes may be wrong."
    )


# --- NRRD ------------------------------------------------------------------------------------------------------------

_SIZES = {"char": 1, "int8": 1, "short": 2, "int16": 2, "int": 4, "int32": 4, "longlong": 8, "int64": 8}
_NRRD_BYTES = {**_SIZES, **{"u" + name: size for name, size in _SIZES.items()}, "float": 4, "double": 8}
_NRRD_PACKINGS = {"raw": "raw", "gz": "gzip", "gzip": "gzip"}
_PATIENT_SPACES = ("ras", "las", "lps", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior")


def _nrrd(path: Path) -> VolumeHeader:
    with BoundedReader(path) as file:
        fields, end = _nrrd_fields(file)
    shape = _whole_numbers(fields.get("sizes", ""))
    size = _NRRD_BYTES.get(_nrrd_type(fields.get("type", "")))
    if size is None:
        raise ValueError(f"its type is {fields.get('type')!r}")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_PACKINGS:
        raise ImageError(f"{path.name} has the encoding {encoding!r}, which is not read; save it as raw or gzip.")
    if int(fields.get("dimension", "0") or 0) != len(shape):
        raise ValueError("its dimension is not the number of its sizes")
    if "datafile" in fields:
        raise _detached(path)
    if any(fields.get(name, "0") != "0" for name in ("lineskip", "byteskip")):
        raise ImageError(f"{path.name} skips bytes before its voxels, which is not read; save it again.")
    voxels = Voxels(end, 0, math.prod(shape) * size, _NRRD_PACKINGS[encoding])
    # An axis that is no direction in space holds the values of a voxel, if it is the first.
    directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", "").lower())
    kinds = fields.get("kinds", "").lower().split()
    vector = directions[:1] == ["none"] or (kinds[:1] not in ([], ["domain"], ["space"], ["???"], ["none"]))
    components, shape = (shape[0], shape[1:]) if vector and len(shape) > 3 else (1, shape)
    return VolumeHeader(path, "NrrdImageIO", shape, components, voxels, tuple(_nrrd_geometry(path, fields)))


def _nrrd_type(text: str) -> str:
    """Reduce the many names of a type to one: "ushort" for "unsigned short int"."""
    words = text.lower().removesuffix("_t").split()
    name = "".join(word for word in words if word not in ("signed", "unsigned"))
    name = name.removesuffix("int") if name in ("shortint", "longlongint") else name
    return "u" + name if "unsigned" in words else name


def _nrrd_fields(file: BinaryIO) -> tuple[dict[str, str], int]:
    """Read the fields of an NRRD header, by lower-case name without spaces, and the offset of the byte after it."""
    fields: dict[str, str] = {}
    lines = _lines(file)
    if not re.fullmatch("NRRD000[1-5]", next(lines, "")):
        raise ValueError("it has no header")
    for line in lines:
        if not line:
            break
        name, separator, value = line.partition(":")
        key = "".join(name.split()).lower()
        if line.startswith("#") or (separator and value.startswith("=") and key != "datafile"):
            continue  # a comment, or another program's own key
        if not separator or key in fields:
            raise ValueError(f"its header has the line {line[:40]!r}")
        fields[key] = value.strip()
    return fields, file.tell()


def _nrrd_geometry(path: Path, fields: dict[str, str]) -> list[str]:
    space = fields.get("space", "").lower()
    warnings = []
    if space.removesuffix("-time") not in _PATIENT_SPACES:
        reason = f"its space is {space!r}" if space else "its header names no space"
        warnings.append(_unknown_place(path, reason))
    elif "spacedirections" not in fields:
        warnings.append(_unknown_place(path, "its header has no space directions"))
    units = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))) - {"mm", "millimeter", "millimetre", "", "???"}
    if units:
        warnings.append(f"{path.name} states sizes in {', '.join(sorted(units))}; they were taken as mm.")
    return warnings


# --- MetaImage -------------------------------------------------------------------------------------------------------

_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8}
_META_BYTES |= {"U" + name: size for name, size in _META_BYTES.items()} | {"FLOAT": 4, "DOUBLE": 8}

_META_FIELDS = {"NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "BinaryData", "CompressedData"}
_META_FIELDS |= {"CompressedDataSize", "HeaderSize"}
_TRUE = ("T", "t", "1")
# Powers of the number of axes: so many numbers they have.
_META_VECTORS = {"TransformMatrix": 2, "Rotation": 2, "Orientation": 2, "Offset": 1, "Position": 1, "Origin": 1}
_META_VECTORS |= {"CenterOfRotation": 1, "ElementSpacing": 1, "ElementSize": 1}


def _metaimage(path: Path) -> VolumeHeader:
    with BoundedReader(path) as file:
        fields, end = _meta_fields(file)
    shape = _whole_numbers(fields.get("DimSize", ""))
    if fields.get("NDims") != str(len(shape)):
        raise ValueError("its NDims is not the number of its DimSize")
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    size = _META_BYTES.get(kind)
    if size is None:
        raise ValueError(f"its ElementType is {fields.get('ElementType')!r}")
    components = _whole_numbers(fields.get("ElementNumberOfChannels", "1"))[0]
    for name, count in _META_VECTORS.items():
        if name in fields and not _are_numbers(fields[name], len(shape) ** count):
            raise ValueError(f"its {name} is {fields[name][:40]!r}")
    if fields.get("BinaryData", "True")[:1] not in _TRUE:
        raise ImageError(f"{path.name} has its voxels as text, which is not read; save it as binary.")
    voxels = _meta_voxels(path, fields, end, math.prod(shape) * components * size)
    return VolumeHeader(path, "MetaImageIO", shape, components, voxels, tuple(_meta_geometry(path, fields)))


def _meta_voxels(path: Path, fields: dict[str, str], end: int, length: int) -> Voxels:
    """Find `length` bytes of voxels, which lie after the `end` of the header."""
    packed = fields.get("CompressedData", "False")[:1] in _TRUE
    if fields["ElementDataFile"] not in ("LOCAL", "Local", "local"):
        raise _detached(path)
    if fields.get("HeaderSize", "0") != "0":
        raise ValueError(f"its HeaderSize is {fields['HeaderSize'][:40]!r}")
    size = fields.get("CompressedDataSize", "")
    if size and not packed:
        raise ValueError("it states a CompressedDataSize, and that its voxels are not compressed")
    if packed and not re.fullmatch(r"[1-9]\d{0,17}", size):  # SimpleITK reads anything then
        raise ValueError(f"its CompressedDataSize is {size!r}")
    return Voxels(end, 0, length, "zlib" if packed else "raw", int(size) if packed else None)


def _meta_fields(file: BinaryIO) -> tuple[dict[str, str], int]:
    """Read the fields of a MetaImage header, the last of which names the voxels' file, and the offset after it."""
    fields: dict[str, str] = {}
    for line in _lines(file):
        name, separator, value = (part.strip() for part in line.partition("="))
        is_last = re.fullmatch(r"ElementDataFile ?= ?\S.*", line)
        # Nowhere else may anything look like that line.
        misleading = not is_last and "elementdatafile" in line.lower()
        if not name or not separator or misleading or (name in _META_FIELDS and name in fields):
            raise ValueError(f"its header has the line {line[:40]!r}" if line else "it has no header")
        fields[name] = value
        if is_last:
            return fields, file.tell()
    raise ValueError("its header has no ElementDataFile")


def _meta_geometry(path: Path, fields: dict[str, str]) -> list[str]:
    missing = []
    if not {"TransformMatrix", "Rotation", "Orientation"} & fields.keys():
        missing.append("TransformMatrix")
    if not {"ElementSpacing", "ElementSize"} & fields.keys():
        missing.append("ElementSpacing")
    return [_unknown_place(path, f"its header has no {' and no '.join(missing)}")] if missing else []


# --- for several formats ---------------------------------------------------------------------------------------------


def _lines(file: BinaryIO) -> Iterator[str]:
    """Read the lines of a header; refuse those that another program could read as two, or as a shorter one."""
    while line := file.readline(_HEADER_LIMIT):
        text = line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
        if file.tell() > _HEADER_LIMIT:
            raise ValueError("its header has no end")
        if "\r" in text or "\0" in text:
            raise ValueError(f"its header has the line {text[:40]!r}")
        yield text


def _detached(path: Path) -> ImageError:
    return ImageError(f"{path.name} has its voxels in another file, which is not read; save it as one file.")


def _are_numbers(text: str, count: int) -> bool:
    words = text.split()
    return len(words) == count and all(math.isfinite(float(word)) for word in words)


def _whole_numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,9}(\s+[1-9]\d{0,9}){0,15}", text):
        raise ValueError(f"its sizes are {text[:40]!r}")
    return tuple(map(int, text.split()))
