"""What tests do in Slicer's core, by `slicer_process.in_slicer`."""

import tempfile

import numpy as np
import slicer
import slicer.util
from PIL import Image
from vtk import vtkMatrix4x4
from vtk.util.numpy_support import vtk_to_numpy

from MoBUncertaintyLib.slicer_app.scene.maps import MapKind
from MoBUncertaintyLib.slicer_app.scene.nodes import ijkToRas, nodesByClass
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import SegmentSpec
from support.slice_views import application, picture, resize, slice_view
from support.standalone import add_volume, make_scene


def describe(path: str, arrays: str) -> dict:
    """Read an .mrb file into a fresh scene; voxels go to the .npz file `arrays`."""
    app = application()
    scene = app.scene
    assert scene.ReadFromMRB(path, True)
    composite = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    ct = scene.GetNodeByID(composite.GetBackgroundVolumeID())
    results = ResultScene(ct)
    variance, shown = results.node("variance"), results.node("shown")
    display, legend = shown.GetDisplayNode(), slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(shown)
    np.savez(
        arrays,
        ct=slicer.util.arrayFromVolume(ct),
        variance=np.maximum.reduce(list(results.overlay.maps.arrays("variance").values())),
        colours=[display.GetColorNode().GetLookupTable().GetTableValue(index)[:3] for index in range(256)],
        segmentation=labels(results.node("segmentation"), ct),
        regions=labels(results.node("regions"), ct),
    )
    return {
        "name": ct.GetName(),
        "ijkToRas": ijkToRas(ct).tolist(),
        "ctRange": [ct.GetDisplayNode().GetWindowLevelMin(), ct.GetDisplayNode().GetWindowLevelMax()],
        "varianceIjkToRas": ijkToRas(variance).tolist(),
        "varianceRange": [display.GetWindowLevelMin(), display.GetWindowLevelMax()],
        "threshold": display.GetLowerThreshold() if display.GetApplyThreshold() else None,
        "legend": [legend.GetTitleText(), legend.GetLabelFormat(), bool(legend.GetVisibility())],
        "foreground": [
            [node.GetForegroundVolumeID() == shown.GetID(), node.GetForegroundOpacity()]
            for node in nodesByClass(scene, "vtkMRMLSliceCompositeNode")
        ],
        "slices": [
            slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()).tolist()
            for node in nodesByClass(scene, "vtkMRMLSliceNode")
        ],
        "layout": nodesByClass(scene, "vtkMRMLLayoutNode")[0].GetViewArrangement(),
        "segmentation": segments(results.node("segmentation")),
        "regions": segments(results.node("regions")),
        "state": results.documents.get("prediction"),
        "surface": surface(results),
        "tree": tree(scene),
    }


def surface(results) -> dict:
    """What of the organ the 3D view shows."""
    node, plain = results.node("surface"), results.node("segmentation").GetDisplayNode()
    mesh = node.GetPolyData() if node.GetDisplayNode().GetVisibility() else None
    coloured = mesh and mesh.GetPointData().GetArray("Uncertainty")
    return {"coloured": bool(coloured), "plain": bool(plain.GetVisibility3D())}


def render(path: str, file: str) -> dict:
    """Draw the axial view of an .mrb file; how much of it is coloured where the heat map should be, and elsewhere."""
    app = application()
    scene, view = app.scene, slice_view(app)
    view.render_window().SetSize(240, 240)
    assert scene.ReadFromMRB(path, True)
    resize(view, 240, 240)
    pixels = picture(view)
    Image.fromarray(pixels.astype(np.uint8)).save(file)

    variance = scene.GetNodeByID(scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed").GetForegroundVolumeID())
    xy_to_ras = slicer.util.arrayFromVTKMatrix(scene.GetNodeByID("vtkMRMLSliceNodeRed").GetXYToRAS())
    y, x = np.indices((240, 240))
    ras = xy_to_ras @ np.stack([x.ravel(), y.ravel(), 0 * x.ravel(), 0 * x.ravel() + 1])
    ijk = np.round(np.linalg.inv(ijkToRas(variance)) @ ras)[:3].astype(int)
    values = slicer.util.arrayFromVolume(variance)
    inside = np.all((ijk >= 0) & (ijk < np.array(values.shape)[::-1, None]), axis=0)
    doubt = np.zeros(inside.shape)
    doubt[inside] = values[tuple(ijk[::-1, inside])]
    coloured = np.ptp(pixels[::-1], axis=-1).ravel() > 30
    left = (x < 170).ravel()  # the legend is on the right
    return {
        "doubtful pixels": int((left & (doubt > 0.07)).sum()),
        "coloured where doubtful": float(coloured[left & (doubt > 0.07)].mean()),
        "coloured elsewhere": float(coloured[left & (doubt < 0.03)].mean()),
        "coloured legend": int(coloured[~left].sum()),
    }


def reuse() -> dict:
    """Show two predictions of one CT after another."""
    scene, _logics = make_scene()
    results = ResultScene(add_volume(scene, np.zeros((8, 9, 10), np.int16), np.eye(4), "CT"))
    counts, segment_lists = [], []
    for names in (["first", "second", "third"], ["only"]):
        labels = np.zeros((8, 9, 10), np.uint8)
        for value in range(1, len(names) + 1):
            labels[2, 2, value] = value
        specs = [SegmentSpec(value, name, (255, 0, 0)) for value, name in enumerate(names, 1)]
        again = ResultScene(results.ctNode)
        again.overlay.setMaps(*({1: np.zeros((8, 9, 10), np.float32)},) * 2)
        list(again.setSegmentation(labels, specs))
        again.overlay.show(MapKind.STANDARD_DEVIATION)
        again.overlay.show(MapKind.VARIANCE)
        again.setRegions(labels, specs)
        again.showInViews()
        counts.append(scene.GetNumberOfNodes())
        segment_lists.append([segment["name"] for segment in segments(again.node("regions"))])
    return {"nodes": counts, "segments": segment_lists}


def labels(segmentation, ct) -> np.ndarray:
    """A label map of the CT's shape: 1 for the first segment, and so on."""
    ids = list(segmentation.GetSegmentation().GetSegmentIDs())
    if not ids:
        return np.zeros_like(slicer.util.arrayFromVolume(ct))
    volume = ct.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(segmentation, ids, volume, ct)
    return slicer.util.arrayFromVolume(volume)


def segments(node) -> list[dict]:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segmentation = node.GetSegmentation()
    found = [segmentation.GetSegment(segment_id) for segment_id in segmentation.GetSegmentIDs()]
    return [
        {
            "name": segment.GetName(),
            "colour": segment.GetColor(),
            "terminology": segment.GetTerminology(),
            "flagged": logic.GetSegmentStatus(segment) == logic.Flagged,
        }
        for segment in found
    ]


def tree(scene) -> list:
    """The subject hierarchy as nested [name, children]."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    def below(item: int) -> list:
        children: list[int] = []
        hierarchy.GetItemChildren(item, children)
        return [[hierarchy.GetItemName(child), below(child)] for child in children]

    return below(hierarchy.GetSceneItemID())


# --- files of other kinds


def points(path: str) -> list[tuple[str, list[float]]]:
    """Read the points of a markups file: labels, and positions in RAS mm."""
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    storage = scene.AddNode(slicer.vtkMRMLMarkupsJsonStorageNode())
    storage.SetFileName(path)
    assert storage.ReadData(node)
    numbers = range(node.GetNumberOfControlPoints())
    return [(node.GetNthControlPointLabel(n), list(node.GetNthControlPointPosition(n))) for n in numbers]


def segmentations(*paths: str) -> list[dict]:
    """Read segmentation files."""
    return list(map(_segmentation, paths))


def _segmentation(path: str) -> dict:
    """Read a segmentation file; positions of voxels are RAS mm."""
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


def make_temporary_folder() -> str:
    """Make a folder as programs do that remove it at their end, and return its path."""
    return tempfile.mkdtemp()
