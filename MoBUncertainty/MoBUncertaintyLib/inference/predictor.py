"""From an image and a model to the segmentation, its probability and its variance, in the image's own geometry."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import Cancelled, SettingsError, reporting_out_of_memory
from MoBUncertaintyLib.geometry import Bounds
from MoBUncertaintyLib.images.memory import check_memory, check_tile
from MoBUncertaintyLib.images.reader import check_image
from MoBUncertaintyLib.inference.devices import Precision, autocast_dtype, select_device
from MoBUncertaintyLib.inference.plausibility import cut_off, not_found
from MoBUncertaintyLib.inference.preprocessing import Case, Preprocessor
from MoBUncertaintyLib.inference.rounding import rounded
from MoBUncertaintyLib.inference.sliding_window import Placement, SlidingWindow
from MoBUncertaintyLib.inference.tiles import Tiling
from MoBUncertaintyLib.model.card import Fold, ModelCard
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import StochasticNetwork, load_network, load_weights
from MoBUncertaintyLib.network.moments import DEFAULT_SAMPLES


@dataclass(frozen=True)
class PredictionSettings:
    """How to predict.

    Attributes:
        samples: K for Monte Carlo; None takes the closed form for two classes and K = 30 for more.
        seed: Of Monte Carlo.
        overlap: Share of a tile that its neighbour covers too; nnU-Net's tile_step_size is 1 - overlap.
        tiling: `full` looks at all such tiles; `adaptive` at the overlapping ones only where a first pass with tiles
            side by side saw foreground or doubt.
        mirror: Average over mirrored tiles; only for models that were trained with mirroring.
        device: auto (CUDA, then MPS, then CPU), cuda, cuda:1, mps or cpu.
        precision: Of the backbone: auto, float32, bfloat16 or float16.
        folds: Which folds of the model to average; None: all.
        region_of_interest: (R min, R max, A min, A max, S min, S max), RAS mm: results are wanted there only, and are
            0 elsewhere; None: everywhere.
        body_box: Process a CT's body only. Results are 0 outside.

    Raises:
        SettingsError: A value is out of range.
    """

    samples: int | None = None
    seed: int = 0
    overlap: float = 0.5
    tiling: str = "adaptive"
    mirror: bool = False
    device: str = "auto"
    precision: str = "auto"
    folds: tuple[Fold, ...] | None = None
    region_of_interest: Bounds | None = None
    body_box: bool = True

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise SettingsError(f"Monte Carlo needs at least one sample, not {self.samples}.")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"The seed must be a whole number from 0 on, not {self.seed}.")
        if not 0 <= self.overlap <= 0.9:
            raise SettingsError(f"The overlap of tiles must be from 0 to 0.9, not {self.overlap:g}.")
        if self.tiling not in set(Tiling):
            raise SettingsError(f"The tiling must be one of {', '.join(Tiling)}, not {self.tiling!r}.")
        if self.precision not in set(Precision):
            raise SettingsError(f"The precision must be one of {', '.join(Precision)}, not {self.precision!r}.")
        if self.region_of_interest is not None and len(self.region_of_interest) != 6:
            raise SettingsError("The region of interest must be six numbers in mm: R, A and S, each from and to.")


@dataclass(frozen=True)
class Progress:
    """How far a prediction is.

    Attributes:
        stage: `preprocess`, `network` or `resample`.
        done: Steps of this stage that are done; in `network`, tiles (times mirrored passes and folds).
        total: Steps of this stage.
        seconds_left: In this stage, estimated; None where nothing is known yet.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None


@dataclass
class Prediction:
    """Three volumes with exactly the image's size, spacing, origin and direction.

    Attributes:
        segmentation: uint8, the most probable class of each voxel (label values).
        probability: float32, E[p] of the foreground, rounded (see `rounding`) unless asked for exactly; with more than
            two classes a vector image with one component per foreground class, in the order of the labels.
        variance: float32, Var[p], likewise.
        provenance: What made it: model, settings, device, versions; ready for JSON.
        warnings: What the user should know, one sentence each.
        timings: Seconds of `preprocess`, `network` (backbone), `moments` (head and moments), `blend` and `resample`.
    """

    segmentation: sitk.Image
    probability: sitk.Image
    variance: sitk.Image
    provenance: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]
CancelledCallback = Callable[[], bool]


def predict(
    image: sitk.Image,
    model: Model,
    settings: PredictionSettings | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
) -> Prediction:
    """Segment an image; see `Predictor`, which is faster for several images.

    Example:
        >>> from MoBUncertaintyLib import PredictionSettings, find_model, load_model, predict, read_image
        >>> from MoBUncertaintyLib.files.resources import RESOURCES
        >>> image = read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz").image[32:96, 16:80, 16:64]
        >>> model = load_model(find_model("PhantomPancreas"))
        >>> prediction = predict(image, model, PredictionSettings(device="cpu"))
        >>> prediction.segmentation.GetSize(), prediction.provenance["tiles"]
        ((64, 64, 48), 1)
    """
    return Predictor(model, settings).predict(image, progress, cancelled)


class Predictor:
    """A model ready to predict; the network is read at the first image and stays.

    Args:
        model: The model.
        settings: How to predict.

    Raises:
        SettingsError: The device is not there, or the model cannot do what the settings ask for.
    """

    def __init__(self, model: Model, settings: PredictionSettings | None = None) -> None:
        self.model = model
        self._preprocessor = Preprocessor(model.plans, model.dataset, model.card.configuration, model.card.orientation)
        self._network: StochasticNetwork | None = None
        self._loaded: Fold | None = None
        self.use(settings or PredictionSettings())

    def use(self, settings: PredictionSettings) -> None:
        """Change how to predict from now on; the network stays as it is loaded.

        Raises:
            SettingsError: As for the constructor; the settings are then as before.
        """
        device = select_device(settings.device)
        folds = self.model.folds if settings.folds is None else settings.folds
        if not folds or not set(folds) <= set(self.model.folds):
            there = ", ".join(map(str, self.model.folds))
            raise SettingsError(f"The model has the folds {there}; choose among them.")
        if settings.mirror and not self.model.card.mirror_axes:
            raise SettingsError("The model was trained without mirroring; switch mirroring off.")
        self.settings, self.device, self.folds = settings, device, folds

    @reporting_out_of_memory()
    def predict(
        self,
        image: sitk.Image,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        exact: bool = False,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: Scalar 3D image; any orientation, any spacing that `images.check_image` accepts.
            progress: Told of each stage and tile.
            cancelled: Asked before each stage and tile.
            exact: Probabilities and variances are not rounded: for scores, since the likelihood of a wrong voxel
                depends on how small its probability is.

        Raises:
            ImageError: The image is not one that can be segmented.
            SettingsError: The region of interest does not fit the image, or the memory does not suffice.
            ModelError: The weights are damaged, do not fit the plans, or give no finite numbers.
            Cancelled: `cancelled` said so.
        """
        clock = _Clock(progress or (lambda _: None), cancelled or (lambda: False))
        clock.step("preprocess", 0, 1)
        checked, warnings = check_image(image)
        check_memory(checked.GetNumberOfPixels(), len(self.model.card.labels))
        if self.device.type == "cpu":  # a GPU says itself that its memory is not enough
            number = autocast_dtype(self.device, self.settings.precision).itemsize
            check_tile(self._preprocessor.patch, self._preprocessor.features, number)
        case = self._preprocessor.prepare(checked, self.settings.region_of_interest, self.settings.body_box)
        clock.step("preprocess", 1, 1)
        window = self._window()
        loaders = [lambda fold=fold: self._load(fold) for fold in self.folds]
        probability, variance = window.run(
            case.data, self._preprocessor.patch, loaders, lambda done, total: clock.step("network", done, total)
        )
        clock.step("resample", 0, 1)
        segmentation, probability, variance = _assemble(case, probability, variance, exact)
        clock.step("resample", 1, 1)
        return Prediction(
            segmentation,
            probability,
            variance,
            provenance=self._provenance(case, window),
            warnings=[
                *warnings,
                *case.warnings,
                *window.warnings,
                *_one_sample(self.model.card, self.settings.samples),
                *not_found(segmentation, self.model.card.labels),
                *cut_off(segmentation, self.model.card.labels, case, self.settings.region_of_interest is not None),
            ],
            timings={
                "preprocess": clock.seconds["preprocess"],
                **window.seconds,
                "resample": clock.seconds["resample"],
            },
        )

    def _window(self) -> SlidingWindow:
        if self._network is None:
            self._network = load_network(self.model, self.folds[0])
            self._loaded = self.folds[0]
        settings = self.settings
        return SlidingWindow(
            self._network,
            Placement(self.device, self.device, Precision(settings.precision)),
            settings.overlap,
            settings.samples,
            settings.seed,
            self.model.card.mirror_axes if settings.mirror else (),
            Tiling(settings.tiling),
        )

    def _load(self, fold: Fold) -> None:
        if fold != self._loaded:
            load_weights(self._network, self.model, fold)
            self._loaded = fold

    def _provenance(self, case: Case, window: SlidingWindow) -> dict[str, Any]:
        card = self.model.card
        sampled = card.covariance.kind is not Covariance.DETERMINISTIC
        monte_carlo = sampled and (self.settings.samples is not None or len(card.labels) > 1)
        return {
            "model": {"name": card.name, "path": str(self.model.path), "digest": self.model.digest},
            "settings": asdict(self.settings),
            "covariance": card.covariance.kind.value,
            "folds": list(self.folds),
            "moments": f"Monte Carlo, K = {self.settings.samples or DEFAULT_SAMPLES}" if monte_carlo else "closed form",
            "device": str(window.placement.network),
            "precision": str(autocast_dtype(window.placement.network, window.placement.precision)).split(".")[-1],
            "tiles": window.tiles,
            "passes_per_tile": len(window.mirrors) * len(self.folds),
            "input_voxels": list(case.data.shape[1:]),
            "versions": {
                "mob-uncertainty": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "nnunetv2", "SimpleITK", "numpy")},
            },
        }


def _one_sample(card: ModelCard, samples: int | None) -> list[str]:
    if samples != 1 or card.covariance.kind is Covariance.DETERMINISTIC:
        return []
    return ["One Monte Carlo sample has no variance, only tiles and folds disagree; take 2 samples or more."]


class _Clock:
    """Reports steps, times stages and asks whether to go on."""

    def __init__(self, progress: ProgressCallback, cancelled: CancelledCallback) -> None:
        self._progress = progress
        self._cancelled = cancelled
        self._start: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def step(self, stage: str, done: int, total: int) -> None:
        if self._cancelled():
            raise Cancelled("The prediction was cancelled; nothing was kept.")
        now = time.perf_counter()
        self.seconds[stage] = now - self._start.setdefault(stage, now)
        left = self.seconds[stage] / done * (total - done) if done else None
        self._progress(Progress(stage, done, total, left))


def _assemble(
    case: Case, probability: Tensor, variance: Tensor, exact: bool
) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """Segmentation, probability and variance on the image's grid, from (C - 1, *S) on the network's."""
    arrays = _fill(case, probability, variance, exact)
    images = []
    while arrays:  # SimpleITK copies them, so each goes before the next comes
        images.append(_like(case.frame.image, arrays.pop(0)))
    return tuple(images)


def _fill(case: Case, probability: Tensor, variance: Tensor, exact: bool) -> list[np.ndarray]:
    """Label (z, y, x), probability and variance (z, y, x, C - 1) of every voxel of the image, 0 outside `case.kept`.

    Unless they are to be exact they are rounded here, once, so that every user has the numbers that the files hold.

    The variance is what is interpolated, not the second moment: the second moment of an interpolated probability would
    count the step of p from voxel to voxel as doubt, up to 0.25 along every sharp border, in deterministic models too.
    """
    shape, classes = case.frame.image.GetSize()[::-1], probability.shape[0]
    labels = np.zeros(shape, dtype=np.uint8)
    volumes = [np.zeros((*shape, classes), dtype=np.float32) for _ in range(2)]
    label_view = case.view(labels)
    p_views, v_views = ([case.view(volume[..., c]) for c in range(classes)] for volume in volumes)
    for i, (p, v) in enumerate(zip(case.planes(probability), case.planes(variance), strict=True)):
        v = np.minimum(v, p * (1 - p))
        if not exact:
            p, v = rounded(p), rounded(v)
        best = 1 - p.sum(axis=0)  # the background's
        for c in range(classes):
            p_views[c][i] = p[c]
            v_views[c][i] = v[c]
            label_view[i][p[c] > best] = c + 1
            np.maximum(best, p[c], out=best)
    return [labels, *volumes]


def _like(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    """An array (z, y, x) or, with several components per voxel, (z, y, x, C - 1) where the image lies."""
    if array.shape[-1] == 1 and array.ndim == 4:
        array = array[..., 0]
    result = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    result.CopyInformation(image)
    return result
