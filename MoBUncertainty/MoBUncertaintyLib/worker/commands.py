"""What the worker does on request; nothing heavy is imported before a request needs it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.worker.progress import ELSEWHERE, OF_A_FILE, Estimate, Pace
from MoBUncertaintyLib.worker.protocol import Command, Fields, ProtocolError, understanding
from MoBUncertaintyLib.worker.server import Handler, Report
from MoBUncertaintyLib.worker.worklist import CaseList, input_of, open_case, sign_case

if TYPE_CHECKING:
    import numpy as np

    from MoBUncertaintyLib.inference.maps.members import AnyPredictor
    from MoBUncertaintyLib.model.folder import Model
    from MoBUncertaintyLib.model.region_settings import RegionSettings
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry
    from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings, Progress
    from MoBUncertaintyLib.regions.region import Regions
    from MoBUncertaintyLib.worker.remote.connection import Connection


USUAL_VOXELS = 30_000_000
"""Of a CT whose size is not known yet."""

DOWNLOAD = 0.95
"""Fraction of an installation that the download is taken to be."""


def handlers_here() -> dict[str, Handler]:
    """Make the handlers of the application's own worker."""
    predictions = Predictions()
    return {
        Command.PREDICT: predictions.predict,
        Command.PREDICT_CASE: predictions.predict_case,
        Command.EXPORT: export_review,
        Command.CALIBRATE: calibrate,
        Command.COMPUTER: ask_computer,
        Command.LIST: list_catalogue,
        Command.PICTURE: fetch_picture,
        Command.INSTALL: install_model,
        Command.CASES: CaseList(),
        Command.OPEN_CASE: open_case,
        Command.SIGN_CASE: sign_case,
    }


def handlers_for_another_computer() -> dict[str, Handler]:
    """Make the handlers of a worker that computes for another computer, and does nothing else for it."""
    return {
        Command.PREDICT: Predictions().predict_sent,
        Command.COMPUTER: describe_computer,
        Command.MODEL: has_model,
        Command.KEEP: keep_model,
    }


class Predictions:
    """Answers `predict` and `predict-case`, and keeps the last models loaded, here or there, whatever the settings."""

    def __init__(self) -> None:
        self._pace, self._case_paces = Pace(), {True: Pace(OF_A_FILE), False: Pace(ELSEWHERE)}  # whether it is here
        self._voxels = USUAL_VOXELS  # of the last case
        self._predictor: AnyPredictor | None = None
        self._key: object = None
        self._connection: Connection | None = None

    def predict(self, request: Fields, report: Report) -> Fields:
        """Predict on the computer that the request names, or else here."""
        computer, connection = request.get("computer"), self._connection
        if connection and connection.host != computer:
            connection.close()
            self._connection = None
        if not computer:
            return self(request, report)
        self._connection = self._connection or _connect(computer)
        return self._connection.predict(request, report)

    def __call__(self, request: Fields, report: Report) -> Fields:
        """Predict, find the doubtful regions and write the arrays; see `protocol`."""
        import numpy as np

        voxels = int(np.prod(np.load(request["ct"]["array"], mmap_mode="r").shape))
        paths, key = _identify_models(request["models"])
        key = key, None
        estimate = Estimate(self._pace.expected(voxels, warm=key == self._key))

        def tell(stage: str, done: int, total: int) -> None:
            report.progress(estimate.step(stage, done, total))

        tell("model", 0, 1)
        from MoBUncertaintyLib.images.memory import check_memory
        from MoBUncertaintyLib.output.case import Source
        from MoBUncertaintyLib.output.results_folder import describe
        from MoBUncertaintyLib.pipeline.cases import analyse
        from MoBUncertaintyLib.worker.arrays import read_volume

        predictor = self._warm(paths, key, _settings(request))
        region_settings = _region_settings(request, predictor.model)
        check_memory(voxels, len(predictor.labels), holders=2)  # Slicer is the other one
        tell("model", 1, 1)
        image, digest = read_volume(request["ct"])
        others = {name: read_volume(volume) for name, volume in (request.get("channels") or {}).items()}
        case = analyse(
            image,
            predictor,
            region_settings,
            lambda step: tell(step.stage, step.done, step.total),
            channels={name: read for name, (read, _) in others.items()},
        )
        for message in case.prediction.warnings:
            report.warning(message)
        named = tuple({"name": name, "sha256": sha256} for name, (_, sha256) in others.items())
        source = Source(name=request["ct"].get("name") or "", sha256=digest, channels=named)
        described = describe(case.prediction, case.regions, source)
        fields = _hand_over(Path(request["folder"]), described, case.regions, tell)
        self._pace.learn(estimate.seconds, voxels)
        return fields | {"seconds": {stage: round(seconds, 3) for stage, seconds in estimate.seconds.items()}}

    def predict_sent(self, request: Fields, report: Report) -> Fields:
        """Predict for another computer: what it has sent, by models that it has sent, and no other file of this one."""
        from MoBUncertaintyLib.worker.remote.models import find

        volumes = [request["ct"], *(request.get("channels") or {}).values()]
        sent = request.get("files", {}).values()
        if not sent or any(volume["array"] not in sent for volume in volumes):
            raise ProtocolError("The request names a volume that was not sent.")
        if not all(find(model) for model in request["models"]):
            raise ProtocolError("The request names a model that was not sent.")
        return self(request, report)

    def predict_case(self, request: Fields, report: Report) -> Fields:
        """Predict a case of a cohort into its results folder; keep results that can be read."""
        (paths, key), computer = _identify_models(request["models"]), request.get("computer")
        pace = self._case_paces[computer is None]
        estimate = Estimate(pace.expected(self._voxels, warm=(key, computer) == self._key))

        def tell(stage: str, done: int, total: int) -> None:
            report.progress(estimate.step(stage, done, total))

        tell("model", 0, 1)
        from MoBUncertaintyLib.base.errors import OutputError
        from MoBUncertaintyLib.output.cohort.cases import Outcome
        from MoBUncertaintyLib.pipeline.cases import Job, kept_case, run_case

        predictor = self._warm(paths, (key, computer), _settings(request), computer)
        tell("model", 1, 1)
        case, folder = input_of(request["case"]), Path(request["output"])
        job = Job(predictor, scene=False, skip_existing=True)
        with suppress(OutputError):  # damaged results are made anew, and kept under another name
            if kept_case(job, case, folder):
                return {"outcome": Outcome.KEPT.value}
        predicted, _ = run_case(
            replace(job, overwrite=True), case, folder, lambda step: tell(step.stage, step.done, step.total)
        )
        self._voxels = int(predicted.prediction.segmentation.size)
        pace.learn(estimate.seconds, self._voxels)
        return {"outcome": Outcome.PREDICTED.value}

    def _warm(
        self, paths: Sequence[Path], key: object, settings: PredictionSettings, computer: str | None = None
    ) -> AnyPredictor:
        """Get the predictor of models on a computer, loaded only if they are others or have changed on disk."""
        from MoBUncertaintyLib.model.folder import load_model

        if self._predictor is None or key != self._key:
            if self._predictor is not None:
                self._predictor.close()
            self._predictor, self._key = None, None  # its memory is free before the next one needs it
            self._predictor, self._key = _predictor([load_model(path) for path in paths], settings, computer), key
        self._predictor.use(settings)
        return self._predictor


def _predictor(models: Sequence[Model], settings: PredictionSettings, computer: str | None) -> AnyPredictor:
    """Return what predicts; only here that needs torch."""
    if computer is not None:
        from MoBUncertaintyLib.worker.remote.predictor import RemotePredictor

        return RemotePredictor(computer, models, settings)
    from MoBUncertaintyLib.inference.maps.ensemble import predictor_of

    return predictor_of(models, settings)


def _identify_models(names: Sequence[str]) -> tuple[list[Path], object]:
    """Where models are, and what changes when their files do."""
    from MoBUncertaintyLib.worker.remote.models import located

    if not names or not all(isinstance(name, str) for name in names):
        raise ProtocolError("The request names no model.")
    paths = [located(name).absolute() for name in names]
    files = [file for path in paths for file in (path, *path.glob("*"), *path.glob("fold_*/*"))]
    stamps: list[object] = [*paths]
    for file in sorted(files):
        with suppress(OSError):
            status = file.stat()
            stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return paths, tuple(stamps)


def _settings(request: Fields) -> PredictionSettings:
    """How to predict; JSON has lists where the settings have tuples."""
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    fields = request.get("settings") or {}
    with understanding("settings"):
        values: Fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return PredictionSettings(**values)


def _region_settings(request: Fields, model: Model) -> RegionSettings:
    """Read what counts as a region: what the request states, if it was set for this model, and the rest as usual."""
    usual = model.card.region_settings
    if request.get("regions_of_model") not in (None, model.digest):
        return usual
    with understanding("settings of regions"):
        return usual.changed(request.get("regions") or {})


def _hand_over(folder: Path, prediction: Prediction, regions: Regions, tell: Callable[[str, int, int], None]) -> Fields:
    """Write the arrays, each straight from memory; see `output.results_record`."""
    from MoBUncertaintyLib.output.results_record import write_prediction
    from MoBUncertaintyLib.worker.arrays import write_array

    total, done = 2 + 2 * len(prediction.labels), 0

    def save(name: str, array: np.ndarray) -> str:
        nonlocal done
        tell("write", done, total)
        done += 1
        return write_array(folder, name, array)

    fields = write_prediction(prediction, regions, save)
    tell("write", total, total)
    return fields


def export_review(request: Fields, report: Report) -> Fields:
    """Write what the reader wants of a reviewed case.

    The report names the CT only where it may name the patient: the volume of a file that is called after its patient
    has that name too. The CT's hash, and the number of its DICOM series, tell which one it is.

    Args:
        request: `ct`, {`array`, `ijk_to_ras`, `name`}; `prediction`, see `output.results_record`; `review`, from
            `Review.to_dict`; `dicom_files`, or null; `output`, `formats`, `patient_fields`, `overwrite`: as for
            `write_export`.

    Returns:
        `files`, `warnings` and `problems`, as `Exported` has them, lists of text.
    """
    import numpy as np

    from MoBUncertaintyLib.base.errors import ReviewError
    from MoBUncertaintyLib.images.grid import grid_of
    from MoBUncertaintyLib.output.case import Case, Source
    from MoBUncertaintyLib.output.results_record import RecordError, read_prediction
    from MoBUncertaintyLib.output.review_export import write_export
    from MoBUncertaintyLib.review.review import Review
    from MoBUncertaintyLib.worker.arrays import read_volume

    def load(name: str) -> np.ndarray:
        return np.asarray(np.load(name, mmap_mode="r", allow_pickle=False))

    image, _ = read_volume(request["ct"])
    try:
        prediction = read_prediction(request["prediction"], grid_of(image), load)
    except RecordError as error:
        raise ReviewError(f"The prediction stored in the scene is damaged ({error}); apply again.") from error
    patient_fields = bool(request.get("patient_fields"))
    origin = Source.of(prediction.provenance.get("input", {}))
    # Without a path, no file's name stands in for one that is left out.
    source = Source(
        name=(origin.name or request["ct"].get("name") or "") if patient_fields else "",
        sha256=origin.sha256,
        dicom_files=tuple(map(Path, request.get("dicom_files") or ())),
    )
    case = Case.of(image, Review.from_dict(request["review"], prediction), source)

    def tell(fraction: float) -> None:
        report.progress({"stage": "export", "done": 0, "total": 1, "fraction": fraction, "seconds_left": None})

    done = write_export(
        case,
        request["output"],
        request["formats"],
        patient_fields=patient_fields,
        overwrite=bool(request.get("overwrite")),
        progress=tell,
    )
    for warning in done.warnings:
        report.warning(warning)
    return {
        "files": [str(path) for path in done.files],
        "warnings": list(done.warnings),
        "problems": list(done.problems),
    }


def calibrate(request: Fields, report: Report) -> Fields:
    """Calibrate a model on reviews or labelled cases.

    Returns:
        `name` of the new model, `calibration`, as its card has it, and `refused`, a sentence on each case not used.
    """
    from MoBUncertaintyLib.pipeline.calibration.calibration import calibrate_model

    output = Path(request["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    began, done, total = time.monotonic(), 0, 1

    def tell(step: Progress) -> None:
        nonlocal done, total
        if step.stage == "cases":
            done, total = step.done, step.total
        elif step.stage != "network":  # which takes most of the time
            return
        fraction = (done + (step.done / step.total if step.stage == "network" and step.total else 0.0)) / total
        left = (time.monotonic() - began) / fraction * (1 - fraction) if done else None
        update = {"stage": "calibrate", "done": done, "total": total, "fraction": fraction, "seconds_left": left}
        report.progress(update)

    model, _, refused = calibrate_model(request["model"], map(Path, request["cases"]), output, progress=tell)
    return {"name": model.card.name, "calibration": model.card.training["calibration"], "refused": refused}


def list_catalogue(request: Fields, _report: Report) -> Fields:
    """List the models of a catalogue: `models`, as `Entry` has them."""
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    return {"models": to_json(Place.of(request["index"]).entries())}


def fetch_picture(request: Fields, _report: Report) -> Fields:
    """Fetch the picture of a model's sample: `picture`, the path of a file in the request's folder, or null."""
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    content = Place.of(request["index"]).preview(_entry(request))
    if content is None:
        return {"picture": None}
    picture = Path(request["folder"]) / "picture.png"
    picture.write_bytes(content)
    return {"picture": str(picture)}


def install_model(request: Fields, report: Report) -> Fields:
    """Install a model that the user has agreed to: `path`, where it is."""
    from MoBUncertaintyLib.pipeline.catalogue.install import install
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    def tell(step: Progress) -> None:
        downloads = step.stage == "download"
        fraction = DOWNLOAD * step.done / step.total if downloads else DOWNLOAD + (1 - DOWNLOAD) * step.done
        report.progress(asdict(step) | {"fraction": round(fraction, 4)})

    folder = Path(request["output"]).parent
    return {"path": str(install(Place.of(request["index"]), _entry(request), tell, folder=folder))}


def _entry(request: Fields) -> Entry:
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry

    with understanding("entry"):
        return from_json(Entry, request["entry"])


def ask_computer(request: Fields, report: Report) -> Fields:
    """Ask another computer what computes there."""
    with closing(_connect(request["computer"])) as connection:
        return connection.ask({"command": Command.COMPUTER}, report)


def _connect(computer: str) -> Connection:
    """Connect to another computer; what ssh prints goes into the worker's log."""
    from MoBUncertaintyLib.worker.remote.connection import Connection

    return Connection(computer, partial(print, file=sys.stderr, flush=True))


def describe_computer(_request: Fields, _report: Report) -> Fields:
    """Say what computes here: `version`, the `device` that is taken unless another is asked for, and `cores`."""
    from MoBUncertaintyLib.inference.engines import may_have_gpu

    name = "CPU"
    if may_have_gpu():
        import torch

        from MoBUncertaintyLib.inference.devices import select_device

        device = select_device()
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else {"mps": "Apple GPU"}.get(device.type, name)
    return {"version": __version__, "device": name, "cores": os.cpu_count() or 1}


def has_model(request: Fields, _report: Report) -> Fields:
    """Answer another computer whether a model is `here`."""
    from MoBUncertaintyLib.worker.remote.models import find

    return {"here": find(request["digest"]) is not None}


def keep_model(request: Fields, _report: Report) -> Fields:
    """Keep a model that another computer has sent, its files in the order of `digests`."""
    from MoBUncertaintyLib.worker.remote.models import ModelFiles, keep

    digests = request["digests"]
    files = {name: Path(request["files"][f"{number}.part"]) for number, name in enumerate(digests)}
    keep(ModelFiles(request["name"], digests, files))
    return {}
