"""Slicer's core without a window."""

import pytest


@pytest.fixture(scope="module")
def application():
    slicer = pytest.importorskip("slicer")
    pytest.importorskip("trame_slicer")
    from trame_slicer.core import SlicerApp

    application = SlicerApp()
    slicer.mrmlScene = application.scene
    application.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    application.layouts = slicer.vtkMRMLLayoutLogic()  # makes the nodes of the views
    application.layouts.SetMRMLScene(application.scene)
    return application


@pytest.fixture
def scene(application):
    yield application.scene
    application.scene.Clear(False)
