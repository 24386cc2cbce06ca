"""A segmentation as .seg.nrrd: a label map for any NRRD reader, with the metadata of Slicer's segments.

The fields are those of Slicer's vtkMRMLSegmentationStorageNode.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import find_objects

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.geometry import Grid, occupied, whole
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.terminology import terminology_entry

ONLY_ASCII = sys.platform == "win32"


def write_segmentation_nrrd(
    path: str | Path, segmentation: np.ndarray, grid: Grid, labels: Sequence[Label], *, status: str | None = None
) -> None:
    """Write a segmentation (z, y, x) as `.seg.nrrd` with a segment for each label, of a status by Slicer's name.

    Raises `OutputError` for a value that no label stands for, and `OSError`.
    """
    values_in(segmentation, [label.value for label in labels])
    segments = [Segment.of(label, label.name, status) for label in labels]
    write_segments(Path(path), segmentation, grid, segments)


@dataclass(frozen=True)
class Segment:
    """What is shown of one value (above 0) of a label map; of Slicer's own tags, those that are None are left out."""

    value: int
    name: str
    colour: tuple[int, int, int]
    tags: Mapping[str, str | None]

    @classmethod
    def of(cls, label: Label, name: str, status: str | None = None) -> Segment:
        """Make the segment of a label, which is shown under a name."""
        tags = {"Segmentation.Status": status, "TerminologyEntry": terminology_entry(label.terminology)}
        return cls(label.value, name, label.colour, tags)


def write_segments(
    path: Path, labels: np.ndarray, grid: Grid, segments: Sequence[Segment], *, crop: bool = False
) -> None:
    """Write a label map (z, y, x), or the box of what is labelled, with a segment for each value; raises `OSError`."""
    box = occupied(labels) if crop else whole(labels.shape)
    first = [axis.start for axis in box]
    image = image_on(Grid(grid.spacing, grid.rotation, grid.to_ras(np.array(first))), labels[box])
    fields = _segmentation_fields(labels.shape, first, grid) | _segment_fields(labels[box], segments)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    write_whole(image, path)


def write_whole(image: sitk.Image, path: Path) -> None:
    """Write a compressed image and read it back: SimpleITK cuts it short on a full disk. Raises `OSError`."""
    with _written_by_itk(path) as name:
        try:
            sitk.WriteImage(image, name, useCompression=True)
            written = sitk.GetArrayFromImage(sitk.ReadImage(name))
        except RuntimeError as error:
            raise OSError(f"{path.name} cannot be written") from error
        if not np.array_equal(written, sitk.GetArrayViewFromImage(image)):
            raise OSError(f"{path.name} is not what was written: the disk may be full")


@contextmanager
def _written_by_itk(path: Path) -> Iterator[str]:
    """Name a file so that ITK can write it: on Windows, names in the system's code page alone, so ASCII for certain.

    See https://github.com/SimpleITK/SimpleITK/issues/795.
    """
    if not ONLY_ASCII or str(path).isascii():
        yield str(path)
        return
    with TemporaryDirectory(prefix="mob-uncertainty-", ignore_cleanup_errors=True) as folder:
        place = Path(folder, "file" + "".join(filter(str.isascii, path.suffixes)))
        yield str(place)
        shutil.copyfile(place, path)


def values_in(segmentation: np.ndarray, allowed: Collection[int]) -> set[int]:
    """Find the values in a segmentation (uint8) beside 0; raises `OutputError` for one that no label stands for."""
    # By plane: bincount copies to 64 bits.
    counts = sum(np.bincount(plane.ravel(), minlength=256) for plane in segmentation)
    values = set(np.flatnonzero(counts).tolist()) - {0}
    if unknown := sorted(values.difference(allowed)):
        raise OutputError(
            f"The segmentation has the value {unknown[0]}, which is not a label of the model; use the segmentation "
            "and the labels of one prediction."
        )
    return values


def _segmentation_fields(shape: Sequence[int], first: Sequence[int], grid: Grid) -> dict[str, str]:
    extent = [edge for n in reversed(shape) for edge in (0, n - 1)]
    geometry = "".join(f"{number:.17g};" for number in [*grid.matrix().ravel(), *extent])
    return {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, reversed(first))),
        # The image's grid, so that the Segment Editor works on it.
        "Segmentation_ConversionParameters": f"Reference image geometry|{geometry}|The image's grid.&",
    }


def _segment_fields(labels: np.ndarray, segments: Sequence[Segment]) -> dict[str, str]:
    fields: dict[str, str] = {}
    boxes = find_objects(labels, max_label=max((segment.value for segment in segments), default=0))
    for index, segment in enumerate(segments):
        entries = {
            "ID": f"Segment_{segment.value}",
            "Name": segment.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{channel / 255:.6g}" for channel in segment.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(segment.value),
            "Layer": "0",
            "Extent": _extent(boxes[segment.value - 1]),
            "Tags": "".join(f"{key}:{value}|" for key, value in segment.tags.items() if value),
        }
        fields |= {f"Segment{index}_{key}": value for key, value in entries.items()}
    return fields


def _extent(box: tuple[slice, slice, slice] | None) -> str:
    """Write the first and last index for i, j and k; `0 -1` where nothing is."""
    return " ".join(f"{axis.start} {axis.stop - 1}" for axis in reversed(box)) if box else "0 -1 0 -1 0 -1"
