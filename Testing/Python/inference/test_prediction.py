"""What a prediction tells of itself, and predictions of some of a model's labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.inference import sliding_window
from MoBUncertaintyLib.inference.predictor import Predictor, predict
from MoBUncertaintyLib.inference.tiles import Accumulator
from MoBUncertaintyLib.measurements.volumes import LabelBounds, Scale, VolumeBounds
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from support.probability_images import prediction
from support.tiny import make_ct, make_dataset, make_model


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(np.array([[[0.2, 0.9]]]), 0.2 + 0.1), (np.array([[[[0.2, 0.1]]], [[[0.5, 0.1]]]]), 0.5 + 0.2)],
    ids=["two classes", "three classes"],
)
def test_expected_error_is_what_is_left_to_the_most_probable_class(probability: np.ndarray, expected: float) -> None:
    assert prediction(probability, spacing=(2.0, 1.0, 3.0)).expected_error_mm3 == pytest.approx(6 * expected)


def test_expected_error_of_a_label_counts_what_it_may_lack_and_what_it_may_have_wrongly() -> None:
    probability = np.array([[[[0.2, 0.1, 0.6]]], [[[0.5, 0.1, 0.3]]]])
    found = prediction(probability, segmentation=np.array([[[2, 0, 1]]], np.uint8), spacing=(2.0, 1.0, 3.0))
    errors = {"organ 1": 6 * (0.2 + 0.1 + 0.4), "organ 2": 6 * (0.5 + 0.1 + 0.3)}
    assert {name: 1000 * volume.error_ml for name, volume in found.stated_volumes.items()} == pytest.approx(errors)
    # A voxel that is wrong is so for two labels, one of which may be the background.
    background = 6 * (0.3 + (1 - 0.8) + 0.1)
    assert sum(errors.values()) + background == pytest.approx(2 * found.expected_error_mm3)
    alone = prediction(np.array([[[0.2, 0.9]]]))
    assert 1000 * alone.stated_volumes["organ 1"].error_ml == pytest.approx(alone.expected_error_mm3)


def test_what_is_said_of_a_prediction_does_not_let_it_be_summed_again() -> None:
    maps = np.array([[[[0.2, 0.9]]]])
    found = prediction(maps)
    error = found.expected_error_mm3
    found.probability[:] = 0
    said = found.annotated(provenance={"input": "a CT"}, warnings=["It is cut off."])
    assert (said.provenance["input"], said.warnings, said.expected_error_mm3) == ("a CT", ["It is cut off."], error)
    assert replace(found, probability=2 * maps).expected_error_mm3 != error


def test_volumes_are_those_of_the_labels() -> None:
    segmentation = np.array([[[0, 1, 1, 2]]], np.uint8)
    found = prediction(np.zeros((3, 1, 1, 4)), segmentation=segmentation, spacing=(5.0, 10.0, 20.0))
    assert found.volumes_ml() == {"organ 1": 2.0, "organ 2": 1.0, "organ 3": 0.0}


def test_volumes_have_the_intervals_that_can_be_stated_and_the_console_shows_no_arrays() -> None:
    segmentation = np.array([[[0, 1, 1, 1]]], np.uint8)
    segmented = prediction(np.full((1, 1, 4), 0.5), segmentation=segmentation, spacing=(5.0, 10.0, 20.0))
    bounds = VolumeBounds(0.9, 30, {"organ 1": LabelBounds(Scale.ERROR, 1.0)})
    assert str(segmented.volumes()["organ 1"]) == "3.00 ml"
    volume = replace(segmented, stated_bounds=bounds).volumes()["organ 1"]
    assert (volume.ml, volume.interval) == (3.0, bounds.intervals(segmented.stated_volumes)["organ 1"])
    assert repr(segmented) == "<Prediction of organ 1: 1 x 1 x 4 voxels>"
    image = segmented.to_sitk()
    assert (image.GetSpacing(), sitk.GetArrayFromImage(image).tolist()) == ((5, 10, 20), segmentation.tolist())


def test_what_is_measured_of_labels_is_measured_where_they_are() -> None:
    segmentation = np.zeros((6, 7, 8), np.uint8)
    segmentation[2:4, 5, 1:3] = 1
    found = prediction(np.zeros((1, 6, 7, 8)), segmentation=segmentation)
    assert found.segmented_box == (slice(2, 4), slice(5, 6), slice(1, 3))
    assert prediction(np.zeros((1, 2, 2, 2))).segmented_box == (slice(0, 1),) * 3


def test_maps_must_fit_segmentation_and_labels() -> None:
    with pytest.raises(ImageError):
        prediction(np.zeros((3, 4, 5)), segmentation=np.zeros((3, 4, 6), np.uint8))


# --- some of the labels -----------------------------------------------------------------------------------------------

ORGANS = ("liver", "spleen", "kidney", "aorta", "colon", "stomach", "bladder", "heart")


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks as sure of themselves as trained ones are: random ones give every class about the same probability."""
    features = StochasticNetwork.features

    def scaled(self: StochasticNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, mean = features(self, x)
        return found, 10 * mean

    monkeypatch.setattr(StochasticNetwork, "features", scaled)


def model_of(folder: Path, kind: Covariance, names: tuple[str, ...] = ORGANS, folds: int = 1) -> Model:
    dataset, spec = make_dataset(names, orientation="RAS"), CovarianceSpec.of_kind(kind, rank=3, partitions=2)
    return make_model(folder / "model", dataset=dataset, covariance=spec, folds=folds)


def predicted(model: Model, labels: tuple[str, ...] | None, **options: object) -> Prediction:
    settings = {"device": "cpu", "precision": "float32", "engine": "torch", "tiling": "full", "samples": 4} | options
    return predict(make_ct((24, 30, 30)), model, PredictionSettings(labels=labels, **settings))


@pytest.mark.usefixtures("sure")
@pytest.mark.parametrize(
    ("kind", "engine", "folds"),
    [
        (Covariance.DETERMINISTIC, "torch", 2),
        (Covariance.MIXTURE_OF_BASES, "torch", 1),
        (Covariance.LOW_RANK, "openvino", 1),
    ],
)
def test_some_labels_are_as_if_all_had_been_asked_for(
    tmp_path: Path, kind: Covariance, engine: str, folds: int
) -> None:
    """Also where none of the classes has half of the probability."""
    if engine == "openvino" and not is_installed("openvino"):
        pytest.skip("OpenVINO is not installed")
    model = model_of(tmp_path, kind, folds=folds)
    everything = predicted(model, None, engine=engine)
    some = predicted(model, ("aorta", "spleen"), engine=engine)
    assert [(label.name, label.value) for label in some.labels] == [("spleen", 2), ("aorta", 4)]
    assert some.provenance["settings"]["labels"] == ("aorta", "spleen")
    for name in ("probability", "variance"):
        wanted = np.asarray(getattr(everything, name))[[1, 3]]
        np.testing.assert_allclose(getattr(some, name), wanted, atol=2**-16, rtol=0)  # twice the step of rounding
    asked = np.where(np.isin(everything.segmentation, (2, 4)), everything.segmentation, 0)
    hidden = (asked > 0) & (np.max(everything.probability, axis=0) < 0.5)
    assert np.count_nonzero(asked) > 1000 and np.count_nonzero(hidden) > 100
    assert (some.segmentation == asked).mean() >= 0.999
    assert (some.segmentation == asked)[hidden].mean() >= 0.95
    assert not [each for each in some.warnings if "liver" in each or "kidney" in each]


def test_all_labels_by_name_are_all_labels(tmp_path: Path) -> None:
    model = model_of(tmp_path, Covariance.DIAGONAL)
    everything, named = predicted(model, None), predicted(model, ORGANS[::-1])
    assert named.labels == everything.labels
    assert np.array_equal(named.segmentation, everything.segmentation)


def test_memory_follows_the_labels_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums hold mean and variance of each, and the means of the three most probable others."""
    made: list[Accumulator] = []

    class Counted(Accumulator):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(sliding_window, "Accumulator", Counted)
    volumes = []
    for classes, labels in ((4, None), (24, None), (24, ("organ 3",)), (6, ("organ 3",))):
        names = tuple(f"organ {i}" for i in range(classes))
        found = predicted(model_of(tmp_path / f"{classes} {labels}", Covariance.DETERMINISTIC, names), labels)
        sums = made.pop()
        held = [part for part in vars(sums).values() if isinstance(part, np.ndarray) and part.ndim == 4]
        voxels = held[0][0].size
        assert len(found.probability) == len(found.variance) == len(found.labels)
        volumes.append(sum(part.nbytes for part in held) / voxels)
    assert volumes == [4 * 8, 24 * 8, 8 + 3 * 5, 8 + 3 * 5], "bytes for each voxel"


def test_labels_that_the_model_has_not_are_said(tmp_path: Path) -> None:
    model = model_of(tmp_path, Covariance.DIAGONAL)
    predictor = Predictor(model, PredictionSettings(device="cpu", labels=("liver",)))
    sentence = r"^The model has no label thyroid, lung; choose from liver, spleen, .*, heart\.$"
    with pytest.raises(SettingsError, match=sentence):
        predictor.use(PredictionSettings(device="cpu", labels=("thyroid", "liver", "lung")))
    assert [label.name for label in predictor.labels] == ["liver"], "the settings are as before"
    with pytest.raises(SettingsError):
        PredictionSettings(labels=())
