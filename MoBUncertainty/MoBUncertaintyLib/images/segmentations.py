"""Read the segmentation of an image by any tool or hand: its structures as masks on the image's own voxels.

NIfTI, NRRD (3D Slicer's segmentations among them) and MetaImage, a folder of masks as TotalSegmentator writes it, DICOM
SEG, and RT Structure Sets. Nothing is resampled, which would change what was drawn: the voxels may be in another order,
or of a part of the image, but they must be the image's. Contours lie in its frame of reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, reason_of
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid, common_parts, whole
from MoBUncertaintyLib.base.input_files import BoundedReader, begins_as_dicom, check_regular, input_digest, reading
from MoBUncertaintyLib.base.names import is_system_file, printable
from MoBUncertaintyLib.images.channels import SAME_GRID
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.memory import check_image
from MoBUncertaintyLib.images.reader import ReadImage, read_volume, volume_stem
from MoBUncertaintyLib.images.volume_headers import is_volume_name, read_header

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Code = tuple[str, str]
"""Scheme and value, such as SCT and 15776009."""

_MOST_VALUES = 2**16
_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # of DICOM segmentations that are one label map
_LABEL_TABLE = re.compile(rb'<Label Key="(\d{1,5})"[^>]*><!\[CDATA\[(.{1,200}?)\]\]></Label>')
"""Of a NIfTI extension in which TotalSegmentator and Connectome Workbench name the values of a label map."""


@dataclass(frozen=True, eq=False)
class Structure:
    """One structure of a segmentation.

    Attributes:
        name: As the file has it; where it has none, the value in the label map.
        load: Makes the mask, bool (z, y, x), on the image's voxels; raises `ImageError`.
        code, modifier: What is segmented, and which of several such as the left one, if the file says so.
    """

    name: str
    load: Callable[[], np.ndarray]
    code: Code | None = None
    modifier: Code | None = None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The structures of a segmentation, in the file's order, and the SHA-256 of what was read."""

    structures: tuple[Structure, ...]
    sha256: str


def read_segmentation(path: str | Path, image: ReadImage) -> Segmentation:
    """Read the structures of a segmentation; the masks are made when they are wanted.

    Raises `ImageError` if it cannot be read, is no segmentation, or its voxels are not those of the image.
    """
    path = Path(path)
    files = _files(path)
    with reading(files):
        sha256 = input_digest(path, files)
        if path.is_dir() and is_volume_name(files[0].name):
            masks = [Structure(stem_of(file), partial(_mask_of_file, file, image.image)) for file in files]
            return Segmentation(tuple(masks), sha256)
        read = _of_volume if is_volume_name(files[0].name) else _of_dicom
        return Segmentation(tuple(read(files[0], image)), sha256)


def segmentation_digest(path: str | Path) -> str:
    """Compute the SHA-256 that `read_segmentation` returns, without reading voxels; raises `ImageError`."""
    path = Path(path)
    files = _files(path)
    with reading(files):
        return input_digest(path, files)


def stem_of(path: Path) -> str:
    """Return the name of a segmentation's file without its suffixes."""
    return volume_stem(path).removesuffix(".seg").removesuffix(".dcm")


def _files(path: Path) -> list[Path]:
    """List the files of a segmentation: the file itself, a folder's masks, or the only DICOM file in it."""
    if not path.is_dir():
        check_regular(path)
        return [path]
    entries = [entry for entry in sorted(path.iterdir()) if entry.is_file() and not is_system_file(entry.name)]
    masks = [entry for entry in entries if is_volume_name(entry.name)]
    files = masks or [entry for entry in entries if begins_as_dicom(entry)]
    if not files or (not masks and len(files) > 1):
        raise ImageError(
            f"{path} holds {len(files) or 'no'} segmentation{'s' if len(files) > 1 else ''}; give one file, or a "
            "folder with a mask for each structure."
        )
    return files


def _of_volume(path: Path, image: ReadImage) -> list[Structure]:
    """Read a label map, or the layers of label maps that Slicer makes of segments that overlap."""
    fields = _fields_of(path)
    layers, grid = _layers(path)
    placed = [_placed(layer, grid, image.image, path) for layer in layers]
    if names := [key[: -len("_Name")] for key in fields if re.fullmatch(r"Segment\d+_Name", key)]:
        return [_segment(name, fields, placed) for name in sorted(names, key=lambda name: int(name[len("Segment") :]))]
    table = _label_table(path)
    values = np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=_MOST_VALUES) for plane in placed[0]))[1:]
    return [Structure(table.get(value, str(value)), partial(np.equal, placed[0], value)) for value in values.tolist()]


def _segment(key: str, fields: Mapping[str, str], layers: list[np.ndarray]) -> Structure:
    """Read what Slicer writes of a segment."""
    try:
        layer, value = (int(fields[f"{key}_{part}"]) for part in ("Layer", "LabelValue"))
        mask = partial(np.equal, layers[layer], value)
    except (KeyError, ValueError, IndexError) as error:
        raise ImageError(f"The segmentation's {key} has no valid layer or value; save it again in Slicer.") from error
    entry = re.search(r"TerminologyEntry:([^|]*)", fields.get(f"{key}_Tags", ""))
    return Structure(fields[f"{key}_Name"], mask, *codes_of(entry[1] if entry else ""))


def codes_of(entry: str) -> list[Code | None]:
    """Read type and modifier of a terminology entry, as Slicer writes it."""
    parts = [code.split("^") for code in entry.split("~")[2:4]]
    codes = [
        (scheme, value) if scheme and value else None for scheme, value, *_ in (part for part in parts if part[1:])
    ]
    return [*codes, None, None][:2]


def _fields_of(path: Path) -> dict[str, str]:
    geometry = read_header(path).geometry
    return {key: geometry.GetMetaData(key) for key in geometry.GetMetaDataKeys() if key.startswith("Segment")}


def _layers(path: Path) -> tuple[list[np.ndarray], Grid]:
    """Read label maps, uint16 (z, y, x) each."""
    header = read_header(path)
    if header.layout[1] == 1:
        stored = read_volume(path)
        arrays = [sitk.GetArrayFromImage(stored)]
    else:
        check_image(header.length * header.layout[1])
        try:
            stored = sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise ImageError(f"{path.name} cannot be read ({reason_of(error)}); save it again.") from error
        arrays = list(np.moveaxis(sitk.GetArrayFromImage(stored), -1, 0))
    return [_whole_numbers(array, path) for array in arrays], grid_of(stored)


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.uint16)
    if array.ndim != 3 or not np.array_equal(labels, array):
        raise ImageError(
            f"{path.name} is no label map (its values are not whole numbers from 0 to {_MOST_VALUES - 1}); give the "
            "segmentation, not an image or probabilities."
        )
    return labels


def _label_table(path: Path) -> dict[int, str]:
    """Read how a NIfTI file names its values, if it does."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return {}
    import nibabel

    try:
        extensions = nibabel.load(path).header.extensions  # type: ignore[attr-defined]
        contents = [extension.get_content() for extension in extensions]
    except Exception as error:  # an extension may hold JSON or DICOM, and be damaged in as many ways
        raise ImageError(f"{path.name} has a damaged extension ({reason_of(error)}); export it again.") from error
    table = [match for text in contents if isinstance(text, bytes) for match in _LABEL_TABLE.findall(text)]
    return {int(value): name.decode("utf-8", "replace") for value, name in table}


def _mask_of_file(path: Path, image: sitk.Image) -> np.ndarray:
    with reading([path]):
        (mask, *others), grid = _layers(path)
    if others:
        raise ImageError(f"{path.name} has several values per voxel; give one mask.")
    return _placed(mask, grid, image, path) > 0


def _of_dicom(path: Path, image: ReadImage) -> list[Structure]:
    """Read a DICOM segmentation or an RT Structure Set."""
    import pydicom
    from pydicom.uid import RTStructureSetStorage, SegmentationStorage

    from MoBUncertaintyLib.images.dicom import frame_of_reference, parsing
    from MoBUncertaintyLib.images.structure_sets import contours_of, fill

    with BoundedReader(path) as file, parsing(path):
        header = pydicom.dcmread(file, force=begins_as_dicom(path), stop_before_pixels=True)
    frame = frame_of_reference(image.files)
    kind = header.get("SOPClassUID")
    if kind == RTStructureSetStorage:
        regions = contours_of(header, path, frame).items()
        return [Structure(name, partial(fill, own, image.image, f"{path}: {name}")) for name, own in regions]
    if kind not in (SegmentationStorage, _LABEL_MAP_STORAGE):
        raise ImageError(f"{path} is neither a segmentation nor contours; give a NIfTI, NRRD, SEG or RTSTRUCT file.")
    own = str(header.get("FrameOfReferenceUID") or "")
    if frame and own and own != frame:
        raise ImageError(
            f"{path} has a different frame of reference from the image; give the image that it was drawn on."
        )
    return _of_seg(path, image.image)


def _of_seg(path: Path, image: sitk.Image) -> list[Structure]:
    from highdicom.seg import segread

    from MoBUncertaintyLib.images.dicom import parsing

    with BoundedReader(path) as file, parsing(path):
        stored = segread(file)
        segments = [item for item in stored.SegmentSequence if int(item.SegmentNumber) in stored.segment_numbers]

    def load(number: int) -> np.ndarray:
        with parsing(path):
            volume = stored.get_volume(segment_numbers=[number])
            spacing = np.array(volume.spacing)
            axes = LPS_TO_RAS[:, None] * volume.affine[:3, :3]
            grid = Grid(spacing, axes / spacing, LPS_TO_RAS * volume.affine[:3, 3])
            mask = (volume.array[..., 0] > 0.5).astype(np.uint16)
        return _placed(mask, grid, image, path) > 0

    def described(item: Dataset) -> Structure:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        codes = [_code(kind), *map(_code, kind.get("SegmentedPropertyTypeModifierCodeSequence", []))]
        number = int(item.SegmentNumber)
        return Structure(str(item.get("SegmentLabel") or number), partial(load, number), *codes[:2])

    with parsing(path):
        return [described(item) for item in segments]


def _code(item: Dataset) -> Code:
    return str(item.CodingSchemeDesignator), str(item.CodeValue)


def _placed(labels: np.ndarray, own: Grid, image: sitk.Image, path: Path) -> np.ndarray:
    """Put voxels (z, y, x) in the image's order and extent; raises `ImageError` if they are not the image's."""
    grid, shape = grid_of(image), image.GetSize()[::-1]
    sizes = np.maximum(np.array(labels.shape) - 1, 1)
    first, *ends = grid.to_index(own.to_ras(np.vstack([np.zeros(3), np.diag(sizes)])))
    corners = np.array([first, *ends])
    steps = np.rint((corners[1:] - first) / sizes[:, None])  # of each of its axes along each of the image's
    on_voxels = np.rint(first) + np.vstack([np.zeros(3), steps * sizes[:, None]])
    straight = (np.abs(steps).sum(0) == 1).all() and (np.abs(steps).sum(1) == 1).all()
    if not straight or np.abs(corners - on_voxels).max() > SAME_GRID:
        raise ImageError(
            f"{printable(path.name)} lies on another grid than the image ({_described(own, labels.shape)}, not "
            f"{_described(grid, shape)}); give the image that it was drawn on, or resample it to the image's voxels."
        )
    order = np.abs(steps).argmax(axis=0)
    turned = np.flip(labels.transpose(order), axis=tuple(axis for axis in range(3) if steps[order[axis], axis] < 0))
    back = np.minimum(steps * (np.array(labels.shape) - 1)[:, None], 0).sum(axis=0)
    start = (np.rint(first) + back).astype(int).tolist()
    box = tuple(slice(at, at + size) for at, size in zip(start, turned.shape, strict=True))
    if box == whole(shape):
        return np.ascontiguousarray(turned)
    placed = np.zeros(shape, labels.dtype)
    parts = common_parts(whole(shape), box)
    if parts:
        placed[parts[0]] = turned[parts[1]]
    if np.count_nonzero(placed) < np.count_nonzero(labels):
        raise ImageError(
            f"{printable(path.name)} reaches beyond the image; give the image that it was drawn on, not a part of it."
        )
    return placed


def _described(grid: Grid, shape: Any) -> str:
    sizes, spacing = (" x ".join(f"{number:.3g}" for number in reversed(tuple(axes))) for axes in (shape, grid.spacing))
    return f"{sizes} voxels of {spacing} mm"
