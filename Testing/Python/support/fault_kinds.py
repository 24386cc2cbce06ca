"""The kinds of faults that `faults.py` puts in: which files, which damage, and what may come of it."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.cli import console  # noqa: F401  (imported once, before any fork)
from MoBUncertaintyLib.images.reader import check_image, read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network.backbone import verify
from MoBUncertaintyLib.output import review_files
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.output.review_files import read_decisions
from MoBUncertaintyLib.pipeline import cases as pipeline
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support import tiny
from support.dicom_files import hounsfield, write_enhanced, write_slices
from support.faults import SEED, Command, Figures, Judge, judge_all, kill_all, must_refuse, run
from support.json_mutants import mutants
from support.mutations import flipped, mutant

KILLS, FLIPS, MUTANTS = 40, 100, 300
IMAGES = ("ct.nii", "ct.nii.gz", "raw.nrrd", "packed.nrrd", "raw.mha", "packed.mha")
HEADERS = {"nifti": 352, "nrrd": 400, "mha": 400, "dicom": 900}

Kinds = dict[str, Callable[[], Figures]]


def make_kinds(folder: Path, share: float = 1.0) -> Kinds:
    """All kinds of faults, ready to be measured.

    Args:
        folder: Where the files to damage are made.
        share: Of the usual number of faults.
    """
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    tempfile.tempdir = str(folder / "tmp")
    Path(tempfile.tempdir).mkdir()
    prepared = os.fork()  # torch computes in other processes only, so that this one can be forked at any time
    if prepared == 0:
        try:
            _prepare(folder)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(prepared, 0)[1]:
        raise RuntimeError("The files to damage cannot be made.")
    counts = [max(1, round(share * count)) for count in (KILLS, FLIPS, MUTANTS)]
    return _kills(folder, counts[0]) | _flips(folder, counts[1]) | _mutants(folder, counts[2])


def _prepare(folder: Path) -> None:
    """A CT in every format, DICOM, models, results, a review, decisions."""
    from MoBUncertaintyLib.network.export import export

    ct = tiny.make_ct((28, 32, 32), (4.0, 4.0, 4.0))
    for name in IMAGES:
        sitk.WriteImage(ct, folder / name, useCompression=name.startswith("packed") or name == "ct.nii.gz")
    write_slices(folder / "dicom", hounsfield())
    write_enhanced(folder / "enhanced" / "ct.dcm", hounsfield())
    small = tiny.make_ct((24, 24, 24), (6.0, 6.0, 6.0))
    sitk.WriteImage(small, folder / "small.nii.gz")
    spec = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)
    raw = tiny.make_results_folder(folder / "raw", covariance=spec)
    tiny.make_results_folder(folder / "stock", dataset=tiny.make_dataset(orientation="RAS"))
    export(raw, folder / "model", name="Tiny", regions={"minimum_mm3": 300.0})
    export(raw, folder / "model.zip", name="Tiny")
    arguments = _predict(folder, folder / "results")
    if code := run(arguments, folder / "log.txt"):
        raise RuntimeError(f"{code}: {(folder / 'log.txt').read_text()}")
    results = read_results(folder / "results")
    ranks = [region.rank for region in results.regions.ranked]
    if not ranks:
        raise RuntimeError("The prediction has no doubtful region to review.")
    verdicts = ("include", "accept", "exclude")
    decisions = {
        "schema": "mob-uncertainty review",
        "schema_version": 2,
        "regions": [{"rank": rank, "verdict": verdicts[rank % 3], "comment": "köstlich"} for rank in ranks],
        "signature": {"name": "Ada Müller", "time": "2026-05-31T14:30:00+02:00"},
    }
    (folder / "decisions.json").write_text(json.dumps(decisions))
    if code := run(_review(folder, folder / "export"), folder / "log.txt"):
        raise RuntimeError(f"{code}: {(folder / 'log.txt').read_text()}")


def _predict(folder: Path, output: Path, *more: str) -> tuple[str, ...]:
    options = ("--no-scene", "--device", "cpu", "--overlap", "0", "--model", str(folder / "model"))
    return ("predict", str(folder / "ct.nii.gz"), *options, "--output", str(output), *more)


def _review(folder: Path, output: Path, *more: str) -> tuple[str, ...]:
    decisions = str(folder / "decisions.json")
    return ("review", str(folder / "results"), "--decisions", decisions, "--output", str(output), *more)


# --- kills ------------------------------------------------------------------------------------------------------------


def _kills(folder: Path, count: int) -> Kinds:
    place = folder / "kills"
    place.mkdir()
    (place / "notes.txt").write_text("a reader's own\n")
    results, review, model = place / "results", place / "review", place / "model.zip"

    def command(arguments: tuple[str, ...], target: Path, read: Callable[[Path], object]) -> Command:
        def state() -> str:
            if (place / "notes.txt").read_text() != "a reader's own\n":
                raise RuntimeError("a file of the reader's own is gone")
            if not target.exists():
                return "nothing"
            read(target)
            return "whole"

        return Command(arguments, state, partial(_remove, target), (place, Path(tempfile.tempdir)))

    commands = {
        "predict": command(_predict(folder, results), results, _use_results),
        "predict --overwrite": command(_predict(folder, results, "--overwrite"), results, _use_results),
        "review": command(_review(folder, review), review, partial(_use_review, folder)),
        "review --overwrite": command(_review(folder, review, "--overwrite"), review, partial(_use_review, folder)),
        "export": command(("export", str(folder / "raw"), "--output", str(model)), model, load_model),
    }
    # What is to be overwritten is there from the run that must not be overwritten.
    return {
        f"killed: {name}": partial(kill_all, f"killed: {name}", each, count, folder) for name, each in commands.items()
    }


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _use_results(folder: Path) -> str:
    read_results(folder)
    return "accepted"


def _use_review(folder: Path, export: Path) -> str:
    decisions = read_decisions(export / "report.json")
    review_files.apply_decisions(read_results(folder / "results"), decisions)
    return "accepted"


# --- flipped bits -----------------------------------------------------------------------------------------------------


def _flips(folder: Path, count: int) -> Kinds:
    kinds: Kinds = {}

    def add(name: str, path: Path, judge: Judge, start: int = 0) -> None:
        def measure() -> Figures:
            content, chance = path.read_bytes(), random.Random(f"{SEED} {name}")
            return judge_all(name, path, [flipped(content, chance, start) for _ in range(count)], judge)

        kinds[name] = measure

    packed = {"packed.nrrd": b"\n\n", "packed.mha": b"ElementDataFile = LOCAL\n"}
    for name in IMAGES:
        path = folder / name
        judge = _image_judge(path)
        if name == "ct.nii.gz":
            add(f"flipped, read: {name}", path, must_refuse(judge))
        elif name in packed:
            start = path.read_bytes().index(packed[name]) + len(packed[name])
            add(f"flipped, read: {name}, voxels", path, must_refuse(judge), start)
            add(f"flipped, read: {name}, anywhere", path, judge)
        else:
            add(f"flipped, read: {name}", path, judge)
    slices = sorted((folder / "dicom").iterdir())
    add("flipped, read: DICOM slice", slices[2], _image_judge(folder / "dicom", fixed=True))
    add("flipped, read: enhanced DICOM", folder / "enhanced" / "ct.dcm", _image_judge(folder / "enhanced" / "ct.dcm"))
    for path in sorted((folder / "results").iterdir()):
        judge = must_refuse(lambda _: _use_results(folder / "results"))
        add(f"flipped, written: {path.name}", path, judge)
    for path in sorted((folder / "export").iterdir()):
        judge = must_refuse(lambda _: _use_review(folder, folder / "export"))
        add(f"flipped, written: {path.name}", path, judge)
    for path in sorted((folder / "model").rglob("*.*")):
        use = _use_model(folder / "model")
        add(f"flipped, written: {path.name}", path, use if path.name == "model.json" else must_refuse(use))
    add("flipped, written: model.zip", folder / "model.zip", _use_model(folder / "model.zip"))
    return kinds


def _image_judge(source: Path, fixed: bool = False) -> Judge:
    """Reads twice, and compares with the undamaged image and with what SimpleITK reads.

    Args:
        source: What is read, undamaged yet.
        fixed: It is read wherever the damaged file is.
    """
    whole = read_image(source).image

    def judge(path: Path) -> str:
        given = source if fixed else path
        first = read_image(given)
        second = read_image(given)
        if not _same(first.image, second.image) or first.sha256 != second.sha256:
            return "differs"
        if _same(first.image, whole):
            return "unchanged"
        if first.is_dicom:
            return "as pydicom reads it" if np.allclose(_voxels(first.image), _as_pydicom_reads(given)) else "wrong"
        with tempfile.TemporaryDirectory() as folder:  # alone, since SimpleITK takes a neighbour's voxels
            for file in first.files:
                shutil.copy(file, folder)
            values, _ = check_image(sitk.ReadImage(str(Path(folder, given.name))))
        if _same(first.image, values):
            return "as SimpleITK reads it"
        return "voxels that are no numbers" if any("not finite" in text for text in first.warnings) else "wrong"

    return judge


def _as_pydicom_reads(path: Path) -> np.ndarray:
    """Voxels of a folder of slices, from below, or of an enhanced file, each slice with its own rescaling."""
    slices = []
    for file in [path] if path.is_file() else path.iterdir():
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [dataset]
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [dataset])[0]
        for group, values in zip(
            groups, np.reshape(dataset.pixel_array, (-1, *dataset.pixel_array.shape[-2:])), strict=True
        ):
            rescale = (shared.get("PixelValueTransformationSequence") or [dataset])[0]
            place = (group.get("PlanePositionSequence") or [dataset])[0].ImagePositionPatient[2]
            slope, intercept = float(rescale.get("RescaleSlope", 1)), float(rescale.get("RescaleIntercept", 0))
            slices.append((place, values * slope + intercept))
    return np.stack([values for _, values in sorted(slices, key=lambda each: each[0])])


def _voxels(image: sitk.Image) -> np.ndarray:
    """From below, whatever the direction of the axis."""
    values = sitk.GetArrayViewFromImage(image)
    return values[:: -1 if image.GetDirection()[8] < 0 else 1]


def _same(one: sitk.Image, other: sitk.Image) -> bool:
    geometry = ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
    alike = all(np.array_equal(getattr(one, get)(), getattr(other, get)()) for get in geometry)
    return alike and np.array_equal(*map(sitk.GetArrayViewFromImage, (one, other)), equal_nan=True)


def _use_model(path: Path) -> Judge:
    whole = verify(path).card

    def judge(_: Path) -> str:
        model = verify(path)
        return "unchanged" if model.card == whole else "accepted"

    return judge


# --- mutants ----------------------------------------------------------------------------------------------------------


def _mutants(folder: Path, count: int) -> Kinds:
    kinds: Kinds = {}

    def add(name: str, path: Path, judge: Judge, contents: Callable[[], list[bytes]]) -> None:
        kinds[name] = lambda: judge_all(name, path, contents(), judge)

    def of_bytes(path: Path, kind: str, packed: bool = False) -> list[bytes]:
        content, chance = path.read_bytes(), random.Random(f"{SEED} mutants {path.name}")
        content = gzip.decompress(content) if packed else content
        made = [mutant(content, chance, HEADERS[kind]) for _ in range(count // 2)]
        return [gzip.compress(each, 1) for each in made] if packed else made

    def of_json(path: Path) -> list[bytes]:
        return list(mutants(json.loads(path.read_text(encoding="utf-8")), count, SEED))

    for kind, names in {
        "nifti": ("ct.nii", "ct.nii.gz"),
        "nrrd": ("raw.nrrd", "packed.nrrd"),
        "mha": ("raw.mha", "packed.mha"),
    }.items():
        for name in names:
            path = folder / name
            add(f"mutants: {name}", path, _image_judge(path), partial(of_bytes, path, kind, name == "ct.nii.gz"))
    slices, enhanced = sorted((folder / "dicom").iterdir()), folder / "enhanced" / "ct.dcm"
    judge = _image_judge(folder / "dicom", fixed=True)
    add("mutants: DICOM slice", slices[3], judge, partial(of_bytes, slices[3], "dicom"))
    add("mutants: enhanced DICOM", enhanced, _image_judge(enhanced), partial(of_bytes, enhanced, "dicom"))
    card, plans = folder / "model" / "model.json", folder / "stock" / "plans.json"
    small = folder / "small.nii.gz"
    add("mutants: model card", card, partial(_predict_with, folder / "model", small), partial(of_json, card))
    add("mutants: plans", plans, partial(_predict_with, folder / "stock", small), partial(of_json, plans))
    record, decisions = folder / "results" / "prediction.json", folder / "decisions.json"
    add("mutants: prediction.json", record, lambda path: _use_results(path.parent), partial(of_json, record))
    add("mutants: decisions", decisions, lambda path: _decide(folder, path), partial(of_json, decisions))
    return kinds


def _predict_with(model: Path, image: Path, _: Path) -> str:
    settings = PredictionSettings(device="cpu", overlap=0.0, precision="float32")
    pipeline.analyse(read_image(image).image, Predictor(load_model(model), settings))
    return "accepted"


def _decide(folder: Path, path: Path) -> str:
    review_files.apply_decisions(read_results(folder / "results"), read_decisions(path))
    return "accepted"
