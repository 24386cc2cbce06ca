"""The panel on the off-screen desktop, Slicer's core without a window, and results in both.

Each file that has one runs in a process of its own.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from support import small_panel
from support.late import slicer
from support.result_scenes import make_results, make_world
from support.slice_views import application


@pytest.fixture(scope="module")
def slicer_application():
    app = application()
    app.layouts = slicer.vtkMRMLLayoutLogic()  # makes the nodes of the views
    app.layouts.SetMRMLScene(app.scene)
    return app


@pytest.fixture
def scene(slicer_application):
    yield slicer_application.scene
    slicer_application.scene.Clear(False)


@pytest.fixture
def world():
    return make_world()


@pytest.fixture
def results(world):
    return make_results(world)


@pytest.fixture(scope="module")
def panel() -> Iterator[Any]:
    """The panel, one for all tests of a file; for `desktop`."""
    yield from small_panel.opened()


@pytest.fixture
def desktop(panel: Any) -> Iterator[Any]:
    """The panel with the fake worker, in an empty scene."""
    yield from small_panel.emptied(panel)


@pytest.fixture
def ui(desktop: Any) -> Any:
    """The panel's widgets."""
    return desktop.ui


@pytest.fixture
def session(desktop: Any) -> Any:
    """The review of a small CT, in the panel."""
    return small_panel.show_fake(desktop)
