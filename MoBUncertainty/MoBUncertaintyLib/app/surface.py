"""The organs' surface in 3D, coloured by the map that is shown."""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.app.i18n import tr as _
from MoBUncertaintyLib.app.nodes import CtNodes, ijkToRas
from MoBUncertaintyLib.app.segments import CLOSED_SURFACE, segmentId

SCALARS = "Uncertainty"
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

    def show(self, segmentationNode, values: list[int], mapNode, colourNode, window: tuple[float, float]):
        """Make the surface anew and show it.

        Args:
            segmentationNode: Whose segments are taken; their closed surfaces are made if need be.
            values: Of the segments.
            mapNode: The volume whose values colour it.
            colourNode: What colours them.
            window: The values of the first and the last colour.
        """
        if values:
            segmentationNode.CreateClosedSurfaceRepresentation()
        together = vtk.vtkAppendPolyData()
        for value in values:
            segment = segmentationNode.GetSegmentation().GetSegment(segmentId(value))
            surface = segment.GetRepresentation(CLOSED_SURFACE) if segment else None
            if surface and surface.GetNumberOfPoints():
                together.AddInputData(surface)
        node = self._nodes.getOrCreate("surface", "vtkMRMLModelNode", _("uncertainty surface"))
        if together.GetNumberOfInputConnections(0):
            together.Update()
            node.SetAndObservePolyData(coloured(together.GetOutput(), mapNode))
        else:
            node.SetAndObservePolyData(vtk.vtkPolyData())
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(colourNode.GetID())
        display.SetActiveScalar(SCALARS, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetScalarVisibility(True)
        display.SetVisibility2D(False)  # the outline is the segmentation's own
        display.SetVisibility(True)
        self.setWindow(window)

    def setWindow(self, window: tuple[float, float]):
        """Set the values of the first and the last colour."""
        if self.node:
            display = self.node.GetDisplayNode()
            display.SetScalarRangeFlag(display.UseManualScalarRange)
            display.SetScalarRange(*window)

    def hide(self):
        """Hide the surface, if there is one."""
        if self.node:
            self.node.GetDisplayNode().SetVisibility(False)


def coloured(surface: vtk.vtkPolyData, volumeNode) -> vtk.vtkPolyData:
    """A surface with the values of a volume at its points, interpolated.

    Args:
        surface: In the volume's own coordinates, RAS mm.
        volumeNode: A vtkMRMLScalarVolumeNode.

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
    values = vtk.vtkFloatArray()
    values.DeepCopy(probe.GetOutput().GetPointData().GetScalars())
    values.SetName(SCALARS)
    result = vtk.vtkPolyData()
    result.ShallowCopy(surface)
    result.GetPointData().SetScalars(values)
    return result
