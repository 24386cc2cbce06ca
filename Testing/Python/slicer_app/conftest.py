"""Slicer's core without a window, and results in it."""

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


@pytest.fixture
def world():
    from support.result_scenes import make_world

    return make_world()


@pytest.fixture
def results(world):
    from support.result_scenes import make_results

    return make_results(world)
