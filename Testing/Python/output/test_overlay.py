"""`overlay.png`: looked at through its pixels."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread
from PIL import ImageDraw

from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.output.pictures.overlay import draw_overlay
from MoBUncertaintyLib.output.pictures.planes import PLANES
from MoBUncertaintyLib.output.pictures.style import CT_RANGE, CYAN, display_range, palette_beside
from support.fake_case import LEFT_HANDED, LEFT_KIDNEY, OBLIQUE, PANCREAS, changed_case, fake_case, regions_of

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def drawn(case, folder, ct_name="") -> np.ndarray:
    draw_overlay(folder / "overlay.png", case.image, case.prediction, case.regions, ct_name)
    return imread(folder / "overlay.png")[..., :3]


def white_like(image: sitk.Image) -> sitk.Image:
    white = image * 0 + 1000
    white[0, 0, 0] = -1000
    return white


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """All that is written into pictures."""
    found = []
    write = ImageDraw.ImageDraw.text

    def text(draw, place, words, *arguments, **options):
        found.append(words)
        write(draw, place, words, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


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
    """Mean row and column of pixels, as fractions of the panel."""
    assert wanted.any()
    return tuple(np.argwhere(wanted).mean(axis=0) / panel.shape[:2])


def coloured(picture: np.ndarray) -> np.ndarray:
    return np.ptp(picture, axis=-1) > 0.12


@pytest.mark.parametrize(
    ("towards", "axial", "coronal", "sagittal"),
    [
        ((-1, 0, 0), (0.5, 0.2), (0.5, 0.2), None),  # LPS: the patient's right is on the left
        ((0, -1, 0), (0.2, 0.5), None, (0.5, 0.2)),  # anterior is up, and on the left in the sagittal plane
        ((0, 0, 1), None, (0.2, 0.5), (0.2, 0.5)),  # superior is up
    ],
    ids=["right", "anterior", "superior"],
)
def test_planes_are_as_radiologists_hold_them(tmp_path, towards, axial, coronal, sagittal):
    case = fake_case(IDENTITY, (2.0, 2.0, 2.0), with_regions=False)
    values = sitk.GetArrayFromImage(case.image)
    values[:] = -80
    middle = np.array(values.shape[::-1]) // 2
    x, y, z = middle + 10 * np.array(towards)
    values[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4] = 300  # white
    bright = sitk.GetImageFromArray(values)
    bright.CopyInformation(case.image)
    case.image = bright
    case.prediction.variance[:] = 0
    top = panels(drawn(case, tmp_path))[0]
    for panel, expected in zip(top, (axial, coronal, sagittal), strict=True):
        if expected is not None:
            inner = panel.copy()
            inner[:30], inner[-70:], inner[:, :30], inner[:, -30:] = 0, 0, 0, 0  # letters and scale bar
            row, column = place(panel, (inner > 0.9).all(axis=-1))
            half = [int(share < 0.4) - int(share > 0.6) for share in (row, column)]
            assert half == [int(share < 0.4) for share in expected]


def test_all_that_must_be_known_to_judge_the_picture_is_written(tmp_path, texts):
    case = fake_case(IDENTITY)
    drawn(case, tmp_path, "patient 7.nii.gz")
    letters = [text for text in texts if len(text) == 1 and text.isalpha()]
    assert letters == [letter for plane in PLANES for _ in range(2) for letter in plane.letters]
    middle = np.array(case.regions.ranked[0].centroid_ras)
    positions = [re.fullmatch(r"(axial|coronal|sagittal), ([RLAPSI]) (\d+\.\d) mm", text) for text in texts]
    positions = [found.groups() for found in positions if found]
    assert [name for name, *_ in positions] == ["axial", "coronal", "sagittal"]
    for (_, letter, value), axis in zip(positions, (2, 1, 0), strict=True):
        assert (1 if letter in "RAS" else -1) * float(value) == pytest.approx(middle[axis], abs=3.0)
    said = "\n".join(texts)
    for words in (
        "Pancreas",
        "patient 7.nii.gz  ·  Doubtful region 1 of 2: pancreas, left, expected error 1,234 mm³, mean variance 0.150",
        "Not for clinical use",
        "region 1, which the planes go through",
        "other doubtful regions",
        "predictive variance  0.015",
        "0.08+",
        "grey: −160 to 240 HU",
        "2 cm",
    ):
        assert words in said
    assert "1" in texts  # beside the region


def test_a_long_or_hostile_name_stays_in_its_place_and_none_is_none(tmp_path, texts):
    drawn(fake_case(), tmp_path)
    assert any(text.startswith("Doubtful region 1 of 2: pancreas, left, expected error") for text in texts)
    texts.clear()
    drawn(fake_case(), tmp_path, "a" * 300 + "\n\udcff\u202e.nii.gz")
    (line,) = [text for text in texts if "Doubtful region 1 of 2" in text]
    assert line.startswith("aaa") and "…  ·  Doubtful" in line and len(line) < 200


def test_a_small_volume_fills_its_panels(tmp_path):
    case = fake_case(IDENTITY, (1.0, 1.0, 1.0))
    for panel in panels(drawn(case, tmp_path))[0]:
        assert (panel.max(axis=-1) > 0.1).mean() > 0.6  # 40 x 36 x 28 mm, a sixth of a view of 100 mm


def test_a_far_false_positive_does_not_zoom_out(tmp_path):
    """The volume is large and has a few voxels of organ in a far corner."""
    case = fake_case(IDENTITY)

    def padded(value: float):
        return lambda image: sitk.ConstantPad(image, (0, 0, 0), (80, 80, 80), value)

    case = changed_case(case, padded(0.0), padded(-1000.0))
    alone = panels(drawn(case, tmp_path))
    case.prediction.segmentation[100:104, 110:114, 110:114] = 1
    assert np.array_equal(panels(drawn(case, tmp_path)), alone)


def test_of_many_regions_the_first_thirty_are_drawn(tmp_path, texts):
    case = fake_case(IDENTITY)
    labels = np.zeros_like(case.regions.whole_map())
    middle = np.array(labels.shape) // 2
    for rank in range(1, 41):  # all of them in the axial plane of the first one
        labels[middle[0], 2 * (rank // 8) + 10, 4 * (rank % 8) : 4 * (rank % 8) + 3] = rank
    case.regions = regions_of(labels, [replace(case.regions.ranked[0], rank=n, number=n) for n in range(1, 41)])
    drawn(case, tmp_path)
    assert {int(text) for text in texts if text.isdigit()} == set(range(1, 31))
    assert "regions 2 to 30 of 40" in texts


def test_the_scale_bar_is_read_on_bone(tmp_path):
    case = fake_case(IDENTITY)
    case.image = white_like(case.image)
    corner = panels(drawn(case, tmp_path))[0, 0][-34:-10, -60:-10]
    assert corner.min() < 0.3 and corner.max() == 1  # white on dark, though all around is white


def test_thin_outlines_have_a_dark_rim(tmp_path):
    case = fake_case(IDENTITY, with_regions=True)
    case.image = white_like(case.image)
    panel = panels(drawn(case, tmp_path))[0, 0]
    assert (panel.max(axis=-1) < 0.35).sum() > (np.abs(panel - np.array(CYAN) / 255).max(axis=-1) < 0.05).sum() / 2


@pytest.mark.parametrize("direction", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_how_the_axes_are_stored_does_not_change_the_picture(tmp_path, direction):
    def turned(image: sitk.Image) -> sitk.Image:
        return sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True))

    case = fake_case(direction)
    as_stored = drawn(case, tmp_path)
    assert np.abs(drawn(changed_case(case, turned), tmp_path) - as_stored).max() < 0.02


def test_unequal_spacing_leaves_a_ball_round(tmp_path):
    case = fake_case(IDENTITY, (1.5, 1.5, 3.0), (replace(PANCREAS, colour=(0, 255, 0)),), with_regions=False)
    for panel in panels(drawn(case, tmp_path))[0]:
        outline = np.argwhere((panel[..., 1] > 0.8) & (panel[..., 0] < 0.3))
        height, width = np.ptp(outline, axis=0)
        assert height / width == pytest.approx(1, abs=0.12)


def test_heat_map_is_drawn_in_the_lower_row_where_the_variance_is(tmp_path):
    case = fake_case()
    upper, lower = panels(drawn(case, tmp_path))
    case.regions = replace(case.regions, settings=RegionSettings(threshold=0.3))  # above all variances
    upper_without, lower_without = panels(drawn(case, tmp_path))
    assert np.abs(upper - upper_without).max() < 0.02
    changed = np.abs(lower - lower_without).max(axis=-1) > 0.1
    assert changed.any(axis=(1, 2)).all()
    row, column = place(lower[0], changed[0])
    assert 0.4 < row < 0.6 and column > 0.55  # the first region lies to the left of the organ


def test_uncertainty_that_is_one_voxel_thick_is_seen(tmp_path):
    case = fake_case(with_regions=False)
    (variance,) = case.prediction.variance
    variance[:] = 0
    without = panels(drawn(case, tmp_path))[1]
    variance[:, :, variance.shape[2] // 2] = 0.08
    changed = np.abs(panels(drawn(case, tmp_path))[1] - without).max(axis=-1) > 0.3
    assert changed.any(axis=(1, 2)).sum() >= 2


@pytest.mark.parametrize(("measure", "threshold"), [(Measure.BERNOULLI, 0.015), (Measure.ENTROPY, 0.08)])
def test_heat_map_shows_the_measure_that_regions_were_found_by(tmp_path, measure, threshold):
    case = fake_case()
    case.regions = replace(case.regions, settings=RegionSettings(measure, threshold))
    shown = drawn(case, tmp_path)
    case.prediction.variance[:] = 0  # as of a model without a covariance
    assert np.array_equal(drawn(case, tmp_path), shown)
    assert coloured(panels(shown)[1]).mean() > 0.01
    case.regions = replace(case.regions, settings=RegionSettings())
    without = panels(drawn(case, tmp_path))[1]
    case.prediction.variance[:] = case.prediction.probability * (1 - case.prediction.probability)
    by_variance = panels(drawn(case, tmp_path))[1]
    # The other measures show where the variance would, if it were p (1 - p): there is 0.015 where the entropy is 0.08.
    hot = np.abs(by_variance - without).max(axis=-1) > 0.3
    assert (np.abs(panels(shown)[1] - without).max(axis=-1) > 0.1)[hot].mean() > 0.9


def test_regions_beside_a_blue_organ_are_not_cyan(tmp_path):
    blue = replace(PANCREAS, colour=(85, 131, 242))
    upper, _lower = panels(drawn(fake_case(IDENTITY, labels=(blue,)), tmp_path))
    for colour, seen in ((palette_beside((blue.colour,)).region, True), (CYAN, False)):
        near = np.abs(upper[0] - np.array(colour) / 255).max(axis=-1) < 0.05
        assert near.any() == seen


@pytest.mark.parametrize("organ", [True, False], ids=["organ", "nothing"])
def test_picture_without_region(tmp_path, organ):
    case = fake_case(with_regions=False)
    if not organ:
        case.prediction.segmentation[:] = 0
        case.prediction.variance[:] = 0
    picture = drawn(case, tmp_path)
    assert coloured(panels(picture)).any() == organ


def test_two_organs_are_outlined_in_their_colours(tmp_path):
    case = fake_case(labels=(replace(PANCREAS, colour=(0, 255, 0)), replace(LEFT_KIDNEY, colour=(255, 0, 255))))
    axial = panels(drawn(case, tmp_path))[0, 0]
    assert ((axial[..., 1] > 0.8) & (axial[..., 0] < 0.3)).any()
    assert ((axial[..., 1] < 0.3) & (axial[..., 0] > 0.8)).any()


def test_single_slice_is_drawn(tmp_path):
    case = changed_case(fake_case(), lambda image: image[:, :, 14:15])
    case.regions = replace(case.regions, ranked=case.regions.ranked[:1])  # the other one lies elsewhere
    assert drawn(case, tmp_path).std() > 0.05


def test_ct_is_shown_in_the_window_of_the_abdomen_and_other_images_by_their_own_range():
    ct = fake_case().image
    assert display_range(ct) == CT_RANGE
    other = sitk.RescaleIntensity(sitk.Cast(ct, sitk.sitkFloat32), 0, 5000)
    low, high = display_range(sitk.Cast(other, sitk.sitkInt16))
    assert 0 <= low < high <= 5000
