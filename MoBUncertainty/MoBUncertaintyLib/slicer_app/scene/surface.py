"""The segmentation's surface in 3D: in the map's colours where it is shown in the slices, else in the label's own.

Where nothing is uncertain the map's first colour, black, would hide the shape.
"""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.maps import infernoColours
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, ijkToRas
from MoBUncertaintyLib.slicer_app.scene.segments import CLOSED_SURFACE, segmentId

VALUES, LABEL, COLOURS = "Uncertainty", "Label", "Colour"
"""Arrays at the surface's points: the map's value, the label's colour, and the colour that is shown."""
_AROUND = 2  # voxels: the map is cut to the surface's box, widened by this


class UncertaintySurface:
    """A model of the segmentation's closed surface with a map's values at its points.

    Args:
        nodes: Of the CT.
    """

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes

    @property
    def node(self):
        """The vtkMRMLModelNode, or None."""
        return self._nodes.node("surface")

    def show(self, segmentationNode, values: list[int], mapNode, window: tuple[float, float], threshold: float):
        """Make the surface anew and show it.

        Args:
            segmentationNode: Whose segments are taken; their closed surfaces are made if need be.
            values: Of the segments.
            mapNode: The volume whose values colour it.
            window, threshold: As for `setColours`.
        """
        if values:
            segmentationNode.CreateClosedSurfaceRepresentation()
        together = vtk.vtkAppendPolyData()
        for value in values:
            segment = segmentationNode.GetSegmentation().GetSegment(segmentId(value))
            surface = segment.GetRepresentation(CLOSED_SURFACE) if segment else None
            if surface and surface.GetNumberOfPoints():
                together.AddInputData(withValues(surface, mapNode, segment.GetColor()))
        mesh = vtk.vtkPolyData()
        if together.GetNumberOfInputConnections(0):
            together.Update()
            mesh = together.GetOutput()
        _colour(mesh, window, threshold)  # before it is seen
        node = self._nodes.getOrCreate("surface", "vtkMRMLModelNode", _("uncertainty surface"))
        node.SetAndObservePolyData(mesh)
        display = node.GetDisplayNode()
        display.SetActiveScalar(COLOURS, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetScalarRangeFlag(display.UseDirectMapping)
        display.SetScalarVisibility(True)
        display.SetVisibility2D(False)  # the outline is the segmentation's own
        display.SetVisibility(True)

    def setColours(self, window: tuple[float, float], threshold: float):
        """Colour the surface anew, if there is one.

        Args:
            window: The values of the map's first and last colour.
            threshold: Below this the label's own colour is shown.
        """
        if self.node:
            _colour(self.node.GetPolyData(), window, threshold)

    def hide(self):
        """Hide the surface, if there is one."""
        if self.node:
            self.node.GetDisplayNode().SetVisibility(False)


def _colour(mesh: vtk.vtkPolyData, window: tuple[float, float], threshold: float) -> None:
    """Set the colour of each point of a surface that was made here."""
    data = mesh.GetPointData()
    if not (data.HasArray(VALUES) and data.HasArray(LABEL)):  # an empty one, or a file's, changed by hand
        return
    values, plain = (vtk_to_numpy(data.GetArray(name)) for name in (VALUES, LABEL))
    low, high = window
    index = np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(int)
    colours = np.where((values >= threshold)[:, None], np.round(infernoColours() * 255)[index], plain)
    data.AddArray(_array(COLOURS, colours.astype(np.uint8)))  # in place of the earlier ones
    mesh.Modified()


def withValues(surface: vtk.vtkPolyData, volumeNode, colour: tuple[float, float, float]) -> vtk.vtkPolyData:
    """Make a surface with a colour and the interpolated values of a volume at its points.

    Args:
        surface: In the volume's own coordinates, RAS mm.
        volumeNode: A vtkMRMLScalarVolumeNode.
        colour: Of the label, each part 0 to 1.

    Returns:
        A copy that shares the surface's points and cells.
    """
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(float)
    toIjk = np.linalg.inv(ijkToRas(volumeNode))
    ijk = vtk.vtkPolyData()
    ijk.SetPoints(vtk.vtkPoints())
    ijk.GetPoints().SetData(numpy_to_vtk(points @ toIjk[:3, :3].T + toIjk[:3, 3], deep=True))
    # Cut to the surface's box: the probe would look at every voxel's cell.
    bounds = np.reshape(ijk.GetBounds(), (3, 2)) + np.array([-_AROUND, _AROUND])
    cut = vtk.vtkExtractVOI()
    cut.SetInputData(volumeNode.GetImageData())
    size = np.array(volumeNode.GetImageData().GetDimensions())[:, None]
    cut.SetVOI(*np.clip(np.round(bounds).astype(int), 0, size - 1).ravel().tolist())
    probe = vtk.vtkProbeFilter()
    probe.SetInputData(ijk)
    probe.SetSourceConnection(cut.GetOutputPort())
    probe.Update()
    values = vtk_to_numpy(probe.GetOutput().GetPointData().GetScalars())
    result = vtk.vtkPolyData()
    result.ShallowCopy(surface)
    result.GetPointData().AddArray(_array(VALUES, values.astype(np.float32)))
    plain = np.round(np.multiply(colour, 255)).astype(np.uint8)
    result.GetPointData().AddArray(_array(LABEL, np.tile(plain, (len(points), 1))))
    return result


def _array(name: str, values: np.ndarray) -> vtk.vtkDataArray:
    array = numpy_to_vtk(values, deep=True)
    array.SetName(name)
    return array
