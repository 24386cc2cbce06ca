"""The whole path from an image to a prediction, against stock nnU-Net and against what physics and probability ask."""

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from MoBUncertaintyLib.base.errors import Cancelled, SettingsError
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.inference.maps import filling
from MoBUncertaintyLib.inference.maps.filling import MIN_PROBABILITY, MIN_VARIANCE, STEP, rounded
from MoBUncertaintyLib.inference.predictor import Predictor, predict
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import build_network
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings, Progress
from support.bright_network import BareEngine
from support.fake_case import changed_prediction
from support.model_kinds import stock
from support.tiny import CONFIGURATION, PATCH, make_ct, make_dataset, make_model, make_plans, make_weights

EXACT = PredictionSettings(device="cpu", precision="float32")
MOB = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, partitions=2)


@pytest.fixture(scope="module")
def mob(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A Mixture-of-Bases model with two folds, trained on RAS images."""
    dataset = make_dataset(orientation="RAS")
    return make_model(tmp_path_factory.mktemp("mob") / "results", dataset=dataset, covariance=MOB, folds=2)


@pytest.fixture(scope="module")
def ct() -> sitk.Image:
    """Two tiles along one axis."""
    return make_ct((24, 24, 30))


@pytest.fixture(scope="module")
def reference(mob: Model, ct: sitk.Image) -> Prediction:
    return predict(ct, mob, one_fold())


def one_fold(**options: object) -> PredictionSettings:
    return PredictionSettings(**{"device": "cpu", "precision": "float32", "folds": (0,)} | options)


def arrays(prediction: Prediction) -> list[np.ndarray]:
    """Segmentation, probability and variance; the maps of one organ without an axis of their own."""
    return [prediction.segmentation, *(np.squeeze(each) for each in (prediction.probability, prediction.variance))]


def same(a: Prediction, b: Prediction, atol: float = 0.0) -> bool:
    return all(np.allclose(x, y, rtol=0, atol=atol) for x, y in zip(arrays(a), arrays(b), strict=True))


# --- against stock nnU-Net ------------------------------------------------------------------------------------------


@pytest.fixture
def fp32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock nnU-Net sums logits and weights in float16, which alone moves probabilities by up to 1e-2. Raised to
    float32 here, so that what is left is what we do differently."""
    in_fp32 = SimpleNamespace(**vars(torch) | {"half": torch.float32})
    monkeypatch.setattr(predict_from_raw_data, "torch", in_fp32)
    monkeypatch.setattr(
        predict_from_raw_data,
        "compute_gaussian",
        lambda size, sigma_scale, value_scaling_factor, device: compute_gaussian(
            size, sigma_scale, value_scaling_factor, torch.float32, device
        ),
    )


@pytest.mark.parametrize("shape", [PATCH, (20, 22, 24)])
def test_one_tile_gives_the_probabilities_of_stock_nnunet(tmp_path: Path, shape: tuple[int, ...], fp32_sums) -> None:
    model, image = make_model(tmp_path / "model"), make_ct(shape)
    segmentation, probability, _ = arrays(predict(image, model, EXACT))
    expected_segmentation, (_, expected) = stock(model.path, [image])
    assert 0.1 < expected_segmentation.mean() < 0.9
    np.testing.assert_allclose(probability, expected, atol=1e-4)
    assert (segmentation != expected_segmentation).mean() < 1e-4


def test_mirrored_passes_are_those_of_stock_nnunet(tmp_path: Path, fp32_sums) -> None:
    model, image = make_model(tmp_path / "model", mirror_axes=(0, 2)), make_ct(PATCH)
    prediction = predict(image, model, PredictionSettings(device="cpu", precision="float32", mirror=True))
    expected_segmentation, (_, expected) = stock(model.path, [image], mirror=True)
    assert prediction.provenance["passes_per_tile"] == 4
    # Stock averages the logits of the four passes, we their probabilities: equal where the passes agree.
    assert (arrays(prediction)[0] != expected_segmentation).mean() < 2e-3
    assert np.median(np.abs(arrays(prediction)[1] - expected)) < 2e-3


def test_one_tile_of_another_spacing_differs_from_stock_only_by_the_order_of_softmax_and_resampling(
    tmp_path: Path, fp32_sums
) -> None:
    model = make_model(tmp_path / "model", plans=make_plans(transpose=(1, 0, 2)))
    image = make_ct((24, 24, 28), (2.5, 3.0, 2.9))
    prediction = predict(image, model, EXACT)
    assert prediction.provenance["tiles"] == 1
    expected_segmentation, (_, expected) = stock(model.path, [image])
    segmentation, probability, _ = arrays(prediction)
    # Stock interpolates logits and then takes the softmax, we interpolate probabilities: between two voxels whose p
    # differ a lot, the two differ by up to about 0.1, and the border moves by a fraction of a voxel.
    assert np.abs(probability - expected).max() < 0.15
    assert np.abs(probability - expected).mean() < 2e-3
    assert (segmentation != expected_segmentation).mean() < 3e-3


def test_several_tiles_give_the_labels_of_stock_nnunet(tmp_path: Path) -> None:
    """At 99.9 % of the voxels. The rest is where overlapping tiles disagree about a border: stock averages their
    logits and so follows the tile that is surer, we average their probabilities, of which the variance needs the
    mixture. Stock is left as it is, with its sums in float16."""
    model, image = make_model(tmp_path / "model"), make_ct((36, 36, 48))
    prediction = predict(
        image, model, PredictionSettings(device="cpu", precision="float32", tiling="full", body_box=False)
    )
    assert prediction.provenance["tiles"] == 12
    expected, _ = stock(model.path, [image])
    assert dice(arrays(prediction)[0], expected) > 0.98
    assert (arrays(prediction)[0] == expected).mean() >= 0.999


# --- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spacing", "code"), [((3, 3, 3), "RAS"), ((2.1, 3.7, 4.5), "PSL")])
def test_results_have_exactly_the_images_geometry(mob: Model, spacing: tuple[float, ...], code: str) -> None:
    turned = sitk.VersorTransform([0.1, -0.2, 0.3], 0.2).GetMatrix()
    image = sitk.DICOMOrient(make_ct((15, 17, 19), spacing, turned, centre=(11, -3, 7)), code)
    prediction = predict(image, mob, one_fold())
    result = image_on(prediction.grid, prediction.segmentation)
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, name)() == getattr(image, name)()
    maps = (prediction.probability, prediction.variance)
    assert [each.shape for each in maps] == [(1, *prediction.shape)] * 2
    assert [each.dtype for each in (prediction.segmentation, *maps)] == [np.uint8, np.float32, np.float32]


@pytest.mark.parametrize("code", ["LPS", "RAI", "SLP", "ASL"])
def test_flipped_and_permuted_axes_give_the_same_physical_result(mob: Model, code: str) -> None:
    image = make_ct((22, 24, 26), (3.1, 2.9, 3.4))
    straight, stored = (predict(sitk.DICOMOrient(image, c), mob, one_fold()) for c in ("RAS", code))
    back = changed_prediction(stored, lambda volume: sitk.DICOMOrient(volume, "RAS"))
    assert same(back, straight)


def test_an_oblique_grid_over_the_same_anatomy_gives_the_same_physical_organ(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", dataset=make_dataset(orientation="LPS"))
    turned = sitk.VersorTransform([1.0, 2.0, 3.0], np.deg2rad(6)).GetMatrix()
    centre = (14, -8, 5)
    straight, oblique = (
        make_ct((48, 44, 52), (1.8, 1.8, 1.8), direction, centre) for direction in ((1, 0, 0, 0, 1, 0, 0, 0, 1), turned)
    )
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False)
    expected = arrays(predict(straight, model, settings))[0]
    turned_too = predict(sitk.DICOMOrient(oblique, "PIR"), model, settings)
    found = sitk.Resample(image_on(turned_too.grid, turned_too.probability[0]), straight)
    assert expected.sum() > 1000
    assert dice((sitk.GetArrayFromImage(found) > 0.5).astype(np.uint8), expected) >= 0.99


def test_a_region_of_interest_is_filled_and_the_rest_is_zero(mob: Model) -> None:
    image = make_ct((30, 32, 34))
    bounds = (-40, 2, -10, 26, -20, 25)  # RAS
    whole = predict(image, mob, one_fold())
    part = predict(image, mob, one_fold(region_of_interest=bounds))
    geometry = image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    lps = sitk.GetArrayFromImage(sitk.PhysicalPointSource(sitk.sitkVectorFloat64, image.GetSize(), *geometry))
    low, high = np.reshape(bounds, (3, 2)).T
    inside = ((low <= lps * (-1, -1, 1)) & (lps * (-1, -1, 1) <= high)).all(axis=-1)
    for result in arrays(part):
        assert result[inside].any()
        assert not result[~inside].any()
    assert dice(arrays(part)[0][inside], arrays(whole)[0][inside]) > 0.9


def test_outside_the_body_everything_is_zero(mob: Model) -> None:
    image = make_ct((24, 24, 80))  # 240 mm wide, the body 144 mm
    _, probability, variance = arrays(predict(image, mob, one_fold()))
    assert not probability[..., :10].any()
    assert not variance[..., :10].any()
    assert probability.any()


# --- moments and variance -------------------------------------------------------------------------------------------


def test_what_is_not_asked_for_exactly_is_the_same_rounded(mob: Model, ct: sitk.Image, reference: Prediction) -> None:
    segmentation, *exact = arrays(Predictor(mob, one_fold()).predict(ct, exact=True))
    assert np.array_equal(segmentation, arrays(reference)[0])
    least = MIN_PROBABILITY, MIN_VARIANCE
    for found, given, smallest in zip(exact, arrays(reference)[1:], least, strict=True):
        assert np.array_equal(rounded(found, smallest), given)
        assert not np.array_equal(found, given)


def test_two_slabs_at_once_are_filled_as_each_plane_alone(mob: Model) -> None:
    case = Predictor(mob, one_fold()).prepare(make_ct((40, 44, 61), (2, 3, 2.4)))
    p = np.random.default_rng(0).random((1, *case.data.shape[1:]), np.float32) ** 3
    v = p**2 / 5
    segmentation, *maps, _ = filling.fill(case, (p, v), False, [1])
    for found, given, least in zip(maps, (p, v), (MIN_PROBABILITY, MIN_VARIANCE), strict=True):
        expected = np.stack([rounded(plane, least) for plane in case.planes(given)], axis=1)
        assert np.array_equal(case.view(found[0]), expected[0])
    assert np.array_equal(segmentation, (maps[0][0] > 1 - maps[0][0]))
    assert segmentation.any()


def test_a_deterministic_model_has_no_variance_where_one_tile_decides_also_after_resampling(tmp_path: Path) -> None:
    prediction = predict(make_ct((30, 24, 28), (2.5, 3, 2.4)), make_model(tmp_path / "model"), EXACT)
    assert prediction.provenance["tiles"] == 1
    _, probability, variance = arrays(prediction)
    assert probability.max() > 0.9
    # Interpolating E[p^2] instead would leave the squared step of p between voxels, up to 0.25.
    assert variance.max() < 1e-6


def test_folds_are_a_mixture_and_their_disagreement_is_variance(mob: Model) -> None:
    image = make_ct(PATCH)
    (_, p0, v0), (_, p1, v1) = (arrays(predict(image, mob, one_fold(folds=(fold,)))) for fold in (0, 1))
    _, p, v = arrays(predict(image, mob, EXACT))
    assert np.abs(p0 - p1).max() > 0.05
    np.testing.assert_allclose(p, (p0 + p1) / 2, atol=STEP)
    np.testing.assert_allclose(v, (v0 + v1) / 2 + ((p0 - p1) / 2) ** 2, atol=2 * STEP)  # law of total variance


def test_a_warm_predictor_repeats_itself_with_several_folds(mob: Model) -> None:
    predictor, image = Predictor(mob, EXACT), make_ct(PATCH)
    assert same(predictor.predict(image), predictor.predict(image))


def test_monte_carlo_repeats_with_its_seed_and_approaches_the_closed_form(
    mob: Model, ct: sitk.Image, reference: Prediction
) -> None:
    first, again, other = (predict(ct, mob, one_fold(samples=50, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    _, p, v = arrays(reference)
    # The error in standard errors: mean 0, mean square 1; less where two tiles were averaged.
    doubtful = v > 1e-3
    error = (arrays(first)[1] - p)[doubtful] / np.sqrt(v[doubtful] / 50)
    assert abs(error.mean()) < 0.03
    assert 0.5 < (error**2).mean() < 1.05
    assert first.provenance["moments"] == "Monte Carlo, K = 50"
    assert reference.provenance["moments"] == "closed form"


@pytest.mark.parametrize(("keep_probability", "moments"), [(False, "Monte Carlo, K = 30"), (True, "closed form")])
def test_more_than_two_classes_give_one_component_per_label(tmp_path: Path, keep_probability: bool, moments: str):
    dataset = make_dataset(("liver", "spleen", "kidney"))
    spec = CovarianceSpec(Covariance.SINGLE_BASIS, rank=3, keep_probability=keep_probability)
    model = make_model(tmp_path / "model", dataset=dataset, covariance=spec)
    prediction = predict(make_ct((16, 20, 18)), model, EXACT)
    segmentation, p, variance = arrays(prediction)
    assert p.shape == variance.shape == (3, 16, 20, 18)
    background = 1 - p.sum(axis=0, keepdims=True)
    assert background.min() > -1e-5
    assert np.array_equal(segmentation, np.concatenate([background, p]).argmax(axis=0))
    assert len(np.unique(segmentation)) > 1
    assert (variance <= p * (1 - p) + 1e-6).all()
    assert prediction.provenance["moments"] == moments


# --- memory and precision (memory that runs out: test_memory_ladder.py) ---------------------------------------------


@pytest.mark.parametrize(("samples", "warned"), [(1, True), (2, False), (None, False)])
def test_one_sample_has_no_variance_and_that_is_said(mob: Model, ct: sitk.Image, samples: int | None, warned: bool):
    said = [text for text in predict(ct, mob, one_fold(samples=samples)).warnings if "one sample" in text]
    assert bool(said) == warned


def test_half_precision_of_the_backbone_moves_the_result_little(
    mob: Model, ct: sitk.Image, reference: Prediction
) -> None:
    prediction = predict(ct, mob, one_fold(precision="bfloat16"))
    assert not same(prediction, reference)
    assert np.abs(arrays(prediction)[1] - arrays(reference)[1]).mean() < 0.01
    assert prediction.provenance["precision"] == "bfloat16"


@pytest.mark.parametrize("samples", [None, 3, 60])
def test_two_volumes_are_held_beside_the_input_whatever_the_number_of_samples(mob: Model, samples: int | None) -> None:
    data = np.zeros((1, 40, 41, 42), np.float32)
    network = build_network(mob.plans, mob.dataset, CONFIGURATION, MOB)
    network.load_state_dict(make_weights(MOB))
    engine = BareEngine(lambda _: network.eval(), 2, samples)
    window = SlidingWindow(engine, Placement(CPU, CPU), 0)
    held: list[int] = []

    def measure(done: int, total: int) -> None:
        if done != total - 1:
            return
        held.append(tracemalloc.get_traced_memory()[0] - before)

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    window.run(data, PATCH, [0], measure)
    tracemalloc.stop()
    assert 2 * data.nbytes <= held[0] < 3 * data.nbytes


# --- progress, cancelling, settings ---------------------------------------------------------------------------------


def test_progress_counts_tiles_and_estimates_the_time_left(mob: Model, ct: sitk.Image) -> None:
    updates: list[Progress] = []
    prediction = predict(ct, mob, EXACT, updates.append)
    stages = list(dict.fromkeys(update.stage for update in updates))
    assert stages == ["preprocess", "network", "resample"]
    network = [update for update in updates if update.stage == "network"]
    assert [(u.done, u.total) for u in network] == [(i, 4) for i in range(5)]  # two tiles, two folds
    assert [u.seconds_left for u in network[:3]] == [None] * 3  # two passes after the first tell how long one takes
    assert network[3].seconds_left > 0
    assert network[-1].seconds_left == 0
    assert set(prediction.timings) == {"preprocess", "network", "moments", "blend", "resample"}
    assert all(seconds > 0 for seconds in prediction.timings.values())


def test_a_prediction_names_its_model_and_sizes_its_clicks(mob: Model, reference: Prediction) -> None:
    provenance = json.loads(json.dumps(reference.provenance))
    assert (provenance["model"]["digest"], provenance["folds"], provenance["tiles"]) == (mob.digest, [0], 2)
    sized = mob.card.click_settings.sized(reference.volumes_ml().values())
    assert reference.click_settings == sized != mob.card.click_settings
    assert reference.correlation_mm is None, "its noise has no length"


def test_cancelling_stops_before_the_next_tile(mob: Model, ct: sitk.Image) -> None:
    done: list[int] = []

    def progress(update: Progress) -> None:
        done.extend([update.done] if update.stage == "network" else [])

    with pytest.raises(Cancelled):
        predict(ct, mob, EXACT, progress, cancelled=lambda: 1 in done)
    assert done == [0, 1]


def test_the_part_that_was_predicted_is_known(mob: Model, ct: sitk.Image) -> None:
    """Of an image in another orientation than the model's, to a region of interest."""
    turned = sitk.DICOMOrient(ct, "PIR")
    corners = [turned.TransformIndexToPhysicalPoint(index) for index in ((2, 3, 4), (9, 12, 15))]
    ends = np.sort(np.array(corners) * (-1, -1, 1), axis=0)
    bounds = tuple((ends.T + np.array((-0.1, 0.1))).ravel().tolist())
    prediction = predict(turned, mob, one_fold(region_of_interest=bounds, body_box=False))
    assert prediction.processed_box == (slice(4, 16), slice(3, 13), slice(2, 10))
    outside = np.ones(prediction.shape, bool)
    outside[prediction.processed_box] = False
    assert (prediction.probability[0] > 0).any()
    assert not prediction.probability[:, outside].any()


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 0},
        {"samples": 10**20},
        {"overlap": 1.0},
        {"seed": -1},
        {"precision": "int8"},
        {"region_of_interest": (1, 2, 3)},
        {"folds": (7,)},
        {"folds": ()},
        {"mirror": True},
        {"device": "cuda:9"},
    ],
)
def test_a_setting_that_cannot_be_met_is_refused(mob: Model, options: dict) -> None:
    with pytest.raises(SettingsError):
        Predictor(mob, PredictionSettings(**options))


def test_the_length_of_a_local_model_is_told_along_the_images_own_axes(tmp_path: Path) -> None:
    """The image's x axis runs to anterior, its y axis to the right; the network's axes are z, y, x of RAS."""
    spec = CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(9.0, 6.0, 3.0))
    model = make_model(tmp_path / "m", dataset=make_dataset(orientation="RAS"), covariance=spec)
    predictor = Predictor(model, one_fold())
    straight, turned = (
        predictor.predict(make_ct((24, 24, 26), direction=direction))
        for direction in ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 1, 0, 1, 0, 0, 0, 0, 1))
    )
    assert straight.correlation_mm == (9, 6, 3)
    assert turned.correlation_mm == (9, 3, 6)
    x, y, z = predictor.model.card.spacing
    assert straight.network_mm == (z, y, x)
    assert turned.network_mm == (z, x, y)
    assert straight.click_settings.length_mm is None, "the model's own"
