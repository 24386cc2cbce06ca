"""`overlay.png`: looked at through its pixels."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.image import imread

from invented import LEFT_HANDED, LEFT_KIDNEY, OBLIQUE, PANCREAS, invented_case
from MoBUncertaintyLib.figures import CT_RANGE, display_range, draw_overlay
from MoBUncertaintyLib.region_settings import Measure, RegionSettings

# Where letters stand, in shares of a panel.
SIDES = {(0.03, 0.5): "left", (0.97, 0.5): "right", (0.5, 0.96): "top", (0.5, 0.04): "bottom"}

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def drawn(case, folder, name="overlay.png") -> np.ndarray:
    draw_overlay(case.image, case.prediction, case.regions, case.card.labels, folder / name)
    return imread(folder / name)[..., :3]


def panels(picture: np.ndarray) -> np.ndarray:
    """(row, column, height, width, 3): the six panels without their frames, found by their frames' grey."""
    frame = np.all(np.abs(picture - 0.25) < 0.02, axis=-1)
    rows = edges(frame.sum(axis=1) > 0.7 * picture.shape[1])
    columns = edges(frame.sum(axis=0) > 0.6 * picture.shape[0])
    size = min(min(b - a for a, b in rows), min(b - a for a, b in columns))
    return np.array([[picture[a : a + size, c : c + size] for c, _ in columns] for a, _ in rows])


def edges(on_frame: np.ndarray) -> list[tuple[int, int]]:
    """Starts and ends of panels along an axis, from where frame lines lie."""
    lines = np.flatnonzero(on_frame)
    starts = [lines[0], *(b for a, b in itertools.pairwise(lines) if b - a > 1)]
    return [(int(a) + 3, int(b) - 3) for a, b in zip(starts[::2], starts[1::2], strict=True)]


def place(panel: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Mean row and column of pixels, as shares of the panel."""
    assert wanted.any()
    return tuple(np.argwhere(wanted).mean(axis=0) / panel.shape[:2])


def coloured(picture: np.ndarray) -> np.ndarray:
    return np.ptp(picture, axis=-1) > 0.12


def test_six_panels_of_one_size(tmp_path):
    assert panels(drawn(invented_case(), tmp_path)).shape[:2] == (2, 3)


@pytest.mark.parametrize(
    "towards, axial, coronal, sagittal",
    [
        ((-1, 0, 0), (0.5, 0.2), (0.5, 0.2), None),  # LPS: the patient's right is on the left
        ((0, -1, 0), (0.2, 0.5), None, (0.5, 0.2)),  # anterior is up, and on the left in the sagittal plane
        ((0, 0, 1), None, (0.2, 0.5), (0.2, 0.5)),  # superior is up
    ],
    ids=["right", "anterior", "superior"],
)
def test_planes_are_as_radiologists_hold_them(tmp_path, towards, axial, coronal, sagittal):
    case = invented_case(IDENTITY, (2.0, 2.0, 2.0), with_regions=False)
    values = sitk.GetArrayFromImage(case.image)
    values[:] = -80
    middle = np.array(values.shape[::-1]) // 2
    x, y, z = middle + 10 * np.array(towards)
    values[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4] = 300  # white
    bright = sitk.GetImageFromArray(values)
    bright.CopyInformation(case.image)
    case.image = bright
    case.prediction.variance *= 0
    top = panels(drawn(case, tmp_path))[0]
    for panel, expected in zip(top, (axial, coronal, sagittal), strict=True):
        if expected is not None:
            inner = panel.copy()
            inner[:30], inner[-70:], inner[:, :30], inner[:, -30:] = 0, 0, 0, 0  # letters and scale bar
            row, column = place(panel, (inner > 0.9).all(axis=-1))
            half = [int(share < 0.4) - int(share > 0.6) for share in (row, column)]
            assert half == [int(share < 0.4) for share in expected]


def test_letters_and_title_say_what_is_where(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    drawn(invented_case(), tmp_path)
    (figure,) = figures
    sides = [
        {side: text.get_text() for text in axes.texts if (side := SIDES.get(text.get_position()))}
        for axes in figure.axes[:6]
    ]
    axial = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    coronal = {"left": "R", "right": "L", "top": "S", "bottom": "I"}
    sagittal = {"left": "A", "right": "P", "top": "S", "bottom": "I"}
    assert sides == [axial, axial, coronal, coronal, sagittal, sagittal]
    assert [text.get_text() for text in figure.texts] == [
        "Pancreas",
        "doubtful region 1 of 2: left, expected error 1,234 mm³, mean variance 0.150",
    ]
    assert figure.axes[6].get_ylabel() == "predictive variance"


@pytest.mark.parametrize("direction", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_how_the_axes_are_stored_does_not_change_the_picture(tmp_path, direction):
    case = invented_case(direction)
    as_stored = drawn(case, tmp_path)
    for part in ("segmentation", "variance", "probability"):
        setattr(case.prediction, part, turned(getattr(case.prediction, part)))
    case.image, case.regions.labels = turned(case.image), turned(case.regions.labels)
    assert np.abs(drawn(case, tmp_path) - as_stored).max() < 0.02


def turned(image: sitk.Image) -> sitk.Image:
    """The same in the patient, with axes permuted and flipped."""
    return sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True))


def test_unequal_spacing_leaves_a_ball_round(tmp_path):
    case = invented_case(IDENTITY, (1.5, 1.5, 3.0), (replace(PANCREAS, colour=(0, 255, 0)),), with_regions=False)
    for panel in panels(drawn(case, tmp_path))[0]:
        outline = np.argwhere((panel[..., 1] > 0.8) & (panel[..., 0] < 0.3))
        height, width = np.ptp(outline, axis=0)
        assert height / width == pytest.approx(1, abs=0.12)


def test_heat_map_is_drawn_in_the_lower_row_where_the_variance_is(tmp_path):
    case = invented_case()
    without = replace(case.regions, settings=RegionSettings(threshold=0.3))  # above all variances: nothing is drawn
    upper, lower = panels(drawn(case, tmp_path))
    case.regions = without
    upper_without, lower_without = panels(drawn(case, tmp_path))
    assert np.abs(upper - upper_without).max() < 0.02
    changed = np.abs(lower - lower_without).max(axis=-1) > 0.1
    assert changed.any(axis=(1, 2)).all()
    row, column = place(lower[0], changed[0])
    assert 0.4 < row < 0.6 and column > 0.55  # the first region lies to the left of the organ


def test_doubt_that_is_one_voxel_thick_is_seen(tmp_path):
    case = invented_case(with_regions=False)
    variance = np.zeros_like(sitk.GetArrayFromImage(case.prediction.variance))
    case.prediction.variance = blank = sitk.GetImageFromArray(variance)
    blank.CopyInformation(case.image)
    without = panels(drawn(case, tmp_path))[1]
    variance[:, :, variance.shape[2] // 2] = 0.08
    case.prediction.variance = sitk.GetImageFromArray(variance)
    case.prediction.variance.CopyInformation(case.image)
    changed = np.abs(panels(drawn(case, tmp_path))[1] - without).max(axis=-1) > 0.3
    assert changed.any(axis=(1, 2)).sum() >= 2


@pytest.mark.parametrize(("measure", "threshold"), [(Measure.BERNOULLI, 0.015), (Measure.ENTROPY, 0.08)])
def test_heat_map_shows_the_measure_that_regions_were_found_by(tmp_path, measure, threshold):
    case = invented_case()
    case.regions = replace(case.regions, settings=RegionSettings(measure, threshold))
    shown = drawn(case, tmp_path)
    case.prediction.variance *= 0  # as of a model without a covariance
    assert np.array_equal(drawn(case, tmp_path), shown)
    assert coloured(panels(shown)[1]).mean() > 0.01
    case.regions = replace(case.regions, settings=RegionSettings())
    without = panels(drawn(case, tmp_path))[1]
    case.prediction.variance = case.prediction.probability * (1 - case.prediction.probability)
    by_variance = panels(drawn(case, tmp_path))[1]
    # The other measures show where the variance would, if it were p (1 - p): there is 0.015 where the entropy is 0.08.
    hot = np.abs(by_variance - without).max(axis=-1) > 0.3
    assert (np.abs(panels(shown)[1] - without).max(axis=-1) > 0.1)[hot].mean() > 0.9


def test_planes_go_through_the_first_region(tmp_path):
    case = invented_case(IDENTITY)
    cyan = [(panel[..., 2] > 0.8) & (panel[..., 0] < 0.2) for panel in panels(drawn(case, tmp_path))[0]]
    assert all(mask.any() for mask in cyan)


@pytest.mark.parametrize("organ", [True, False], ids=["organ", "nothing"])
def test_picture_without_region(tmp_path, organ):
    case = invented_case(with_regions=False)
    if not organ:
        case.prediction.segmentation *= 0
        case.prediction.variance *= 0
    picture = drawn(case, tmp_path)
    assert coloured(panels(picture)).any() == organ


def test_two_organs_are_outlined_in_their_colours(tmp_path):
    case = invented_case(labels=(replace(PANCREAS, colour=(0, 255, 0)), replace(LEFT_KIDNEY, colour=(255, 0, 255))))
    axial = panels(drawn(case, tmp_path))[0, 0]
    assert ((axial[..., 1] > 0.8) & (axial[..., 0] < 0.3)).any()
    assert ((axial[..., 1] < 0.3) & (axial[..., 0] > 0.8)).any()


def test_single_slice_is_drawn(tmp_path):
    case = invented_case()
    for part in ("segmentation", "variance", "probability"):
        setattr(case.prediction, part, getattr(case.prediction, part)[:, :, 14:15])
    case.image, case.regions.labels = case.image[:, :, 14:15], case.regions.labels[:, :, 14:15]
    assert drawn(case, tmp_path).std() > 0.05


def test_ct_is_shown_in_the_window_of_the_abdomen_and_other_images_by_their_own_range():
    ct = invented_case().image
    assert display_range(ct) == CT_RANGE
    low, high = display_range(
        sitk.Cast(sitk.RescaleIntensity(sitk.Cast(ct, sitk.sitkFloat32), 0, 5000), sitk.sitkInt16)
    )
    assert 0 <= low < high <= 5000
