"""Bad inputs of every kind, on disk, and the sentence that the user is to read.

`python -m support.bad_inputs FOLDER NAME ...` makes some for those who cannot import torch, and prints JSON: for each
of them, and for a good run, the `source`, the `model`, the `output` and the `sentence`.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.network.export import export
from support import tiny
from support.json_edits import edit, replaced


@dataclass(frozen=True)
class Run:
    """What is given to `predict`; each row of the table changes one thing of a run that would end well."""

    source: Path
    model: Path
    output: Path
    scratch: Path


Change = Callable[[Run], Run]


def make_good(folder: Path) -> Run:
    """A run that ends well."""
    spec = CovarianceSpec(Covariance.DIAGONAL)
    export(tiny.make_results_folder(folder / "raw", covariance=spec), folder / "model")
    sitk.WriteImage(tiny.make_ct(), folder / "ct.nii.gz")
    return Run(folder / "ct.nii.gz", folder / "model", folder, folder)


def make_start(good: Run, folder: Path) -> Run:
    """A run of its own: it may spoil the model, and writes to an empty folder."""
    shutil.copytree(good.model, folder / "model")
    (folder / "results").mkdir()
    return Run(good.source, folder / "model", folder / "results" / "out", folder)


def with_image(make: Callable[[sitk.Image], sitk.Image], name: str = "bad.nii.gz") -> Change:
    def change(run: Run) -> Run:
        sitk.WriteImage(make(sitk.ReadImage(run.source)), run.scratch / name)
        return replace(run, source=run.scratch / name)

    return change


def with_values(make: Callable[[np.ndarray], np.ndarray], name: str = "bad.nii.gz") -> Change:
    def refill(image: sitk.Image) -> sitk.Image:
        changed = sitk.GetImageFromArray(make(sitk.GetArrayFromImage(image).astype(np.float32)))
        changed.CopyInformation(image)
        return changed

    return with_image(refill, name)


def with_bytes(make: Callable[[bytes], bytes], name: str = "bad.nii.gz") -> Change:
    def change(run: Run) -> Run:
        path = run.scratch / name
        if not name.endswith(".nii.gz"):
            sitk.WriteImage(sitk.ReadImage(run.source), path)
        path.write_bytes(make((path if path.exists() else run.source).read_bytes()))
        return replace(run, source=path)

    return change


def named_pipe(run: Run) -> Run:
    os.mkfifo(run.scratch / "pipe.nii.gz")
    return replace(run, source=run.scratch / "pipe.nii.gz")


def with_spacing(millimetres: float) -> Change:
    def respace(image: sitk.Image) -> sitk.Image:
        image.SetSpacing((millimetres,) * 3)
        return image

    return with_image(respace)


def at(field: str, *parts: str) -> Change:
    """Give another path, from the row's scratch folder."""
    return lambda run: replace(run, **{field: run.scratch.joinpath(*parts)})


def empty_folder(run: Run) -> Run:
    (run.scratch / "empty").mkdir()
    return replace(run, source=run.scratch / "empty")


def two_series(run: Run) -> Run:
    folder = run.scratch / "dicom"
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for series, number in ((series, number) for series in (1, 2) for number in range(3)):
        slice_ = sitk.GetImageFromArray(np.arange(400, dtype=np.int16).reshape(20, 20))
        tags = {"0008|0060": "CT", "0020|000d": "1.2", "0020|000e": f"1.2.{series}", "0020|0013": str(number)}
        tags |= {"0008|0018": f"1.2.{series}.{number}", "0020|0032": f"0\\0\\{3 * number}"}
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{number}.dcm"))
        writer.Execute(slice_)
    return replace(run, source=folder)


def nan_and_infinity(values: np.ndarray) -> np.ndarray:
    values[0, 0, :3] = np.nan
    values[-1, -1, -1] = np.inf
    values[-1, -1, 0] = -np.inf
    return values


# --- models ----------------------------------------------------------------------------------------------------------


def without_weights(run: Run) -> Run:
    (run.model / "fold_0" / "weights.safetensors").unlink()
    return run


def changed_weights(run: Run) -> Run:
    path = run.model / "fold_0" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return run


class _Touch:
    """Unpickled, it would make a file: the sign that code of a checkpoint has run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.path}'",)


def code_in_checkpoint(run: Run) -> Run:
    folder = tiny.make_results_folder(run.scratch / "raw")
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"optimizer_state": _Touch(run.scratch / "the-code-ran")}, path)
    return replace(run, model=folder)


def with_other_features(run: Run) -> Run:
    """A raw results folder whose plans name a network that the checkpoint is not of."""
    folder = tiny.make_results_folder(run.scratch / "raw")
    place = ("configurations", tiny.CONFIGURATION, "architecture", "arch_kwargs", "features_per_stage")
    edit(folder / "plans.json", lambda content: replaced(content, place, [8, 16, 32]))
    return replace(run, model=folder)


def with_card(**changes: object) -> Change:
    def change(run: Run) -> Run:
        edit(run.model / "model.json", lambda content: content | changes)
        return run

    return change


def nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


# --- outputs ---------------------------------------------------------------------------------------------------------


def file_in_the_way(run: Run) -> Run:
    (run.scratch / "file").write_text("something else")
    return replace(run, output=run.scratch / "file" / "out")


def others_folder(run: Run) -> Run:
    (run.scratch / "thesis").mkdir()
    (run.scratch / "thesis" / "thesis.tex").write_text("three years of work")
    return replace(run, output=run.scratch / "thesis")


def no_text_as_input(run: Run) -> Run:
    path = run.scratch / "M\udcfcller.nii.gz"
    shutil.copyfile(run.source, path)
    return replace(run, source=path)


REFUSED: dict[str, tuple[Change, str]] = {
    "missing file": (at("source", "nowhere.nii.gz"), "nowhere.nii.gz does not exist; check the path."),
    "empty folder": (empty_folder, "holds no image; give a folder with DICOM slices or"),
    "text file named .nii.gz": (with_bytes(lambda content: b"Dear colleague, " * 99), "not a readable NIfTI image"),
    "truncated gzip": (with_bytes(lambda content: content[: len(content) // 2]), "is truncated or damaged; copy"),
    "named pipe": (named_pipe, "pipe.nii.gz is not a regular file (a folder, pipe, device or socket); give a file."),
    "RGB image": (
        with_image(lambda image: sitk.Compose([sitk.Cast(image, sitk.sitkUInt8)] * 3)),
        "has 3 values per voxel, like a colour image; give a scalar volume.",
    ),
    "all-constant volume": (with_values(lambda values: values * 0 - 5), "Every voxel of the image has the value -5"),
    "spacing of 20 mm": (with_spacing(20), "20 x 20 x 20 mm, not the supported"),
    "DICOM folder with two series": (two_series, "holds 2 DICOM series; choose one with --series: 1.2.1"),
    "no model": (at("model", "nowhere"), "There is no model '"),
    "model without its weights": (without_weights, "lacks fold_0/weights.safetensors"),
    "model with a wrong hash": (changed_weights, "fold_0/weights.safetensors in"),
    "model of an unknown schema": (with_card(schema_version=99), "newer version of MoB Uncertainty (schema 99"),
    "checkpoint that runs code": (code_in_checkpoint, "checkpoint_final.pth"),
    "network that does not fit its plans": (with_other_features, "do not fit the network in plans.json ("),
    "spacing of 400 digits": (with_card(spacing=[10**400, 1, 1]), "is too large; export the model again"),
    "regions of 400 digits": (with_card(regions={"depth_mm": 10**400}), "is too large; export the model again"),
    "training nested 900 deep": (with_card(training={"a": nested(900)}), "is nested more than 64 deep"),
    "a setting with a name of 100,000 letters": (with_card(regions={"x" * 100_000: 1}), " ... "),
    "half a surrogate pair": (with_card(licence="\ud800"), "not valid Unicode (half a surrogate pair)"),
    "output below a file": (file_in_the_way, "choose another folder"),
    "output in a folder of other things": (others_folder, "contains files other than results"),
    "output where nothing can be made": (at("output", "/proc/mob-uncertainty-out"), "/proc"),
    "output that is the name of a file": (at("output", "results", "seg.nii.gz"), "give a folder name, such as seg."),
    "output with too long a name": (at("output", "results", "n" * 256), "File name too long"),
    "output that is no text": (
        at("output", "results", "out\udcfc"),
        r"out\xfc is not a name in UTF-8; choose another folder.",
    ),
    "input that is no text": (no_text_as_input, r"M\xfcller.nii.gz is not a name in UTF-8; rename the file"),
}

OF_LINUX = ("named pipe", "output where nothing can be made", "output with too long a name", "output that is no text")
OF_LINUX += ("input that is no text",)
"""Rows for what other systems lack or call otherwise."""

WORKED_AROUND: dict[str, tuple[Change, str]] = {
    "NaN and infinity, MHA": (
        with_values(nan_and_infinity, "bad.mha"),
        "5 voxels are not finite numbers and were set to air",
    ),
    "NaN and infinity, NIfTI": (
        with_values(nan_and_infinity, "bad.nii.gz"),
        "5 voxels are not finite numbers and were set to air",
    ),
    "NRRD without a space": (
        with_bytes(
            lambda content: content.replace(b"space: left-posterior-superior", b"space dimension: 3"), "bad.nrrd"
        ),
        "bad.nrrd has no valid patient coordinates (its header names no space)",
    ),
    "smaller than one tile": (with_image(lambda image: image[20:36, 16:32, 12:24]), ""),
}


def make(folder: Path, names: list[str]) -> dict[str, dict[str, str]]:
    (folder / "good").mkdir()
    good = make_good(folder / "good")
    rows = {}
    for name in ("good", *names):
        change, sentence = {"good": (lambda _: good, ""), **REFUSED, **WORKED_AROUND}[name]
        scratch = folder / name.replace(" ", "-").replace(".", "-")
        scratch.mkdir(exist_ok=name == "good")
        run = change(make_start(good, scratch) if name != "good" else good)
        paths = {"source": str(run.source), "model": str(run.model), "output": str(run.output)}
        rows[name] = paths | {"sentence": sentence}
    return rows


if __name__ == "__main__":
    print(json.dumps(make(Path(sys.argv[1]), sys.argv[2:])))
