"""A small fake prediction of two organs in a scene of Slicer's own core, for tests in a process of their own."""

from types import SimpleNamespace

import numpy as np

from support import standalone
from support.fake_case import ANATOMY
from support.late import slicer, slicer_app

SHAPE = (14, 20, 24)
MATRIX = np.array([[1.6, -0.6, 0, -20], [0.8, 1.2, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])  # oblique, RAS mm


def arrays(organs=(1, 2)):
    """Probability and variance of balls side by side, and their label map."""
    z, y, x = np.indices(SHAPE).astype(np.float32)
    probability = {
        organ: 1 / (1 + np.exp(np.sqrt((x - 7 * organ) ** 2 + (y - 9) ** 2 + (z - 6) ** 2) - 3.5)) for organ in organs
    }
    probability = {organ: np.where(p > 0.01, p, 0).astype(np.float32) for organ, p in probability.items()}
    variance = {organ: np.float32(0.3) * p * (1 - p) for organ, p in probability.items()}
    labels = np.zeros(SHAPE, np.uint8)
    for organ, p in probability.items():
        labels[p > 0.5] = organ
    return probability, variance, labels


def region_labels():
    labels = np.zeros(SHAPE, np.uint16)
    labels[5:8, 8:11, 3:5] = 1
    labels[5:8, 8:11, 17:20] = 2
    return labels


def make_world() -> SimpleNamespace:
    """An empty scene, and the rooms under test, which must not be imported by the process that collects the tests."""
    mrml, logics = standalone.make_scene()
    return SimpleNamespace(
        slicer=slicer,
        scene=mrml,
        logics=logics,
        rooms=slicer_app.scene.results,
        standalone=standalone,
        nodes=slicer_app.scene.nodes,
        MapKind=slicer_app.scene.maps.MapKind,
    )


def make_results(world: SimpleNamespace):
    """A `ResultScene` of two organs and two regions."""
    ct = world.standalone.add_volume(world.scene, np.zeros(SHAPE, np.int16), MATRIX, "CT")
    found = world.rooms.ResultScene(ct)
    fill(world, found)
    return found


def fill(world, found, organs=(1, 2)):
    spec = world.rooms.SegmentSpec
    probability, variance, labels = arrays(organs)
    found.overlay.setMaps(probability, variance)
    terminology = {"category": ANATOMY, "type": ("SCT", "15776009", "Pancreas"), "modifier": None}
    specs = [spec(organ, f"organ {organ}", (200, 90, 10 * organ), terminology) for organ in organs]
    list(found.setSegmentation(labels, specs))
    found.setRegions(region_labels(), [spec(n, f"region {n}", (0, 220, 255)) for n in (1, 2)])
    flagged = world.slicer.vtkSlicerSegmentationsModuleLogic.Flagged
    slicer_app.scene.segments.describe(found.regions, {}, {1: flagged, 2: flagged})
    found.overlay.show(world.MapKind.VARIANCE)


def region_status(found, label):
    """Slicer's own segment status of a region."""
    segment = found.node("regions").GetSegmentation().GetSegment(f"Segment_{label}")
    return slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment)


def legends(world, found):
    """Title and visibility of the legend of each volume that has one."""
    volumes = [node for role in ("variance", "probability", "map") for node in found.nodes.nodes(role)]
    every = [world.slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(volume) for volume in volumes]
    return [legend.GetTitleText() for legend in every if legend and legend.GetVisibility()]


def surface_points(found, organ):
    segment = found.node("segmentation").GetSegmentation().GetSegment(f"Segment_{organ}")
    surface = segment.GetRepresentation("Closed surface")
    return None if surface is None else (surface.GetMTime(), surface.GetNumberOfPoints())
