"""From an image and a model to a prediction on the image's own grid."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from MoBUncertaintyLib.base.errors import Cancelled, SettingsError, reporting_out_of_memory
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.packages import check_pytorch
from MoBUncertaintyLib.base.version import __version__
from MoBUncertaintyLib.gaussian.probability import DEFAULT_SAMPLES
from MoBUncertaintyLib.images.channels import aligned
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.memory import check_memory, check_tile
from MoBUncertaintyLib.images.modality import check_modalities, in_order
from MoBUncertaintyLib.images.reader import AnyImage, as_image, check_image
from MoBUncertaintyLib.inference.engines import Engine, OpenVinoEngine, select_engine
from MoBUncertaintyLib.inference.maps.filling import fill, unresampled
from MoBUncertaintyLib.inference.maps.pieces import take_back_strays
from MoBUncertaintyLib.inference.preprocessing import Case, Preprocessor
from MoBUncertaintyLib.inference.sliding_window import Placement, SlidingWindow
from MoBUncertaintyLib.inference.suitability import (
    cut_off,
    fractions_apart,
    judge,
    measure,
    not_found,
    organ_intensity,
    reached_edges,
)
from MoBUncertaintyLib.model.card import Label, ModelCard, chosen_labels, overlap
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.model.nnunet.plans import first_features
from MoBUncertaintyLib.model.terminology import without_code
from MoBUncertaintyLib.regions.prediction import (
    CancelledCallback,
    EngineName,
    Precision,
    Prediction,
    PredictionSettings,
    Progress,
    ProgressCallback,
    Tiling,
)

if TYPE_CHECKING:
    import SimpleITK as sitk


def predict(
    image: AnyImage,
    model: Model | Path | str,
    settings: PredictionSettings | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    channels: Mapping[str, AnyImage] | None = None,
    spacing: Sequence[float] | None = None,
) -> Prediction:
    """Segment an image; see `Predictor`, which is faster for several images.

    Args:
        image: The path of a file or DICOM folder, what `read_image` returns, a SimpleITK image, or an array (z, y, x)
            whose axes run to the patient's head, back and left.
        model: A model, its path, or its name as for `find_model`.
        settings: How to predict.
        progress: Called with each step.
        cancelled: Asked before each stage and tile.
        channels: The images of the model's other input channels, by name.
        spacing: Size of the voxels of arrays, in mm, (z, y, x).

    Raises:
        UserError: Whatever the user can mend; see `Predictor.predict`.

    Example:
        >>> from MoBUncertaintyLib import PredictionSettings, predict, read_image
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> image = read_image(RESOURCES / "SampleData" / "HeadNeckCT.nii.gz").image[32:96, 16:64, 20:84]
        >>> predict(image, "HeadNeckOrgans", PredictionSettings(device="cpu"))
        <Prediction of Brainstem, ..., Bone_Mandible: 64 x 48 x 64 voxels...>
    """
    image, warnings = as_image(image, spacing)
    others = {}
    for name, channel in (channels or {}).items():
        others[name], more = as_image(channel, spacing if isinstance(channel, np.ndarray) else None)
        warnings = [*warnings, *more]
    prediction = Predictor(loaded(model), settings).predict(image, progress, cancelled, channels=others)
    return prediction.annotated(warnings=[*warnings, *prediction.warnings])


class Predictor:
    """A model ready to predict; the network is read at the first image and stays.

    Attributes:
        labels: Those that are predicted.
        engine, device: What runs the network.
        first_stage: What predicts the first stage of a cascade, if the model is the second.

    Raises:
        SettingsError: The device is not there, or the model cannot do what the settings ask for.
    """

    def __init__(self, model: Model, settings: PredictionSettings | None = None) -> None:
        self.model = model
        self._preprocessor = Preprocessor(model.plans, model.dataset, model.card.configuration, model.card.orientation)
        self._engines: dict[object, Engine] = {}
        settings = settings or PredictionSettings()
        first = model.first_stage
        self.first_stage = Predictor(first, _of_first_stage(settings, model)) if first else None
        self.use(settings)

    def use(self, settings: PredictionSettings) -> None:
        """Change how to predict from now on; the network stays as it is loaded.

        Raises:
            SettingsError: As for the constructor; the settings are then as before.
        """
        if not self.model.is_light:
            check_pytorch(f"The model {self.model.card.name}")
        engine, device = select_engine(settings.engine, settings.device)
        folds = self.model.folds if settings.folds is None else settings.folds
        if not folds or not set(folds) <= set(self.model.folds):
            there = ", ".join(map(str, self.model.folds))
            raise SettingsError(f"The model has only the folds {there}; choose from these.")
        if settings.mirror and not self.model.card.mirror_axes:
            raise SettingsError("The model was trained without mirroring; switch mirroring off.")
        labels = chosen_labels(self.model.card.labels, settings.labels)
        if self.first_stage:
            self.first_stage.use(_of_first_stage(settings, self.model))
        self.settings, self.folds, self.labels = settings, folds, labels
        self.device = device
        self.engine = self._engine(engine)

    @reporting_out_of_memory()
    def predict(
        self,
        image: sitk.Image,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        exact: bool = False,
        channels: Mapping[str, sitk.Image] | None = None,
        rival: bool = False,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: Scalar 3D image; any orientation, any spacing that `images.check_image` accepts.
            progress: Called with each step: a stage begun or done, a tile done.
            cancelled: Asked before each stage and tile.
            exact: Probabilities and variances are not rounded: for scores, since the likelihood of a wrong voxel
                depends on how small its probability is.
            channels: The images of the model's other input channels, by name; `image` is that of the remaining one.
                What lies on another grid is resampled to that of `image`.
            rival: Whether `Prediction.rival` is wanted.

        Raises:
            ImageError: The image is not one that can be segmented, or of another modality than the model takes.
            SettingsError: The region of interest does not fit the image, the memory does not suffice, or the images are
                not those of the model's channels.
            ModelError: The weights are damaged, do not fit the plans, or give no finite numbers.
            Cancelled: `cancelled` said so.
        """
        clock = Clock(progress or (lambda _: None), cancelled or (lambda: False))
        clock.step("first_stage" if self.first_stage else "preprocess", 0, 1)
        names, others = self.model.channels, channels or {}
        mistaken = check_modalities(names, image, others, self.settings.force)  # before anything takes time
        checked, warnings = check_image(image)
        others, more = aligned(others, checked)
        check_memory(checked.GetNumberOfPixels(), len(self.labels))
        if self.device == "cpu":  # a GPU says itself that its memory is not enough
            number = self.engine.number_size(self.device, Precision(self.settings.precision))
            check_tile(self.model.tile, first_features(self.model.configuration), number)
        case = self.prepare(checked, others, clock)
        clock.step("preprocess", 1, 1)
        window = self._window()
        results = window.run(case.data, self.model.tile, self.folds, partial(clock.step, "network"))
        clock.step("resample", 0, 1)
        card = self.model.card
        seen = unresampled(case, results, self.labels, overlap(card.labels))
        apart = fractions_apart(seen)
        if card.one_piece:
            take_back_strays(results, self.labels, card.one_piece)
            seen = unresampled(case, results, self.labels, overlap(card.labels))
        overlapping, maps = overlap(self.labels), results[0][: len(self.labels)]
        intensity = organ_intensity(case.data[0], maps, overlapping)
        segmentation, probability, variance, strongest = fill(
            case, results, exact, [label.value for label in self.labels], overlap(self.model.card.labels), rival
        )
        clock.step("resample", 1, 1)
        edges = reached_edges(seen.segmentation, self.labels, case)
        cut = cut_off(edges, self.settings.region_of_interest is not None, card.fingerprint)
        lengths, calibrated = card.covariance.length_mm, card.volume_calibration
        prediction = Prediction(
            segmentation,
            probability,
            variance,
            grid_of(checked),
            self.labels,
            provenance=self._provenance(case, window),
            warnings=[
                *mistaken,
                *warnings,
                *more,
                *case.warnings,
                *window.warnings,
                *_second_stage(self.model),
                *_one_sample(card, self.settings.samples),
                *_overlapping(self.labels),
                # A training folder states no codes, a model folder's card does.
                *([] if self.model.card.files else without_code(self.labels)),
            ],
            timings={
                **({"first_stage": clock.seconds["first_stage"]} if self.first_stage else {}),
                "preprocess": clock.seconds["preprocess"],
                **window.seconds,
                "resample": clock.seconds["resample"],
            },
            click_settings=card.click_settings,
            overlapping=overlapping,
            rival=strongest,
            predicted_part=case.frame.stored(case.target),
            covariance=card.covariance.kind,
            correlation_mm=None if lengths is None else case.frame.along_stored(lengths),
            shared_fraction=card.covariance.shared_fraction,
            one_piece=tuple(sorted(card.one_piece)),
            network_mm=case.frame.along_stored(self._preprocessor.spacing(case.frame)),
            region_settings=card.region_settings,
            # In a region of interest, a volume is another than that of the calibration cases.
            stated_bounds=calibrated.bounds() if calibrated and self.settings.region_of_interest is None else None,
            network_volumes=seen.stated_volumes,
        )
        prediction.warnings.extend([*not_found(prediction.volumes_ml()), *cut])
        measures = measure(seen, max(checked.GetSpacing()), intensity, apart, edges.image)
        # The ordinary cases were measured with all labels; of some of them the expected error, for one, is another.
        fingerprint = card.fingerprint if self.labels == card.labels else None
        suitability = judge(prediction.labels, measures, fingerprint, cut, mistaken)
        return prediction.annotated(suitability=suitability, measures=measures).with_click_length()

    def close(self) -> None:
        """Give back nothing: it holds memory alone."""

    def prepare(
        self,
        checked: sitk.Image,
        channels: Mapping[str, sitk.Image] | None = None,
        clock: Clock | None = None,
        labels: np.ndarray | None = None,
    ) -> Case:
        """Make the network's input from a checked image (see `images.check_image`), as the settings say.

        The second stage of a cascade lets the first one predict the image for that.

        Args:
            checked: The image.
            channels: Those of the other channels, checked too and on the same grid.
            clock: Told how far the first stage is.
            labels: Label map (z, y, x) of the first stage, where that is known already.

        Raises:
            ImageError, SettingsError: As `predict`.
        """
        images = in_order(self.model.channels, checked, channels or {})
        if self.first_stage and labels is None:
            clock = clock or Clock()
            first = self.first_stage.predict(checked, clock.within("first_stage"), channels=channels)
            labels = first.segmentation
            clock.step("preprocess", 0, 1)
        return self._preprocessor.prepare(images, self.settings.region_of_interest, self.settings.body_box, labels)

    def pytorch(self) -> Engine:
        """Return PyTorch's engine, whichever the settings choose."""
        return self._engine(EngineName.TORCH)

    @property
    def placement(self) -> Placement:
        """Where PyTorch computes what it does, and results are summed."""
        device = "cpu" if self.device == "xpu" else self.device
        return Placement(device, device, Precision(self.settings.precision))

    def _window(self) -> SlidingWindow:
        settings = self.settings
        mirror_axes = self.model.card.mirror_axes if settings.mirror else ()
        return SlidingWindow(
            self.engine, self.placement, settings.overlap, settings.seed, mirror_axes, Tiling(settings.tiling)
        )

    def _engine(self, name: EngineName) -> Engine:
        """Make an engine for the settings, or change the one that is there, which stays as it is loaded."""
        key = name, name is EngineName.OPENVINO and self.device
        if key not in self._engines:
            if name is EngineName.OPENVINO:
                target: Literal["CPU", "GPU"] = "GPU" if self.device == "xpu" else "CPU"
                self._engines[key] = OpenVinoEngine(self.model, self.pytorch, target)
            else:
                from MoBUncertaintyLib.inference.torch_engine import TorchEngine

                self._engines[key] = TorchEngine(self.model)
        labels, engine = self.model.card.labels, self._engines[key]
        values = [label.value for label in labels]
        engine.samples = self.settings.samples
        engine.wanted = None if self.labels == labels else tuple(values.index(label.value) + 1 for label in self.labels)
        return engine

    def _provenance(self, case: Case, window: SlidingWindow) -> dict[str, Any]:
        card = self.model.card
        alarms = card.fingerprint and card.fingerprint.false_alarms
        sampled = card.covariance.kind is not Covariance.DETERMINISTIC
        closed = len(card.labels) == 1 or card.covariance.keep_probability
        monte_carlo = sampled and not (closed and self.settings.samples is None)
        return {
            "model": {"name": card.name, "path": str(self.model.path), "digest": self.model.digest}
            | ({"false_alarms": alarms.text} if alarms else {}),
            "settings": asdict(self.settings),
            "channels": list(self.model.channels),
            **({} if self.first_stage is None else {"first_stage": self.first_stage.model.card.configuration}),
            "folds": list(self.folds),
            "moments": f"Monte Carlo, K = {self.settings.samples or DEFAULT_SAMPLES}" if monte_carlo else "closed form",
            "engine": window.engine.name.value,
            "device": window.engine.device,
            "precision": window.engine.precision.value,
            "tiles": window.tiles,
            "passes_per_tile": len(window.mirrors) * len(self.folds),
            "input_voxels": list(case.data.shape[1:]),
            "versions": {
                "mob-uncertainty": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("SimpleITK", "numpy", *window.engine.packages)},
            },
        }


def _overlapping(labels: Sequence[Label]) -> list[str]:
    if not overlap(labels):
        return []
    covers = [f"{printable(label.name)} is {' and '.join(map(str, label.values))}" for label in labels]
    return [
        f"The labels of this model overlap: in the label map {', '.join(covers)}. Clicks need one label: predict it "
        "alone with --labels."
    ]


def _of_first_stage(settings: PredictionSettings, model: Model) -> PredictionSettings:
    """Return how the first stage of a cascade predicts: all labels, everywhere, by all its folds."""
    mirror = settings.mirror and bool(model.first_stage and model.first_stage.card.mirror_axes)
    return replace(settings, labels=None, region_of_interest=None, folds=None, mirror=mirror)


def _second_stage(model: Model) -> list[str]:
    if not model.first_stage:
        return []
    first = printable(model.first_stage.card.configuration)
    return [f"The uncertainty is that of the cascade's second stage, which takes the label map of {first} as given."]


def _one_sample(card: ModelCard, samples: int | None) -> list[str]:
    if samples != 1 or card.covariance.kind is Covariance.DETERMINISTIC:
        return []
    return ["With one sample, the variance shows only where tiles or folds disagree; use 2 samples or more."]


ENOUGH_STEPS = 3
"""Of a stage, before the time that it takes is told from them: in the first one, a network is compiled."""


class Clock:
    """Reports steps, times stages and asks whether to go on."""

    def __init__(
        self, progress: ProgressCallback = lambda _: None, cancelled: CancelledCallback = lambda: False
    ) -> None:
        self._progress = progress
        self._cancelled = cancelled
        self._start: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.latest: Progress | None = None

    def step(self, stage: str, done: int, total: int) -> None:
        """Report that some of a stage's steps are done.

        Raises:
            Cancelled: The user has cancelled.
        """
        if self._cancelled():
            raise Cancelled("The prediction was cancelled; nothing was saved.")
        now = time.perf_counter()
        self.seconds[stage] = now - self._start.setdefault(stage, now)
        is_predictable = total and (done >= ENOUGH_STEPS or done == total)
        left = self.seconds[stage] / done * (total - done) if is_predictable else None
        self.latest = Progress(stage, done, total, left)
        self._progress(self.latest)

    def within(self, stage: str) -> ProgressCallback:
        """Return what reports the tiles of another prediction as steps of a stage of this one."""

        def report(step: Progress) -> None:
            if step.stage == "network":
                self.step(stage, step.done, step.total)

        return report
