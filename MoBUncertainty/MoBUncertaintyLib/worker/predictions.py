"""Predict on request, here or on another computer, and tell how far it is; nothing heavy is imported before."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.worker.protocol import Fields, ProtocolError, understanding
from MoBUncertaintyLib.worker.server import Report

if TYPE_CHECKING:
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.inference.maps.members import AnyPredictor
    from MoBUncertaintyLib.model.card import Label
    from MoBUncertaintyLib.model.folder import Model
    from MoBUncertaintyLib.model.region_settings import RegionSettings
    from MoBUncertaintyLib.pipeline.drawing import Drawing
    from MoBUncertaintyLib.regions.prediction import PredictionSettings, Progress
    from MoBUncertaintyLib.worker.remote.connection import Connection

STAGES = {
    "read": 0.02,
    "send model": 0.0,
    "send": 0.3,
    "first_stage": 0.0,
    "preprocess": 0.15,
    "network": 10.0,
    "resample": 0.06,
    "receive": 0.1,
    "check": 0.02,
    "regions": 0.02,
    "write": 0.1,
}
"""Seconds per million voxels, measured on one core. The network takes 0.1 to 10; the slow end is assumed, since a bar
that gets faster is better than one that stalls near its end.
"""
OF_A_FILE, OF_A_CONNECTION, OF_A_CHECK = {"read"}, {"send model", "send", "receive"}, {"check"}
MODEL_SECONDS = 5.0
USUAL_VOXELS = 30_000_000
"""Of an image whose size is not known before it is read."""
ENOUGH_STEPS = 2
"""Steps, after the first one, from which the pace of a stage is known."""


class Estimate:
    """Convert the steps of stages to the fraction done of the whole, and the seconds left.

    The seconds left are those of the current stage at its own pace plus the expected ones of later stages; the fraction
    is that of the time. The network's pace cannot be known beforehand, so until a few of its steps are done there are
    no seconds left, and the fraction weights each stage by its expected time. The fraction never decreases. The
    expected seconds are in the stages' order; `seconds` are those taken by each so far.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._expected, self._clock = dict(expected), clock
        self._began: dict[str, float] = {}
        self._first: dict[str, tuple[int, float]] = {}  # step of each stage, and when it was done
        self._fraction = 0.0
        self.seconds: dict[str, float] = {}

    def step(self, stage: str, done: int, total: int) -> dict[str, Any]:
        """Return the fields of a `progress` event after `done` of `total` steps (0: not known) of a stage."""
        now, stages = self._clock(), list(self._expected)
        earlier, later = stages[: stages.index(stage)], stages[stages.index(stage) + 1 :]
        self.seconds[stage] = now - self._began.setdefault(stage, now)
        first, since = self._first.setdefault(stage, (done, now)) if done else (0, now)
        # The pace after the first step, in which a network is compiled.
        measured = bool(total) and (done == total or (bool(first) and done - first >= ENOUGH_STEPS))
        if measured:
            past, left = self.seconds[stage], (now - since) / max(done - first, 1) * (total - done)
        else:
            fraction = done / total if total else 0.0
            past, left = (self._expected[stage] * part for part in (fraction, 1 - fraction))
        past += sum(self.seconds.get(name, 0.0) for name in earlier)
        left += sum(self._expected[name] for name in later)
        self._fraction = max(self._fraction, past / (past + left) if past + left else 1.0)
        paced = "network" not in later and (stage != "network" or measured)
        counts = {"stage": stage, "done": done, "total": total, "fraction": round(self._fraction, 4)}
        return counts | {"seconds_left": round(left, 1) if paced else None}


class Predictions:
    """Answers `predict` and `predict-case`, and keeps the last models loaded, here or there, whatever the settings."""

    def __init__(self) -> None:
        self._predictor: AnyPredictor | None = None
        self._key: object = None
        self._connection: Connection | None = None

    def predict(self, request: Fields, report: Report) -> Fields:
        """Predict on the computer that the request names, or else here; see `protocol`."""
        computer, connection = request.get("computer"), self._connection
        if connection and connection.host != computer:
            connection.close()
            self._connection = None
        if not computer:
            return self.predict_here(request, report)
        self._connection = self._connection or connect(computer)
        return self._connection.predict(request, report)

    def predict_here(self, request: Fields, report: Report) -> Fields:
        """Predict, find the doubtful regions and write the arrays."""
        import numpy as np

        voxels = int(np.prod(np.load(request["ct"]["array"], mmap_mode="r").shape))
        unused = OF_A_FILE | OF_A_CONNECTION | (set() if request.get("segmentation") else OF_A_CHECK)
        predictor, estimate, tell = self._begin(request, report, unused, voxels)
        from MoBUncertaintyLib.images.memory import check_memory
        from MoBUncertaintyLib.output.case import Source
        from MoBUncertaintyLib.output.results_folder import describe
        from MoBUncertaintyLib.output.results_record import write_prediction
        from MoBUncertaintyLib.pipeline.cases import analyse
        from MoBUncertaintyLib.worker.arrays import read_volume, write_array

        region_settings = _region_settings(request, predictor.model)
        check_memory(voxels, len(predictor.labels), holders=2)  # Slicer is the other one
        image, digest = read_volume(request["ct"])
        others = {name: read_volume(volume) for name, volume in (request.get("channels") or {}).items()}
        images = {name: other for name, (other, _) in others.items()}
        drawing = _drawing(request["segmentation"], predictor.labels) if request.get("segmentation") else None
        if drawing and request.get("against"):
            drawing = drawing.compared(_drawing(request["against"], predictor.labels))
        case = analyse(image, predictor, region_settings, tell, images, drawing)
        checked = case.prediction.checked
        for message in (*case.prediction.warnings, *(each.sentence for each in (checked.findings if checked else ()))):
            report.warning(message)
        named = tuple({"name": name, "sha256": sha256} for name, (_, sha256) in others.items())
        source = Source(name=request["ct"].get("name") or "", sha256=digest, channels=named)
        described = describe(case.prediction, case.regions, source)
        report.progress(estimate.step("write", 0, 1))
        fields = write_prediction(described, case.regions, partial(write_array, request["folder"]))
        report.progress(estimate.step("write", 1, 1))
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
        return self.predict_here(request | {"computer": None}, report)

    def predict_case(self, request: Fields, report: Report) -> Fields:
        """Predict a case of a cohort into its results folder; keep results that can be read."""
        unused = OF_A_CHECK if request.get("computer") else OF_A_CHECK | OF_A_CONNECTION
        predictor, _, tell = self._begin(request, report, unused)
        from MoBUncertaintyLib.base.errors import OutputError
        from MoBUncertaintyLib.pipeline.cases import Job, kept_case, run_case

        case, folder = input_of(request["case"]), Path(request["output"])
        job = Job(predictor, scene=False, skip_existing=True)
        with suppress(OutputError):  # damaged results are made anew, and kept under another name
            if kept_case(job, case, folder):
                return {}
        run_case(replace(job, overwrite=True), case, folder, tell)
        return {}

    def _begin(
        self, request: Fields, report: Report, unused: set[str], voxels: int = USUAL_VOXELS
    ) -> tuple[AnyPredictor, Estimate, Callable[[Progress], None]]:
        """Get the predictor of the request's models, loaded only if they are others or have changed on disk.

        Returns it, the estimate of a request without some stages, and what tells how far that is.
        """
        computer = request.get("computer")
        paths, stamps = _identify_models(request["models"])
        key = stamps, computer
        expected = {stage: rate * voxels / 1e6 for stage, rate in STAGES.items() if stage not in unused}
        estimate = Estimate({"model": 0.0 if key == self._key else MODEL_SECONDS} | expected)

        def tell(step: Progress) -> None:
            report.progress(estimate.step(step.stage, step.done, step.total))

        report.progress(estimate.step("model", 0, 1))
        from MoBUncertaintyLib.model.folder import load_model

        settings = _settings(request)
        if self._predictor is None or key != self._key:
            if self._predictor is not None:
                self._predictor.close()
            self._predictor, self._key = None, None  # its memory is free before the next one needs it
            self._predictor, self._key = _predictor([load_model(path) for path in paths], settings, computer), key
        self._predictor.use(settings)
        report.progress(estimate.step("model", 1, 1))
        return self._predictor, estimate, tell


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
    from MoBUncertaintyLib.regions.prediction import PredictionSettings

    with understanding("settings"):
        return PredictionSettings.from_dict(request.get("settings") or {})


def _region_settings(request: Fields, model: Model) -> RegionSettings:
    """Read what counts as a region: what the request states, if it was set for this model, and the rest as usual."""
    usual = model.card.region_settings
    if request.get("regions_of_model") not in (None, model.digest):
        return usual
    with understanding("settings of regions"):
        return usual.changed(request.get("regions") or {})


def _drawing(fields: Fields, labels: Sequence[Label]) -> Drawing:
    """Read a segmentation of a request, which lies on the image's voxels."""
    import numpy as np

    from MoBUncertaintyLib.base.integrity import file_digest
    from MoBUncertaintyLib.base.names import printable
    from MoBUncertaintyLib.images.segmentations import Segmentation, Structure, codes_of
    from MoBUncertaintyLib.pipeline.drawing import drawing_of

    array = np.load(fields["array"], mmap_mode="r", allow_pickle=False)
    with understanding("segmentation"):
        structures = tuple(
            Structure(each["name"], partial(np.equal, array, each["value"]), *codes_of(each["terminology"] or ""))
            for each in fields["structures"]
        )
        name = printable(fields["name"])
    return drawing_of(Segmentation(structures, file_digest(Path(fields["array"]))), name, labels)


def input_of(fields: Fields) -> Input:
    """Read an input of a request; raises `ProtocolError` if it is none."""
    from MoBUncertaintyLib.images.inputs import Input

    with understanding("case"):
        return from_json(Input, fields)


def connect(computer: str) -> Connection:
    """Connect to another computer; what ssh prints goes into the worker's log."""
    from MoBUncertaintyLib.worker.remote.connection import Connection

    return Connection(computer, partial(print, file=sys.stderr, flush=True))
