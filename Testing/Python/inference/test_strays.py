"""What lies apart, of a label that is of one piece, is taken back: label map, maps, draws and review agree."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.gaussian.logits import logits_of
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.inference.draws import draws
from MoBUncertaintyLib.inference.maps.filling import label_map
from MoBUncertaintyLib.inference.maps.pieces import REACH, strays, take_back_strays
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.card import Pieces
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.network.export import export
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from MoBUncertaintyLib.review.review import Review
from support.tiny import SPACING, make_ct, make_dataset, make_results_folder

LABELS = describe_labels({1: "organ", 2: "other"})
SHAPE = (20, 24, 40)
GATHERED = Pieces(20, 0.7, 0.8)


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    """Depth below the surface, in voxels."""
    return radius - np.sqrt(sum((grid - c) ** 2 for grid, c in zip(np.ogrid[:20, :24, :40], centre, strict=True)))


ORGAN, STRAY, OTHER = ball((10, 12, 10), 6), ball((10, 12, 26), 3), ball((10, 12, 34), 3)


def results(*depths: np.ndarray, deviation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Maps of an organ of some balls, and of another label beside its stray piece."""
    depth = np.max(depths, axis=0)
    p, v = logistic_normal_moments((2 * depth).astype(np.float32), np.full(SHAPE, deviation**2, np.float32))
    other = (0.9 / (1 + np.exp(-2 * OTHER)) * (1 - p)).astype(np.float32)
    return np.stack([p, other]), np.stack([v, 0.1 * other * (1 - other)])


def segmented(maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return label_map(maps[0][:2], LABELS, maps[0][2] if len(maps[0]) > 2 else None, overlapping=False)


@pytest.mark.parametrize("deviation", [0.0, 1.0])
@pytest.mark.parametrize("some", [False, True])
def test_a_stray_piece_loses_its_label_by_the_least_that_is_needed(deviation: float, some: bool) -> None:
    before = results(ORGAN, STRAY, deviation=deviation)
    if some:  # the background's as that of the most probable other class
        before = np.concatenate([before[0], 1 - before[0].sum(axis=0, keepdims=True)]), before[1]
    after = before[0].copy(), before[1].copy()
    take_back_strays(after, LABELS, {"organ"})
    was, now = segmented(before), segmented(after)
    stray = (was == 1) & (STRAY > ORGAN)
    assert stray.sum() > 50 and not (now[stray] == 1).any()
    assert np.array_equal(now[~stray], was[~stray])
    second = np.maximum(after[0][1], 1 - after[0][:2].sum(axis=0))
    assert (second - after[0][0])[stray].min() < 1e-3, "one voxel of it just loses"
    beyond = ndimage.distance_transform_edt(~stray) > REACH
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old[:, beyond], new[:, beyond]) and np.array_equal(old[1], new[1])
    spreads = [logits_of(maps[0][0][stray], maps[1][0][stray])[1] for maps in (before, after)]
    assert spreads[1] == pytest.approx(spreads[0], abs=0.02), "the deviation of the logit stays"
    if some:
        assert after[0].sum(axis=0) == pytest.approx(before[0].sum(axis=0), abs=1e-5)


def test_half_an_organ_and_labels_of_several_pieces_stay() -> None:
    for maps, names in ((results(ORGAN, ball((10, 12, 28), 5)), {"organ"}), (results(ORGAN, STRAY), {"other"})):
        after = maps[0].copy(), maps[1].copy()
        take_back_strays(after, LABELS, names)
        assert all(map(np.array_equal, after, maps))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny")
    made = make_results_folder(
        folder / "raw", dataset=make_dataset(orientation="RAS"), covariance=CovarianceSpec(Covariance.DIAGONAL)
    )
    return export(made, folder / "model", pieces={"organ": GATHERED})


@pytest.fixture(scope="module")
def ct() -> sitk.Image:
    """The patient of `make_ct`, and something as bright as the organ far from it."""
    image = make_ct()
    values = sitk.GetArrayFromImage(image).astype(float)
    z, y, x = np.ogrid[: values.shape[0], : values.shape[1], : values.shape[2]]
    depth = 4 - np.sqrt((z - 14) ** 2 + (y - 26) ** 2 + (x - 13) ** 2)
    made = sitk.GetImageFromArray((values + 110 / (1 + np.exp(-2 * depth))).astype(np.int16))
    made.CopyInformation(image)
    return made


def predicted(model: Model, image: sitk.Image, **options: object) -> Prediction:
    settings = {"device": "cpu", "precision": "float32", "tiling": "full", "body_box": False} | options
    return Predictor(model, PredictionSettings(**settings)).predict(image)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_model_says_what_is_of_one_piece(model: Model, ct: sitk.Image, engine: str) -> None:
    if engine == "openvino" and not is_installed("openvino"):
        pytest.skip("OpenVINO is not installed")
    plain = replace(model, card=replace(model.card, pieces={"organ": replace(GATHERED, without=0.6)}))
    before, found = (predicted(each, ct, engine=engine) for each in (plain, model))
    pieces, numbers = strays(before.segmentation == 1)
    stray = np.isin(pieces, numbers)
    assert stray.sum() > 50 and found.provenance["engine"] == engine
    assert np.array_equal(found.segmentation, np.where(stray, 0, before.segmentation))
    assert found.probability[0][stray].max() > 0.49, "the place stays doubtful"
    assert before.measures.values["stray:organ"] == found.measures.values["stray:organ"] > 0.01
    assert found.measures.values["volume:organ"] == pytest.approx(found.volumes_ml()["organ"])
    fine = predicted(model, sitk.Expand(ct, (2, 2, 1)), engine=engine)
    assert not strays(fine.segmentation == 1)[1].size


def test_a_click_brings_it_back_and_undo_takes_it_away(model: Model, ct: sitk.Image) -> None:
    found = predicted(model, ct)
    review = Review(found, find_regions(found))
    place = np.array([14, 26, 13])
    assert found.segmentation[tuple(place)] == 0
    review.click([tuple(found.grid.to_ras(place).tolist())], 1)
    assert (review.corrected()[10:19, 22:31, 9:18] == 1).sum() > 20
    review.undo()
    assert np.array_equal(review.corrected(), found.segmentation)


def test_each_draw_is_of_one_piece(model: Model, ct: sitk.Image) -> None:
    settings = PredictionSettings(device="cpu", precision="float32", body_box=False)
    assert ct.GetSpacing() == SPACING, "the grid is the network's"
    for draw in draws(Predictor(model, settings), ct, 2):
        assert draw.segmentation.any() and not strays(draw.segmentation == 1)[1].size
