"""`scene.mrb` of a prediction, written by Slicer's core in a process of its own.

That keeps VTK and torch apart (they have crashed in one process) and what the core prints off the user's terminal.
`slicer_app/scene/standalone.py` is what runs there; arrays travel as files in a folder that is removed at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.geometry import Box, hull, occupied, widened
from MoBUncertaintyLib.images.nifti import PackedVoxels, write_gzip
from MoBUncertaintyLib.output.exchange import HEADER_SIZE, write_prediction
from MoBUncertaintyLib.output.pictures.scales import display_range
from MoBUncertaintyLib.output.pictures.style import NEGLIGIBLE
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions

_AROUND = (4, 4, 4)
"""Voxels around what is drawn, so that values on a surface can be interpolated."""

OTHER_FILES = "scene.mrb was not written, because this version of slicer-core stores volumes in another way."
NO_SLICER_CORE = "scene.mrb was not written, because slicer-core is not installed; get it with: pip install slicer-core"


class SceneError(RuntimeError):
    """The scene was not written; the message says why."""


class SceneCore:
    """Slicer's core, ready to write one scene; as a context, it is stopped at the end.

    Importing the core takes many times as long as the scene: it is started while other work is done.

    Raises:
        SceneError: `slicer-core` is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("slicer") is None:
            raise SceneError(NO_SLICER_CORE)
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "MoBUncertaintyLib.slicer_app.scene.standalone"],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C in the terminal is for the command, which cancels between its steps; this step runs to its end.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )

    def __enter__(self) -> SceneCore:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def write(self, request: dict[str, Any]) -> None:
        """Write what `scene_request` asks for.

        Raises:
            SceneError: The core failed; the last line it leaves on stderr is its reason.
        """
        _, said = self._process.communicate(json.dumps(request))
        if self._process.returncode:
            reason = (said.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
            raise SceneError(f"scene.mrb was not written, because Slicer's core failed: {reason}")


@contextmanager
def scene_core(wanted: bool) -> Iterator[SceneCore | None]:
    """Start Slicer's core if a scene is wanted; None if not, or if there is no core, which `write_scene_file` says."""
    if not wanted or importlib.util.find_spec("slicer") is None:
        yield None
        return
    with SceneCore() as core:
        yield core


def write_scene_file(
    path: Path,
    image: sitk.Image,
    prediction: Prediction,
    regions: Regions,
    name: str,
    packed: Callable[[], Mapping[str, PackedVoxels]] = dict,
    core: SceneCore | None = None,
) -> None:
    """Write the scene that shows a prediction, ready to be reviewed in Slicer.

    The core builds the scene; the voxels of CT and maps, which it would take seconds to copy and pack, are put into
    its files afterwards.

    Args:
        path: The .mrb file, in a folder that exists.
        image: The CT.
        prediction: Of that CT, its provenance as `results_folder.describe` gives it.
        regions: Of that prediction.
        name: Of the CT, as the user knows it.
        packed: Called once the core is done, for maps that are packed already, by names such as `variance_1`.
        core: If it was started before.

    Raises:
        SceneError: `slicer-core` is not installed, or failed.
        OSError: The arrays cannot be handed over, or the file cannot be written.
    """
    work = path.with_name(f"{path.name}.tmp")
    work.mkdir()
    try:
        with nullcontext(core) if core else SceneCore() as there:
            request = scene_request(work, image, prediction, regions, name)
            there.write(request)
        if not zipfile.is_zipfile(request["output"]):
            raise SceneError("scene.mrb was not written, because Slicer's core left an incomplete file.")
        _put_voxels(Path(request["output"]), work / "whole.mrb", _large_arrays(image, prediction), packed())
        (work / "whole.mrb").replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def scene_request(
    folder: Path, image: sitk.Image, prediction: Prediction, regions: Regions, name: str
) -> dict[str, Any]:
    """Ask `standalone.writeRequestedScene` for a scene; what it needs of the arrays is written to `folder`."""
    organs = occupied(prediction.segmentation)
    boxes, of_maps = {"segmentation": organs, "region_map": regions.box}, _part_drawn(prediction, organs)

    def save(key: str, array: np.ndarray) -> dict[str, Any]:
        box = boxes.get(key, of_maps)
        np.save(folder / f"{key}.npy", np.ascontiguousarray(array[box]))  # others are written number by number
        part = {"file": str(folder / f"{key}.npy"), "box": [[int(axis.start), int(axis.stop)] for axis in box]}
        return {"shape": array.shape, "dtype": array.dtype.str} | part

    # A scene is passed on: whose folder the CT came from is nobody's business.
    given = {key: value for key, value in prediction.provenance["input"].items() if key != "path"}
    public = prediction.annotated({"input": given})
    voxels = sitk.GetArrayViewFromImage(image)
    return {
        "output": str(folder / "scene.mrb"),
        "ct": {
            "voxels": {"shape": voxels.shape, "dtype": voxels.dtype.str},
            "ijk_to_ras": prediction.grid.matrix().tolist(),
            "name": name,
            "display_range": display_range(image),
        },
        "prediction": write_prediction(public, regions, save),
    }


def _part_drawn(prediction: Prediction, organs: Box) -> Box:
    """Find the box of the maps that the core needs: the organs' surfaces; all of it to derive what is shown from it."""
    boxes = [organs]
    if len(prediction.labels) > 1 or not prediction.has_variance:
        boxes += [occupied(each, NEGLIGIBLE) for each in prediction.probability]
    return widened(hull(boxes), _AROUND, prediction.shape)


def _large_arrays(image: sitk.Image, prediction: Prediction) -> dict[str, np.ndarray]:
    """Name the volumes as `standalone.writeRequestedScene` names their files."""
    arrays = {"ct": sitk.GetArrayViewFromImage(image)}
    for kind, maps in (("probability", prediction.probability), ("variance", prediction.variance)):
        arrays |= {f"{kind}_{label.value}": each for label, each in zip(prediction.labels, maps, strict=True)}
    return arrays


def _put_voxels(
    built: Path,
    path: Path,
    arrays: Mapping[str, np.ndarray],
    packed: Mapping[str, PackedVoxels],
) -> None:
    """Copy a scene, with the voxels of its large volumes.

    Args:
        built: The scene as the core wrote it.
        path: The copy.
        arrays: These volumes, by the names of their files without the ending.
        packed: Those of them that are packed already, likewise.
    """
    left = set(arrays)
    with zipfile.ZipFile(built) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as scene:
        for entry in source.infolist():
            content, key = source.read(entry), PurePosixPath(entry.filename).stem
            with scene.open(zipfile.ZipInfo(entry.filename), "w", force_zip64=key in arrays) as file:
                if key not in arrays:
                    file.write(content)
                    continue
                left.remove(key)
                file.write(_header_of(content, arrays[key].shape))
                if key in packed:
                    packed[key].write_gzip(file)
                else:
                    write_gzip(file, arrays[key])
    if left:
        raise SceneError(OTHER_FILES)


def _header_of(nrrd: bytes, shape: tuple[int, ...]) -> bytes:
    """Take the header of a file in which a volume has but few voxels, and state how many it has."""
    header, _, _ = nrrd.partition(b"\n\n")
    sizes = ("sizes: " + " ".join(map(str, HEADER_SIZE))).encode()
    if b"\nencoding: gzip\n" not in header + b"\n" or header.count(sizes) != 1:
        raise SceneError(OTHER_FILES)
    return header.replace(sizes, ("sizes: " + " ".join(map(str, reversed(shape)))).encode()) + b"\n\n"
