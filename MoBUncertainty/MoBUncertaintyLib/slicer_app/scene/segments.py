"""A label map shown as a segmentation: filled at once, changed in a box, read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.base.geometry import Box, common_parts, hull, intersection, occupied, shape_of, whole, within
from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.terminology import terminology_entry
from MoBUncertaintyLib.output.pictures.style import palette_beside
from MoBUncertaintyLib.regions.region import Region
from MoBUncertaintyLib.slicer_app.region_names import regionTitles
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, ijkToRas, shape

BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
CLOSED_SURFACE = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
PREFIX = "Segment_"  # of the IDs of our segments
OTHERS_OPACITY = 0.35  # of the outlines, while one segment is highlighted


@dataclass(frozen=True)
class SegmentSpec:
    """What is shown of one value of a label map."""

    value: int  # above 0
    name: str
    colour: tuple[int, int, int]  # red, green, blue; 0 to 255
    terminology: dict | None = None  # `category`, `type` and `modifier`: (scheme, code, meaning); None: left to Slicer


class LabelSegmentation:
    """One segmentation node in the role of a label map.

    A segment is known by its ID, `segmentId(value)`: the value it has in Slicer's own label maps may change, as may
    their number, when segments are edited.
    """

    def __init__(self, nodes: CtNodes, role: str, name: str, dtype: type):
        self._nodes, self.role, self._name, self._dtype = nodes, role, name, dtype
        self._changed: set[int] = set()  # values whose closed surface is no longer true

    @property
    def node(self):
        """The vtkMRMLSegmentationNode, or None."""
        return self._nodes.node(self.role)

    def segments(self) -> dict[int, object]:
        """Return the vtkSegment of each value that has one."""
        segmentation = self.node.GetSegmentation() if self.node else None
        identifiers = segmentation.GetSegmentIDs() if segmentation else ()
        values = {name.removeprefix(PREFIX): name for name in identifiers if name.startswith(PREFIX)}
        return {int(value): segmentation.GetSegment(name) for value, name in values.items() if value.isdecimal()}

    def fill(self, labels: np.ndarray, segments: list[SegmentSpec], box: Box | None = None):
        """Show a label map; made of one image, cut to what it holds, whatever the number of segments.

        The labels lie in a box of the image's array, with nothing outside of it, or are all of it, each with a segment.
        Returns the vtkMRMLSegmentationNode.
        """
        node = self._nodes.getOrCreate(self.role, "vtkMRMLSegmentationNode", self._name)
        node.SetReferenceImageGeometryParameterFromVolumeNode(self._nodes.ctNode)
        segmentation = node.GetSegmentation()
        segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
        self._changed.clear()
        if box is None or not labels.size:
            box = occupied(labels) if labels.size else (slice(0, 1),) * 3
            labels = labels[box] if labels.size else np.zeros((1, 1, 1), labels.dtype)
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16, copy=False)
        image = orientedImage(self._nodes.ctNode, box, labels)
        wasModifying = node.StartModify()  # else every segment is announced to every view and table
        for gone in set(self.segments()) - {spec.value for spec in segments}:  # the user's own segments stay
            segmentation.RemoveSegment(segmentId(gone))
        for spec in segments:
            _show(segmentation, spec, image)
        node.EndModify(wasModifying)
        return node

    def update(self, box: Box, labels: np.ndarray):
        """Replace the labels in a box; costs as much as the box, and leaves segments that are not ours alone.

        Closed surfaces stay as they were until `updateSurfaces`. Raises `ValueError` if a value has no segment.
        """
        ct, ours = self._nodes.ctNode, self.segments()
        unknown = set(np.unique(labels).tolist()) - {0, *ours}
        if unknown:
            raise ValueError(f"The segmentation has no segment for the labels {sorted(unknown)}.")
        layers: dict = {}  # one for all segments, unless the user has drawn segments that overlap
        for value, segment in ours.items():
            layers.setdefault(_layer(ct, segment, box), []).append(value)
        for image, values in layers.items():
            image = _covering(ct, self.node.GetSegmentation(), image, box)
            content = _array(image)[within(box, _onCt(ct, image)[1])]
            old = content.copy()
            content[np.isin(old, [ours[value].GetLabelValue() for value in values])] = 0
            for value in values:
                shown = ours[value].GetLabelValue()
                content[labels == value] = shown
                if not np.array_equal(content == shown, old == shown):
                    self._changed.add(value)
            # Not `image.Modified()`: the segmentation would take it as the sign to drop all closed surfaces.
            image.GetPointData().GetScalars().Modified()
        segmentation = self.node.GetSegmentation()
        segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)
        segmentation.InvokeEvent(slicer.vtkSegmentation.RepresentationModified)

    def restore(self, labels: np.ndarray, segments: list[SegmentSpec]) -> bool:
        """Make segments anew that somebody has deleted; says whether there were any."""
        present = self.segments()
        missing = [spec for spec in segments if spec.value not in present]
        for spec in missing:
            mask = labels == spec.value
            box = occupied(mask)
            image = orientedImage(self._nodes.ctNode, box, mask[box] * np.uint8(spec.value))
            _show(self.node.GetSegmentation(), spec, image)
        return bool(missing)

    def updateSurfaces(self, shown: bool):
        """Make the closed surfaces of changed segments anew; where they are not shown, leave that to Slicer."""
        segmentation = self.node.GetSegmentation() if self.node else None
        if segmentation and not shown:
            segmentation.RemoveRepresentation(CLOSED_SURFACE)
        elif segmentation and segmentation.ContainsRepresentation(CLOSED_SURFACE):
            for value, segment in self.segments().items():
                if value in self._changed:
                    segment.RemoveRepresentation(CLOSED_SURFACE)
            segmentation.CreateRepresentation(CLOSED_SURFACE)
        self._changed.clear()

    def isEmpty(self) -> bool:
        """Whether no voxel has a value."""
        return not any(part.any() for _segment, part, _box in self._layers())

    def boxes(self) -> list[Box]:
        """All that is not 0 lies in one of these boxes of the image's array."""
        return [inside for _segment, _values, inside in self._layers()]

    def array(self, box: Box | None = None) -> np.ndarray:
        """Copy the label map, of the image's shape; or what lies in a box of it."""
        box = box or whole(shape(self._nodes.ctNode))
        labels = np.zeros(shape_of(box), self._dtype)
        for (value, segment), part, held in self._layers():
            common = common_parts(box, held)
            if common:
                labels[common[0]][part[common[1]] == segment.GetLabelValue()] = value
        return labels

    def _layers(self) -> Iterator[tuple]:
        """Of each segment that holds anything: value and vtkSegment, its layer's voxels in the image, and their box."""
        return _layersOn(self._nodes.ctNode, self.segments())


def readStructures(node, ct) -> tuple[np.ndarray, list[dict]]:
    """Read any segmentation on the voxels of an image, as binary label maps that are made if need be.

    Returns a label map of the image's shape, uint16, in which the later of two segments that overlap counts; and
    `value`, `name` and `terminology`, as Slicer writes it, of each segment.
    """
    segmentation = node.GetSegmentation()
    segmentation.CreateRepresentation(BINARY_LABELMAP)
    segments = dict(enumerate(map(segmentation.GetSegment, segmentation.GetSegmentIDs()), start=1))
    labels = np.zeros(shape(ct), np.uint16)
    for (value, segment), part, box in _layersOn(ct, segments):
        labels[box][part == segment.GetLabelValue()] = value
    structures = [
        {"value": value, "name": segment.GetName(), "terminology": segment.GetTerminology()}
        for value, segment in segments.items()
    ]
    return labels, structures


def _layersOn(ct, segments: Mapping[int, object]) -> Iterator[tuple]:
    """Of each segment, by its value, that holds anything: what `LabelSegmentation._layers` says."""
    for value, segment in segments.items():
        image = segment.GetRepresentation(BINARY_LABELMAP)
        if image is None or image.GetPointData().GetScalars() is None:
            continue
        image, box = _onCt(ct, image)
        inside = intersection(box, whole(shape(ct)))
        if inside:
            yield (value, segment), _array(image)[within(inside, box)], inside


def _layer(ct, segment, box: Box):
    """Return the image that holds a segment; an empty one of that box if the Segment Editor has cleared it."""
    image = segment.GetRepresentation(BINARY_LABELMAP)
    if image is None or image.GetPointData().GetScalars() is None:
        image = orientedImage(ct, box, np.zeros(shape_of(box), np.uint8))
        segment.AddRepresentation(BINARY_LABELMAP, image)
    return image


def _covering(ct, segmentation, image, box: Box):
    """Return the layer if it covers that box of the image; else replace it with a larger one."""
    onCt, held = _onCt(ct, image)
    union = hull((held, box))
    if onCt is image and union == held:
        return image
    values = np.zeros(shape_of(union), _array(onCt).dtype)
    values[within(held, union)] = _array(onCt)
    larger = orientedImage(ct, union, values)
    for identifier in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(identifier)
        if segment.GetRepresentation(BINARY_LABELMAP) is image:
            segment.AddRepresentation(BINARY_LABELMAP, larger)
    return larger


def _onCt(ct, image) -> tuple[object, Box]:
    """Return a label map on the grid of the image, and its box there; Slicer turns the axes of some on reading."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    toCt = np.linalg.inv(ijkToRas(ct)) @ slicer.util.arrayFromVTKMatrix(matrix)
    offset = np.round(toCt[:3, 3]).astype(int)
    if not np.allclose(toCt[:3, :3], np.eye(3), atol=1e-3) or not np.allclose(toCt[:3, 3], offset, atol=0.01):
        turned = slicer.vtkOrientedImageData()
        reference = orientedImage(ct, whole(shape(ct)), np.zeros(shape(ct), np.uint8))
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, reference, turned)
        image, offset = turned, np.zeros(3, int)
    extent = np.reshape(image.GetExtent(), (3, 2)) + offset[:, None]
    return image, tuple(slice(int(first), int(last) + 1) for first, last in extent[::-1])


def _show(segmentation, spec: SegmentSpec, image) -> None:
    """Show a value of a label map in its segment, which is made if there is none."""
    present = segmentation.GetSegment(segmentId(spec.value))
    segment = present or slicer.vtkSegment()
    segment.RemoveAllRepresentations()
    segment.SetName(spec.name)
    segment.SetColor(*(channel / 255 for channel in spec.colour))
    segment.SetLabelValue(spec.value)
    if spec.terminology and (entry := terminology_entry(spec.terminology)):
        segment.SetTerminology(entry)
    segment.AddRepresentation(BINARY_LABELMAP, image)
    if not present:
        segmentation.AddSegment(segment, segmentId(spec.value))


def orientedImage(ct, box: Box, values: np.ndarray):
    """Copy what lies in a box of an image's array to a vtkOrientedImageData."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent([edge for axis in reversed(box) for edge in (axis.start, axis.stop - 1)])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(values).ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    ct.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def describe(segmentation: LabelSegmentation, names: Mapping[int, str], statuses: Mapping[int, int]):
    """Give segments names, and Slicer's own statuses (`vtkSlicerSegmentationsModuleLogic.Flagged`), by value."""
    logic, segments = slicer.vtkSlicerSegmentationsModuleLogic, segmentation.segments()
    with slicer.util.NodeModify(segmentation.node):  # else each is announced to every view and table
        for value, name in names.items():
            segments[value].SetName(name)
        for value, status in statuses.items():
            if logic.GetSegmentStatus(segments[value]) != status:
                logic.SetSegmentStatus(segments[value], status)


def highlight(segmentation: LabelSegmentation, chosen: int | None):
    """Let the outline of one segment stand out from the others, by its value, or none."""
    display = segmentation.node.GetDisplayNode() if segmentation.node else None
    if display is None:
        return
    with slicer.util.NodeModify(display):  # else all views are drawn anew for each
        for value in segmentation.segments():
            opacity = 1.0 if chosen in (None, value) else OTHERS_OPACITY
            if display.GetSegmentOpacity2DOutline(segmentId(value)) != opacity:
                display.SetSegmentOpacity2DOutline(segmentId(value), opacity)


def labelSpecs(labels: Sequence[Label]) -> list[SegmentSpec]:
    """Specify how a model's labels are shown."""
    return [SegmentSpec(each.value, readable(each.name), each.colour, each.terminology) for each in labels]


def regionSpecs(regions: Iterable[Region], labels: Sequence[Label]) -> list[SegmentSpec]:
    """Specify how doubtful regions are shown beside labels."""
    colour = palette_beside(each.colour for each in labels).region
    titles = regionTitles(regions, labels)
    return [SegmentSpec(number, title, colour) for number, title in titles.items()]


def segmentId(value: int) -> str:
    """Of the segment that shows a value of a label map."""
    return f"{PREFIX}{value}"


def _array(image) -> np.ndarray:
    """Return the voxels themselves, not a copy."""
    first, last = np.reshape(image.GetExtent(), (3, 2)).T
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape((last - first + 1)[::-1])
