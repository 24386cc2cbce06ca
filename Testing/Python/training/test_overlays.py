"""Overlays of predictions beside the truth: the slice, the colours and scales, what cannot be drawn."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from mob_training.comparison import overlays
from mob_training.comparison.overlays import (
    Section,
    Slice,
    draw_case,
    draw_sections,
    view_mm,
    worst_slice,
    write_picture,
)
from mob_training.evaluation.case_scores import ScoredCase
from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.output.pictures.planes import PLANES
from MoBUncertaintyLib.output.pictures.style import CT_RANGE, Scale
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from support import tiny
from support.drawn_figures import looks_like_a_picture

# Empty bins and undefined values are no reason for numpy or matplotlib to complain.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
CPU = PredictionSettings(device="cpu")
AXIAL, CORONAL, SAGITTAL = PLANES
BLANK = Slice(AXIAL, np.zeros((30, 20)), np.ones(2), "case, axial", Scale(100.0, 500.0, Measure.VARIANCE, 0.015, 0.08))


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
    assert worst_slice(case, sitk.GetImageFromArray(case.truth), plane) == expected


def test_slice_without_errors_is_where_most_of_the_organ_is():
    case = scored()
    case.prediction.segmentation[1:3, 2, 2] = case.truth[1:3, 2, 2] = 1
    case.prediction.segmentation[2, 4, 4] = case.truth[2, 4, 4] = 1
    image = sitk.GetImageFromArray(case.truth)
    assert worst_slice(case, image, AXIAL) == 2
    assert worst_slice(scored(), image, AXIAL) == 0


def test_errors_are_missed_too_much_or_of_another_class():
    truth, labels = np.array([[0, 1, 2, 0, 1, 2]]), np.array([[0, 1, 2, 1, 0, 1]])
    section = Section("A", 1.0, truth, labels, np.zeros((1, 6)), np.zeros((1, 6)))
    assert [overlays.ERRORS.get(kind, ("right",))[0] for kind in section.errors[0]] == [
        "right", "right", "right", "too much", "missed", "another class",
    ]  # fmt: skip


def test_view_is_the_organ_with_a_margin_and_no_strip():
    organ = np.zeros((60, 80), bool)
    organ[30:40, 20:50] = True
    left, right, top, bottom = view_mm(organ, np.array([3.0, 1.0]))
    assert (left, right) == (14, 56)
    assert (top, bottom) == (84, 126)
    organ[:] = False
    organ[30, 10:70] = True
    left, right, top, bottom = view_mm(organ, np.ones(2))
    assert (left, right) == (4, 76)
    assert (top + bottom) / 2 == 30.5
    assert bottom - top == pytest.approx(72 / 1.6)
    assert view_mm(organ & False, np.ones(2)) == (0, 80, 0, 60)


@pytest.fixture
def section() -> Section:
    truth, labels = np.zeros((2, 30, 20), np.uint8)
    truth[10:20, 5:15], labels[10:22, 5:15] = 1, 1
    probability = np.where(labels, 0.8, 0.1)
    return Section("Deterministic, fine-tuned", 0.91, truth, labels, probability, probability * (1 - probability) / 4)


def test_rows_share_window_scales_and_view(section):
    where = replace(BLANK, image=np.arange(600.0).reshape(30, 20), spacing=np.array([2.0, 1.0]))
    figure = draw_sections([section, replace(section, title="B", labels=0 * section.labels)], where)
    panels = np.reshape(figure.axes[:8], (2, 4))
    assert [axes.get_title() for axes in panels[0]] == list(overlays.COLUMNS)
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["Deterministic, fine-tuned\nDice 0.910", "B\nDice 0.910"]
    scales = [[[one.get_clim() for one in axes.images] for axes in row] for row in panels]
    assert scales[0] == scales[1]
    assert scales[0][0] == [(100, 500)]
    assert scales[0][2:] == [[(0, 1)], [(0, 0.08)]]
    assert panels[0, 3].images[0].get_cmap().name == "inferno"
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in panels.flat}
    assert len(limits) == 1
    assert {tuple(one.get_extent()) for axes in panels.flat for one in axes.images} == {(0, 20, 60, 0)}  # mm
    figure.canvas.draw()
    for axes in panels.flat:
        box = axes.get_window_extent()
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert box.height / box.width == pytest.approx((bottom - top) / (right - left), rel=0.01)  # a mm is a mm
    wrong = panels[0, 1].images[1].get_array()
    assert np.ma.count(wrong) == 20 and set(wrong.compressed()) == {2}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["truth", "prediction", "missed", "too much"]
    assert "case, axial; grey: 100 to 500" in [text.get_text() for text in figure.texts]


def test_a_model_without_covariance_has_no_variance(section):
    figure = draw_sections([replace(section, variance=None), section], BLANK)
    panels = np.reshape(figure.axes[:8], (2, 4))
    assert [len(axes.images) for axes in panels[:, 3]] == [0, 1]
    assert [[text.get_text() for text in axes.texts] for axes in panels[:, 3]] == [["none"], []]
    alone = draw_sections([replace(section, variance=None)], BLANK)
    assert alone.axes[5].get_xlim() == (0, 0.08)  # its bar is there all the same


@pytest.mark.parametrize("part", ["truth", "labels", "both"])
def test_empty_masks_are_drawn(section, part, tmp_path):
    names = ("truth", "labels") if part == "both" else (part,)
    section = replace(section, **dict.fromkeys(names, 0 * section.truth))
    draw_sections([section], replace(BLANK, plane=SAGITTAL)).savefig(tmp_path / "empty.png")
    looks_like_a_picture(tmp_path / "empty.png", (1000, 1200), (300, 800))


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


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_case_is_drawn_where_the_first_model_errs_most(held_out, tmp_path, plane):
    output = tmp_path / "new" / "case.png"
    paths = [model.path for model in held_out.models]
    figure = draw_case(held_out.dataset, "patient", paths, plane, settings=CPU)
    assert write_picture(figure, output) == output
    looks_like_a_picture(output, (1400, 1800), (600, 1600))
    panels = np.reshape(figure.axes[:8], (2, 4))

    # The stored axes run to the right, to anterior and to superior.
    prediction = predict(held_out.image, held_out.models[0], CPU)
    truth = sitk.GetArrayFromImage(held_out.truth)
    found, true = (one[:, ::-1, ::-1] for one in (prediction.segmentation, truth))
    axis = {"axial": 0, "coronal": 1, "sagittal": 2}[plane]
    counts = (found != true).sum(axis=tuple({0, 1, 2} - {axis}))
    index = int(counts.argmax())
    ct = sitk.GetArrayFromImage(held_out.image)[:, ::-1, ::-1].take(index, axis)
    likely = prediction.probability[0][:, ::-1, ::-1].take(index, axis)
    if plane != "axial":  # superior is up
        ct, likely = ct[::-1], likely[::-1]
    assert np.array_equal(panels[0, 0].images[0].get_array(), ct)
    assert np.allclose(panels[0, 2].images[0].get_array(), likely, atol=1e-5)
    assert np.ma.count(panels[0, 1].images[1].get_array()) == counts.max() > 0
    assert [len(axes.images) for axes in panels[:, 3]] == [0, 1]
    dice = 2 * (found & true).sum() / (found.sum() + true.sum())
    names = [axes.get_ylabel() for axes in panels[:, 0]]
    assert names[0] == f"Deterministic\nDice {dice:.3f}"
    assert names[1].startswith("Mixture-of-Bases\nDice ")
    height, width = np.multiply(ct.shape, np.delete((4.0, 2.5, 3.0), axis))
    assert panels[0, 0].images[0].get_extent() == pytest.approx((0, width, height, 0))
    letters = {text.get_text() for text in panels[0, 0].texts} & set("RLAPSI")
    assert letters == {"axial": set("RLAP"), "coronal": set("RLSI"), "sagittal": set("APSI")}[plane]
    assert panels[0, 0].images[0].get_clim() == CT_RANGE


def test_title_says_where_the_slice_is(held_out):
    title = draw_case(held_out.dataset, "patient", [held_out.models[0].path], "coronal", settings=CPU).get_suptitle()
    assert title.startswith("patient, coronal, ")
    assert title.endswith(" mm; grey: −160 to 240 HU")
    found = predict(held_out.image, held_out.models[0], CPU).segmentation
    wrong = (found != sitk.GetArrayFromImage(held_out.truth)).sum(axis=(0, 2))
    worst = [
        held_out.image.TransformIndexToPhysicalPoint((0, int(row), 0)) for row in np.flatnonzero(wrong == wrong.max())
    ]
    assert title.split("; ")[0] in [f"patient, {CORONAL.title(np.array(point))}" for point in worst]


def test_models_of_one_name_are_told_apart(held_out):
    figure = draw_case(held_out.dataset, "patient", [held_out.models[0].path] * 2, settings=CPU)
    names = [axes.get_ylabel().replace("\n", " ") for axes in np.reshape(figure.axes[:8], (2, 4))[:, 0]]
    assert all(name.startswith("Deterministic, deterministic Dice") for name in names)


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


@pytest.mark.parametrize("name", ["folder.png", "picture.nothing"])
def test_output_that_cannot_be_written(section, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError):
        write_picture(draw_sections([section], BLANK), tmp_path / name)


def test_samples_take_the_place_of_the_maps(held_out, tmp_path):
    """A column each: they differ where the model has noise, and not where it has none."""
    noisy = tiny.make_model(tmp_path / "noisy", covariance=CovarianceSpec(rank=3, partitions=2))
    models = [noisy.path, held_out.models[0].path]
    axes = np.reshape(draw_case(held_out.dataset, "patient", models, samples=2, settings=CPU).axes[:6], (2, 3))
    assert [one.get_title() for one in axes[0]] == ["truth and prediction", "sample 1", "sample 2"]

    def outline(panel) -> list[np.ndarray]:
        return [path.vertices for path in panel.collections[-1].get_paths()]

    assert not all(np.array_equal(a, b) for a, b in zip(outline(axes[0, 1]), outline(axes[0, 2]), strict=False))
    assert all(np.array_equal(a, b) for a, b in zip(outline(axes[1, 1]), outline(axes[1, 2]), strict=True))
