"""`scene.mrb` of a prediction: Slicer's scene made from a template, and beside it the files that it names.

Positions are RAS mm, arrays (z, y, x).
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage, sparse

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid, hull, occupied, whole
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.region_settings import DEFAULT_THRESHOLD, Measure
from MoBUncertaintyLib.output.label_record import pack_labels
from MoBUncertaintyLib.output.pages.templates import SCENE_TEMPLATE, fill
from MoBUncertaintyLib.output.pictures.planes import extent
from MoBUncertaintyLib.output.pictures.style import (
    BRIGHTEST_ENTROPY,
    NEGLIGIBLE,
    brightest_variance,
    display_range,
    palette_beside,
)
from MoBUncertaintyLib.output.results_record import KEPT, write_prediction
from MoBUncertaintyLib.output.segment_nrrd import Segment, write_segments
from MoBUncertaintyLib.regions.measure import uncertainty_in
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions

_VIEW_MARGIN, _SMALLEST_VIEW_MM = 1.4, 100.0
_SMOOTHING = (0.5, -0.51) * 15
"""Steps of Taubin's smoothing: each second one undoes the shrinking of that before it."""


def write_scene_file(
    path: Path,
    image: sitk.Image,
    prediction: Prediction,
    regions: Regions,
    name: str,
    volumes: Callable[[], Mapping[str, Path]],
) -> None:
    """Write the scene that shows a prediction, as `results_folder.describe` gives it; raises `OSError`.

    The image has the name by which the user knows it. `volumes` is called at the end for NIfTI files of the maps, by
    names such as `variance_1`: that of the label 1.
    """
    labels, grid = prediction.labels, prediction.grid
    colour = palette_beside(label.colour for label in labels).region
    organs = [Segment.of(label, readable(label.name)) for label in labels]
    doubtful = [
        Segment(
            region.number,
            f"{region.rank}: {region.location}, expected error {region.expected_error_mm3:,.0f} mm³",
            colour,
            {"Segmentation.Status": "flagged"},
        )
        for region in regions.ranked
    ]
    with TemporaryDirectory(dir=path.parent) as temporary:
        folder = Path(temporary)
        write_nifti(folder / "ct.nii.gz", sitk.GetArrayViewFromImage(image), grid)
        write_segments(folder / "segmentation.seg.nrrd", prediction.segmentation, grid, organs, crop=True)
        write_segments(folder / "regions.seg.nrrd", regions.whole_map(), grid, doubtful, crop=True)
        inferno = np.round(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
        lines = (f"{n} {n / 255:.3f} {red} {green} {blue} 255\n" for n, (red, green, blue) in enumerate(inferno))
        (folder / "inferno.ctbl").write_text("".join(lines), encoding="utf-8")
        heat = _Heat(prediction, regions)
        if heat.derived:
            write_nifti(folder / "map.nii.gz", heat.values, heat.grid)
        _write_surface(folder / "surface.vtk", prediction, heat, inferno)
        files = {file.name: file for file in sorted(folder.iterdir())}
        files |= {f"{key}.nii.gz": file for key, file in volumes().items()}
        scene = folder / "scene.mrb"
        segmentations = [
            {"role": "segmentation", "name": f"{name} segmentation", "segments": organs},
            {"role": "regions", "name": f"{name} doubtful regions", "segments": doubtful},
        ]
        text = _scene_text(image, prediction, regions, name, heat, segmentations)
        with zipfile.ZipFile(scene, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo("scene/scene.mrml"), text)
            for file_name, file in files.items():
                # Entries without a time: the same prediction makes the same file.
                info = zipfile.ZipInfo(f"scene/Data/{file_name}")
                with file.open("rb") as content, archive.open(info, "w", force_zip64=True) as entry:
                    shutil.copyfileobj(content, entry)
        scene.replace(path)


class _Heat:
    """The map that is shown over the image: the variance, or the entropy of a model that has none; of all labels.

    Unless it is `derived`, it is one of the prediction's own. It has values on a grid where any label has a probability
    worth a look, a window from the first to the last colour, and a threshold below which nothing is drawn.
    """

    def __init__(self, prediction: Prediction, regions: Regions) -> None:
        settings, variance = regions.settings, prediction.has_variance
        self.measure = Measure.VARIANCE if variance else Measure.ENTROPY
        self.derived = not variance or len(prediction.labels) > 1
        box = whole(prediction.shape)
        if self.derived:
            box = hull(occupied(p, NEGLIGIBLE) for p in prediction.probability)
        self.values = uncertainty_in(box, prediction, self.measure).astype(np.float32, copy=False)
        if not variance:
            self.values[np.max([p[box] for p in prediction.probability], axis=0) <= NEGLIGIBLE] = 0
        grid = prediction.grid
        self.grid = Grid(grid.spacing, grid.rotation, grid.to_ras(np.array([axis.start for axis in box])))
        self.threshold = settings.level_of(Measure.VARIANCE) if variance else DEFAULT_THRESHOLD[Measure.ENTROPY]
        self.window = 0.0, brightest_variance(settings.variance_threshold) if variance else BRIGHTEST_ENTROPY


def _scene_text(
    image: sitk.Image, prediction: Prediction, regions: Regions, name: str, heat: _Heat, shown: Sequence[dict[str, Any]]
) -> str:
    """Fill the template of the scene, in which segmentations are shown."""
    volumes: list[dict[str, Any]] = [{"role": "ct", "name": name, "file": "ct.nii.gz", "range": display_range(image)}]
    for role, title in (("probability", "probability"), ("variance", "predictive variance")):
        for count, label in enumerate(prediction.labels):
            full = f"{name} {title}" + (f"_{count}" if count else "")
            file = f"{role}_{label.value}.nii.gz"
            volumes.append({"role": role, "label": label.value, "name": full, "file": file})
    if heat.derived:
        volumes.append({"role": "map", "name": f"{name} uncertainty map", "file": "map.nii.gz"})
    volumes[-1]["range"] = heat.window  # the last one is shown
    for number, volume in enumerate(volumes, start=1):
        volume["id"] = f"vtkMRMLScalarVolumeNode{number}"
    boxes = [occupied(prediction.segmentation)] if prediction.segmentation.any() else []
    boxes += [regions.box] if regions.ranked else []
    seen = hull(boxes) if boxes else whole(prediction.shape)
    low, high = np.sort([LPS_TO_RAS * corner for corner in extent(image, seen)], axis=0)
    middle, size = (low + high) / 2, float((high - low).max())
    first, last = extent(image, whole(prediction.shape))
    return fill(
        SCENE_TEMPLATE,
        name=name,
        volumes=volumes,
        segmentations=shown,
        documents=_documents(prediction, regions, heat),
        middle=middle.tolist(),
        focus=list(regions.ranked[0].centroid_ras) if regions.ranked else middle.tolist(),
        distance=3 * size,
        width=min(max(_VIEW_MARGIN * size, _SMALLEST_VIEW_MM), float((last - first).max())),
        threshold=heat.threshold,
        digits=2 if heat.window[1] >= 0.04 else 3,
        legend_title="Variance" if heat.measure is Measure.VARIANCE else "Entropy (nats)",
    )


def _documents(prediction: Prediction, regions: Regions, heat: _Heat) -> dict[str, str]:
    """Write the JSON documents by which Slicer's panel goes on with the scene."""
    # A scene is passed on: whose folder the CT came from is nobody's business.
    source = {key: value for key, value in prediction.provenance["input"].items() if key != "path"}
    if "channels" in source:
        source["channels"] = [{key: channel[key] for key in ("name", "sha256")} for channel in source["channels"]]
    entries = write_prediction(prediction.annotated(provenance={"input": source}), regions, lambda *_array: None)
    overlay: dict[str, Any] = {"surface": True, "varianceThreshold": None, "kinds": {}}
    if heat.measure is Measure.VARIANCE:
        overlay["varianceThreshold"] = regions.settings.variance_threshold
        overlay["kinds"] = {"variance": {"threshold": heat.threshold}}
    documents = {
        "predicted": pack_labels(prediction.segmentation, prediction.grid.matrix()),
        "overlay": overlay,
        "prediction": {entry: entries[entry] for entry in KEPT},
    }
    return {document: json.dumps(content, allow_nan=False) for document, content in documents.items()}


def _write_surface(path: Path, prediction: Prediction, heat: _Heat, inferno: np.ndarray) -> None:
    """Write the labels' surfaces as one VTK file: the colours of the map, or the label's own where it is small."""
    parts = [(np.zeros((0, 3)), np.zeros((0, 4), int), np.zeros((0, 3), np.uint8))]
    boxes = ndimage.find_objects(prediction.segmentation, max_label=255)
    for label in prediction.labels:
        if box := boxes[label.value - 1]:
            points, faces = _closed_surface(prediction.segmentation[box] == label.value)
            points = prediction.grid.to_ras(points + [axis.start for axis in box])
            plain = np.tile(np.array(label.colour, np.uint8), (len(points), 1))
            parts.append((points, faces + sum(len(before) for before, _, _ in parts), plain))
    points, faces, plain = map(np.concatenate, zip(*parts, strict=True))
    if np.linalg.det(prediction.grid.rotation) < 0:  # mirrored, in the order z, y, x
        faces = faces[:, ::-1]
    normals, corners = np.zeros_like(points), points[faces]
    across = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    for corner in faces.T:
        np.add.at(normals, corner, across)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    values = ndimage.map_coordinates(heat.values, heat.grid.to_index(points).T, order=1, mode="nearest")
    low, high = heat.window
    index = np.clip((values - low) / (high - low) * 255, 0, 255).astype(int)
    colours = np.where((values >= heat.threshold)[:, None], inferno[index], plain)
    count = len(points)
    with path.open("wb") as file:
        file.write(b"# vtk DataFile Version 3.0\n3D Slicer output. SPACE=RAS\nBINARY\nDATASET POLYDATA\n")
        for head, array, kind in (
            (f"POINTS {count} float", points, ">f4"),
            (f"POLYGONS {len(faces)} {5 * len(faces)}", np.insert(faces, 0, 4, axis=1), ">i4"),
            (f"POINT_DATA {count}\nNORMALS Normals float", normals, ">f4"),
            (f"FIELD FieldData 3\nUncertainty 1 {count} float", values, ">f4"),
            (f"Label 3 {count} unsigned_char", plain, "u1"),
            (f"Colour 3 {count} unsigned_char", colours, "u1"),
        ):
            file.write(head.encode() + b"\n" + array.astype(kind).tobytes() + b"\n")


def _closed_surface(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make the smooth surface of a mask: points as voxel indices (z, y, x), and four of them for each face."""
    solid = np.pad(mask, 1).astype(np.int8)
    size, steps, corners = np.array(solid.shape) + 1, np.eye(3, dtype=int), []
    for axis in range(3):
        one, other = steps[(axis + 1) % 3], steps[(axis + 2) % 3]
        change = np.diff(solid, axis=axis)
        for sign in (1, -1):
            places = np.argwhere(change == sign) + steps[axis]
            around = np.array([0 * one, one, one + other, other])[::-sign]  # counter-clockwise, seen from outside
            corners.append(np.ravel_multi_index(tuple((places[:, None] + around).T), size).T)
    used, faces = np.unique(np.concatenate(corners), return_inverse=True)
    faces = faces.reshape(-1, 4)
    starts, ends = faces.ravel(), np.roll(faces, 1, axis=1).ravel()
    edges = sparse.csr_matrix((np.ones(len(starts), np.float32), (starts, ends)), shape=(len(used),) * 2)
    edges = edges + edges.T
    counts = np.asarray(edges.sum(axis=1))
    points = np.stack(np.unravel_index(used, size), axis=1) - 1.5  # a corner of the first voxel, in the padded mask
    for step in _SMOOTHING:
        points = points + step * (edges @ points / counts - points)
    return points, faces
