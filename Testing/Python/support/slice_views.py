"""Slice views on Slicer's core, drawn off screen; only in a process of their own."""

import numpy as np

from support.late import slicer, vtk


def application():
    """Slicer's logics and a scene, as a running Slicer has them."""
    from trame_slicer.core import SlicerApp

    app = SlicerApp()
    slicer.mrmlScene = app.scene
    app.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    return app


def slice_view(app, name: str = "Red"):
    """A view in which nothing is drawn before somebody asks for a picture."""
    from trame_slicer.views import NoScheduleRendering, SliceView

    return SliceView(app.scene, app.app_logic, name, scheduled_render_strategy=NoScheduleRendering())


def resize(view, width: int, height: int) -> None:
    view.render_window().SetSize(width, height)
    view._logic.ResizeSliceNode(width, height)


def picture(view) -> np.ndarray:
    """What the view shows: (y, x, 3), 0 to 255, from the top."""
    view.render_window().Render()
    shot = vtk.vtkWindowToImageFilter()
    shot.SetInput(view.render_window())
    shot.ReadFrontBufferOff()
    shot.Update()
    width, height, _ = shot.GetOutput().GetDimensions()
    values = vtk.util.numpy_support.vtk_to_numpy(shot.GetOutput().GetPointData().GetScalars())
    return values.reshape(height, width, -1)[::-1, :, :3].astype(int)
