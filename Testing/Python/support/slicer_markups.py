"""What Slicer's core reads from markups files, by `slicer_process.in_slicer`."""

from __future__ import annotations

import slicer


def points(path: str) -> list[tuple[str, list[float]]]:
    """Read a file's points: labels, and positions in RAS mm."""
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    storage = scene.AddNode(slicer.vtkMRMLMarkupsJsonStorageNode())
    storage.SetFileName(path)
    assert storage.ReadData(node)
    numbers = range(node.GetNumberOfControlPoints())
    return [(node.GetNthControlPointLabel(n), list(node.GetNthControlPointPosition(n))) for n in numbers]
