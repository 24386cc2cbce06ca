"""Systems d and e: our pipeline from a file to a results folder, as `mob-uncertainty predict` runs it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.measure import StageClock, settle
from inference.tasks import split_system
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.inference.devices import select_device
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.output import results_folder
from MoBUncertaintyLib.pipeline import cases as pipeline
from MoBUncertaintyLib.pipeline.cases import Job, run_case
from MoBUncertaintyLib.regions.prediction import PredictionSettings

ABOUT = ("device", "engine", "precision", "tiles", "input_voxels")
"""What a measurement says of its prediction."""


def settings_of(system: str, device: str, samples: int) -> PredictionSettings:
    """The settings of a system: d draws K samples, e takes the closed form; full tiling unless it is adaptive."""
    letter, (engine, precision) = split_system(system)
    return PredictionSettings(
        device=device,
        samples=samples if letter == "d" else None,
        tiling="adaptive" if letter == "e-adaptive" else "full",
        engine=engine,
        precision=precision,
    )


class OurSystem:
    """Our pipeline with one of its ways to the moments.

    Args:
        system: d, e or e-adaptive, and its way.
        model: With a covariance head.
        device: As for `predict`.
        samples: K.
        scene: Write the Slicer scene too.
    """

    def __init__(self, system: str, model: Model, device: str, samples: int, scene: bool = False) -> None:
        self.device = select_device(device)
        self.clock = StageClock(settle(self.device))
        self.predictor = Predictor(model, settings_of(system, device, samples))
        self.scene = scene
        self.load_seconds = 0.0
        self.provenance: dict[str, Any] = {}
        self.spans: dict[str, tuple[float, float]] = {}
        self._time_steps()

    def run(self, ct: Path, output: Path) -> dict[str, Any]:
        """Predict a file; the seconds of its stages, and in total."""
        start = time.perf_counter()
        case, _ = run_case(Job(self.predictor, scene=self.scene, overwrite=True), Input(ct, "", ""), output)
        total = time.perf_counter() - start
        self.provenance = case.prediction.provenance
        measured = self.clock.take()
        load = measured.pop("load", 0.0)
        if load:  # in the first run only
            self.load_seconds = load
            total -= load
        stages = dict(case.prediction.timings)
        stages["backbone"] = stages.pop("network") - load
        stages |= self._after_the_volumes()
        stages["other"] = max(total - sum(stages.values()), 0.0)
        return {"total": total, "stages": stages}

    def _after_the_volumes(self) -> dict[str, float]:
        """Tell the seconds until the volumes are written, and those that what is done beside it takes longer."""
        begun, volumes = self.spans["volumes"]
        regions, scene, whole = (self.spans.get(name, (volumes, volumes)) for name in ("regions", "scene", "results"))

        def left(start: float, end: float) -> float:
            return max(end - max(start, volumes), 0.0)

        return {
            "write": volumes - begun,
            "regions": left(*regions),
            # Overlay, report, table and provenance: what stock nnU-Net has no counterpart of.
            "report": left(*whole) - left(*scene),
            **({"scene": left(*scene)} if self.scene else {}),
        }

    def describe(self) -> dict[str, Any]:
        """What the measurement states beside its seconds."""
        return {name: self.provenance.get(name) for name in ABOUT}

    def _time_steps(self) -> None:
        self.clock.wrap(self.predictor.engine, "load", "load")
        self.clock.wrap(self.predictor, "predict", "predict")
        for owner, name, span in (
            (pipeline, "write_volumes", "volumes"),
            (pipeline, "find_regions", "regions"),
            (pipeline, "write_results", "results"),
            (results_folder, "write_scene_file", "scene"),
        ):
            setattr(owner, name, self._noting(getattr(owner, name), span))

    def _noting(self, function: Callable[..., Any], span: str) -> Callable[..., Any]:
        """Note when a function began and ended; it may run beside others."""

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans[span] = start, time.perf_counter()

        return noted
