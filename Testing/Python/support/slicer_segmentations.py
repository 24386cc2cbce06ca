"""What Slicer's core reads from segmentation files, by `slicer_process.in_slicer`."""

from __future__ import annotations

import numpy as np
import slicer
from vtk import vtkMatrix4x4
from vtk.util.numpy_support import vtk_to_numpy


def describe(*paths: str) -> list[dict]:
    """Read each of the files."""
    return [describe_file(path) for path in paths]


def describe_file(path: str) -> dict:
    """Read a file into a segmentation node; positions of voxels are RAS mm."""
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(path)
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    return {
        "segments": [describe_segment(node, segment_id) for segment_id in segmentation.GetSegmentIDs()],
        "geometry": segmentation.GetConversionParameter(parameter),
        "source": segmentation.GetSourceRepresentationName(),
    }


def describe_segment(node, segment_id: str) -> dict:
    segment, logic = node.GetSegmentation().GetSegment(segment_id), slicer.vtkSlicerSegmentationsModuleLogic
    return {
        "id": segment_id,
        "name": segment.GetName(),
        "colour": segment.GetColor(),
        "value": segment.GetLabelValue(),
        "terminology": segment.GetTerminology(),
        "status": logic.GetSegmentStatusAsMachineReadableString(logic.GetSegmentStatus(segment)),
        "points": positions(node, segment_id),
    }


def positions(node, segment_id: str) -> list:
    image, m = slicer.vtkOrientedImageData(), vtkMatrix4x4()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    if image.IsEmpty():
        return []
    image.GetImageToWorldMatrix(m)
    matrix = np.array([[m.GetElement(row, column) for column in range(4)] for row in range(3)])
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    ijk = np.argwhere(voxels)[:, ::-1] + np.array(image.GetExtent())[::2]
    return (ijk @ matrix[:, :3].T + matrix[:, 3]).tolist()
