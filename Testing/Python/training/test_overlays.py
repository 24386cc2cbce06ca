"""Overlays of predictions beside the truth: the plane, the columns, what cannot be drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mob_training.comparison import overlays
from mob_training.comparison.overlays import Bases, Row, Samples, draw_case, worst_place, write_picture
from mob_training.evaluation.case_scores import ScoredCase
from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.output.pictures.planes import PLANES
from MoBUncertaintyLib.output.pictures.style import Colour
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from support import tiny
from support.drawn_figures import looks_like_a_picture

CPU = PredictionSettings(device="cpu")
AXIAL, CORONAL, SAGITTAL = PLANES


def scored(shape=(4, 5, 6), **marked: tuple[int, int, int]) -> ScoredCase:
    """A case with nothing but single voxels in the maps named."""
    maps = {name: np.zeros(shape, np.uint8) for name in ("segmentation", "truth")}
    for name, voxel in marked.items():
        maps[name.rstrip("_")][voxel] = 1
    return ScoredCase(Prediction(maps["segmentation"], (), (), Grid.from_matrix(np.eye(4)), ()), maps["truth"])


@pytest.mark.parametrize(("plane", "expected"), [(AXIAL, 3), (CORONAL, 1), (SAGITTAL, 4)])
def test_slice_is_where_most_is_wrong(plane, expected):
    case = scored(segmentation=(3, 1, 4), truth=(0, 0, 0))
    case.prediction.segmentation[2:, 1, 4] = case.prediction.segmentation[3, :, 4] = case.prediction.segmentation[
        3, 1, :
    ] = 1
    assert worst_place(case, sitk.GetImageFromArray(case.truth), plane)[2 - plane.normal] == expected


def test_slice_without_errors_is_where_most_of_the_organ_is():
    case = scored()
    case.prediction.segmentation[1:3, 2, 2] = case.truth[1:3, 2, 2] = 1
    case.prediction.segmentation[2, 4, 4] = case.truth[2, 4, 4] = 1
    image = sitk.GetImageFromArray(case.truth)
    assert worst_place(case, image, AXIAL)[0] == 2
    assert worst_place(scored(), image, AXIAL).tolist() == [2, 2, 3]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> SimpleNamespace:
    """A held-out case of the tiny patient on a grid of unequal spacing, in RAS, and two models."""
    folder = tmp_path_factory.mktemp("overlay")
    image = tiny.make_ct((24, 40, 32), (3.0, 2.5, 4.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    truth = sitk.GetImageFromArray(tiny.truth(image).astype(np.uint8))
    truth.CopyInformation(image)
    dataset = tiny.write_raw(folder / "Dataset001_Tiny", tiny.make_dataset(), {"patient": (image, truth)})
    models = [
        tiny.make_model(folder / "deterministic"),
        tiny.make_model(folder / "mixture", covariance=CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4)),
    ]
    return SimpleNamespace(dataset=dataset, image=image, truth=truth, models=models)


@pytest.fixture
def sheets(monkeypatch) -> list[tuple[list[Row], str, tuple[str, ...], dict[str, Colour]]]:
    """What is put on each sheet."""
    made, sheet = [], overlays._sheet
    monkeypatch.setattr(overlays, "_sheet", lambda *parts: made.append(parts[:4]) or sheet(*parts))
    return made


@pytest.mark.parametrize("plane", PLANES, ids=[plane.name for plane in PLANES])
def test_case_is_drawn_where_the_first_model_errs_most(held_out, tmp_path, sheets, plane):
    output = tmp_path / "new" / "case.png"
    paths = [model.path for model in held_out.models]
    assert write_picture(draw_case(held_out.dataset, "patient", paths, plane.name, settings=CPU), output) == output
    looks_like_a_picture(output, (1000, 1300), (600, 900))
    (rows, title, titles, _), truth = sheets[0], sitk.GetArrayFromImage(held_out.truth)
    prediction = predict(held_out.image, held_out.models[0], CPU)
    wrong = prediction.segmentation != truth
    axis = 2 - plane.normal
    counts = wrong.sum(axis=tuple({0, 1, 2} - {axis}))
    worst = [0, 0, 0]
    places = []
    for index in np.flatnonzero(counts == counts.max()):
        worst[plane.normal] = int(index)
        places.append(f"patient, {plane.title(np.array(held_out.image.TransformIndexToPhysicalPoint(worst)))}; grey")
    assert any(title.startswith(place) for place in places) and title.endswith("−160 to 240 HU")
    assert titles == ("truth and prediction", *overlays.COLUMNS)
    assert [(row.name, len(row.pictures)) for row in rows] == [("Deterministic", 2), ("Mixture-of-Bases", 3)]
    found = prediction.segmentation
    assert rows[0].dice == pytest.approx(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_samples_take_the_place_of_the_maps(held_out, tmp_path, sheets):
    """A column each: they differ where the model has noise, and not where it has none."""
    noisy = tiny.make_model(tmp_path / "noisy", covariance=CovarianceSpec(rank=3, partitions=2))
    draw_case(held_out.dataset, "patient", [noisy.path, held_out.models[0].path], columns=Samples(2), settings=CPU)
    rows, _, titles, lines = sheets[0]
    assert (titles, list(lines)) == (("truth and prediction", "sample 1", "sample 2"), ["truth", "sample"])
    alike = [np.array_equal(*map(np.asarray, row.pictures[1:])) for row in rows]
    assert alike == [False, True]


def test_bases_take_the_place_of_the_maps(held_out, sheets):
    """None of a model without any; and the fraction of the variance is not the same everywhere."""
    paths = [model.path for model in held_out.models]
    draw_case(held_out.dataset, "patient", paths, columns=Bases(), settings=CPU)
    rows, _, titles, lines = sheets[0]
    assert titles == ("truth and prediction", "variance that bases carry", "basis")
    assert list(lines) == ["truth", "prediction", "basis 1", "basis 2", "basis 3"]
    outlined = {tuple(pixel) for pixel in np.asarray(rows[1].pictures[2].convert("RGB")).reshape(-1, 3)}
    assert outlined & {lines[f"basis {n}"] for n in (1, 2, 3)}
    assert [len(row.pictures) for row in rows] == [1, 3]
    share = np.asarray(rows[1].pictures[1].convert("RGB")).reshape(-1, 3)
    assert len(np.unique(share[np.ptp(share.astype(int), axis=1) > 40], axis=0)) > 5


@pytest.mark.parametrize("empty", ["truth", "segmentation", "both"])
def test_empty_masks_are_drawn(empty):
    marked = {"truth": (1, 2, 2), "segmentation": (2, 3, 3)}
    case = scored(**{name: voxel for name, voxel in marked.items() if empty not in (name, "both")})
    view = overlays.View.of(case, sitk.GetImageFromArray(case.truth.astype(np.float32)), 2)
    assert view.outlined(case.truth, case.prediction.segmentation).size == (300, 300)


@pytest.mark.parametrize(("case", "plane"), [("nobody", "axial"), ("patient", "oblique")])
def test_what_is_not_there_is_refused(held_out, case, plane):
    with pytest.raises(SettingsError):
        draw_case(held_out.dataset, case, [held_out.models[0].path], plane)


def test_model_of_another_organ_is_refused_though_its_label_has_the_same_value(held_out, tmp_path):
    dataset = tiny.make_dataset()
    dataset["labels"] = {"background": 0, "spleen": 1}
    model = tiny.make_model(tmp_path / "spleen", dataset=dataset)
    with pytest.raises(SettingsError):
        draw_case(held_out.dataset, "patient", [model.path], settings=CPU)


@pytest.mark.parametrize("place", ["folder.png", "file/case.png"])
def test_output_that_cannot_be_written(tmp_path, place):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_picture(Image.new("RGB", (4, 4)), tmp_path / place)
