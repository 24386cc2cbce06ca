"""The results folder: written to a hidden folder beside the target, which takes its name at the end, and read again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, OutputError, reason_of
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid
from MoBUncertaintyLib.base.integrity import make_manifest, seal
from MoBUncertaintyLib.base.names import label_file_names
from MoBUncertaintyLib.base.publishing import absolute, sweep
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.images.reader import read_volume, volume_stem
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.folders import FolderInProgress, FolderKind, Parts
from MoBUncertaintyLib.output.formats import Format
from MoBUncertaintyLib.output.pages.review_page import write_review_page
from MoBUncertaintyLib.output.pictures.overlay import draw_overlay
from MoBUncertaintyLib.output.report import write_measurements
from MoBUncertaintyLib.output.results_record import (
    RECORD,
    SCHEMA,
    SCHEMA_VERSION,
    prediction_of,
    read_labels,
    read_record,
    record_of,
)
from MoBUncertaintyLib.output.scene_file import write_scene_file
from MoBUncertaintyLib.regions.description import RegionDescriber, organ_names
from MoBUncertaintyLib.regions.prediction import Prediction, predicted_intervals
from MoBUncertaintyLib.regions.region import Regions, as_stored, own_of, write_csv


class Results(NamedTuple):
    """A results folder, read; `review_files.open_case` finds its image."""

    prediction: Prediction
    regions: Regions
    source: Source


class Written(NamedTuple):
    """What was written: `prediction.json`, all warnings, and those of them on what could not be written."""

    record: dict[str, Any]
    warnings: list[str]
    problems: list[str]


MAPS = ("probability", "variance")

FOLDER = FolderKind(
    noun="results", one="results", earlier="earlier results", main="segmentation.nii.gz", record=RECORD, schema=SCHEMA
)
"""A folder with anything else in it than its record lists, a reader's review say, is never replaced."""


def write_results(
    place: FolderInProgress,
    case: Case,
    formats: Sequence[Format] = (),
    *,
    scene: bool = True,
    volumes: Future[dict[str, Path]] | None = None,
    more: Callable[[Path], None] | None = None,
) -> Written:
    """Write a results folder; raises `OutputError` if it cannot be written, and leaves nothing of it.

    Args:
        place: From `FOLDER.reserve`.
        formats: DICOM objects to write too.
        volumes: `write_volumes`, if it has already begun.
        more: Writes more files to the folder that it is called with.
    """
    start = time.monotonic()
    image, name, regions = case.image, case.source.name, case.regions
    # Threads below look at the voxels, and none runs a filter on the image. SimpleITK's view first copies what is
    # shared, and another thread's view would then be of freed memory; from here on nothing is shared.
    image.MakeUnique()
    with place.writing() as partial, ThreadPoolExecutor(3) as beside:
        volumes = volumes or beside.submit(write_volumes, partial, case.prediction)
        described = describe(case.prediction, regions, case.source)
        shown = (partial / "scene.mrb", image, described, regions, volume_stem(name) or "Image", volumes.result)
        drawn = beside.submit(write_scene_file, *shown) if scene else None
        picture = beside.submit(draw_overlay, partial / "overlay.png", image, case.prediction, regions, name)
        write_nifti(partial / "regions.nii.gz", regions.whole_map(), described.grid)
        write_csv(regions, partial / "regions.csv", organ_names(case.prediction, regions))
        if case.prediction.measured:
            write_measurements(partial / "measurements.csv", case.prediction.measured)
        parts = Parts(partial)
        if drawn:
            with parts.part("The scene", "scene.mrb"):
                drawn.result()
        of_page = Case(image, described, regions, case.source)
        if formats:
            with parts.part("The DICOM part"):  # the packages that it needs may be damaged
                from MoBUncertaintyLib.output.dicom.objects import write_objects

                write_objects(formats, parts, of_page, of_page.review.corrected())
        with parts.part("The picture", "overlay.png"):
            picture.result()
        before = len(parts.problems)
        described.warnings.extend(parts.sentences)
        with parts.part("The review page", "review.html"):
            write_review_page(partial / "review.html", of_page)
        described.warnings.extend(parts.problems[before:])
        volumes.result()
        if more:
            more(partial)
        record = record_of(described)
        record["timings_s"]["write"] = round(time.monotonic() - start, 3)
        record = seal(json.loads(json.dumps(record, default=str)) | {"files": make_manifest(partial)})
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
    return Written(record, parts.sentences + place.warnings, parts.problems)


def read_results(folder: str | Path) -> Results:
    """Read a results folder; raises `OutputError` if it is not one, or one of its files cannot be read."""
    folder = absolute(folder)
    if not folder.exists():
        sweep(folder.parent)  # an earlier result may be hidden, where a run was killed that replaced it
    if not FOLDER.recognises(folder):
        raise OutputError(f"{folder} is not a results folder; give one that mob-uncertainty predict has written.")
    try:
        record = read_record(folder)
        labels = read_labels(record["labels"])
        size = record["input"]["size"]
        segmentation, grid = _read_labels(folder / "segmentation.nii.gz", size, [label.value for label in labels])
        region_map, _ = _read_labels(folder / "regions.nii.gz", size, [record["regions"]["count"]])
        p, v = ([_read_map(path, size) for path in _map_files(folder, kind, labels)] for kind in MAPS)
        prediction = prediction_of(record, labels, (segmentation, p, v), grid)
        regions = RegionDescriber(prediction).describe_all(region_map, prediction.region_settings)
        if stored := record["regions"].get("ranked"):
            pairs = zip(regions.ranked, stored, strict=True)
            regions = replace(regions, ranked=tuple(as_stored(*pair) for pair in pairs))
    except (OSError, ValueError, ImageError) as error:
        raise OutputError(f"The results in {folder} are damaged ({reason_of(error)}); predict again.") from error
    return Results(prediction, regions, Source.of(record["input"]))


def _read(path: Path, size: list[int]) -> tuple[np.ndarray, Grid]:
    image = read_volume(path)
    if list(image.GetSize()) != size:
        raise ValueError("its volumes differ in size")
    return sitk.GetArrayFromImage(image), grid_of(image)


def _read_labels(path: Path, size: list[int], values: list[int]) -> tuple[np.ndarray, Grid]:
    array, grid = _read(path, size)
    if array.dtype.kind != "u" or array.max() > max(values, default=0):
        raise ValueError(f"{path.name} has values without a label or region")
    return array, grid


def _read_map(path: Path, size: list[int]) -> np.ndarray:
    array, _ = _read(path, size)
    if array.dtype != np.float32 or not math.isfinite(array.min()) or not math.isfinite(array.max()):
        raise ValueError("its maps have values that are not finite numbers")
    return array


def write_volumes(folder: Path, prediction: Prediction) -> dict[str, Path]:
    """Write segmentation, probability and variance; return the maps' files by names such as `variance_1` (label 1)."""
    write_nifti(folder / "segmentation.nii.gz", prediction.segmentation, prediction.grid)
    files = {}
    for kind in MAPS:
        paths = _map_files(folder, kind, prediction.labels)
        for path, label, voxels in zip(paths, prediction.labels, getattr(prediction, kind), strict=True):
            write_nifti(path, voxels, prediction.grid)
            files[f"{kind}_{label.value}"] = path
    return files


def _map_files(folder: Path, kind: str, labels: Sequence[Label]) -> list[Path]:
    """Name one file for one label; of several, one for each in their order."""
    if len(labels) == 1:
        return [folder / f"{kind}.nii.gz"]
    return [folder / f"{kind}_{name}.nii.gz" for name in label_file_names([label.name for label in labels])]


def describe(prediction: Prediction, regions: Regions, source: Source | None = None) -> Prediction:
    """Return the prediction with what came in and what came out in its provenance: all that its record says."""
    volumes, grid = prediction.stated_volumes, prediction.grid
    errors = [volume.error_ml for volume in volumes.values()]
    error = prediction.expected_error_mm3 / 1000 if len(errors) > 1 else sum(errors)
    intervals = {name: interval.to_dict() for name, interval in predicted_intervals(prediction).items()}
    facts = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {
            **(source or Source()).to_dict(),
            "size": prediction.shape[::-1],
            "spacing_mm": grid.spacing[::-1].tolist(),
            "origin_lps_mm": (LPS_TO_RAS * grid.origin).tolist(),
            "direction": (LPS_TO_RAS[:, None] * grid.rotation[:, ::-1]).ravel().tolist(),
        },
        "labels": [
            asdict(label)
            | {"volume_ml": round(volumes[label.name].ml, 3)}
            | {"expected_error_ml": round(volumes[label.name].error_ml, 4)}
            | ({"interval_ml": intervals[label.name]} if label.name in intervals else {})
            for label in prediction.labels
        ],
        "expected_error_ml": round(error, 4),
        "regions": {
            "count": len(regions.ranked),
            "expected_error_mm3": round(sum(region.expected_error_mm3 for region in regions.ranked), 1),
            **({"coverage": asdict(regions.coverage)} if regions.coverage else {}),
            **({"ranked_by": regions.ranked_by} if regions.ranked_by else {}),
            **({"ranked": list(map(own_of, regions.ranked))} if prediction.checked or regions.ranked_by else {}),
        },
        "timings_s": {stage: round(seconds, 3) for stage, seconds in prediction.timings.items()},
    }
    warnings = list(prediction.warnings)
    return prediction.annotated(provenance=facts, region_settings=regions.settings, warnings=warnings)
