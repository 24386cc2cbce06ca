"""Each measurement is what SimpleITK, or a few lines of NumPy, make of the same mask."""

import math
import statistics

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.distance import cdist, pdist

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.measurements.measurement import MEASUREMENTS, Wanted, measurement, read_wanted

NAMES = ("organ", "vessel")
SPACING = (0.9, 1.3, 2.5)
DIRECTION = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def image_of(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING), image.SetOrigin((-30, 45, -210)), image.SetDirection(DIRECTION)
    return image


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    """A knobbly organ, and a vessel beside it that it does not touch."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices((14, 24, 26))
    organ = ((z - 6) / 5) ** 2 + ((y - 11) / 8) ** 2 + ((x - 10) / 7) ** 2 + rng.normal(0, 0.15, z.shape) < 1
    return [organ, (np.hypot(y - 21, x - 22) < 2.5) & ~organ]


@pytest.fixture(scope="module")
def dose() -> np.ndarray:
    z, y, x = np.indices((14, 24, 26))
    return (60 * np.exp(-(((x - 16) / 9) ** 2) - ((y - 12) / 10) ** 2 - ((z - 6) / 7) ** 2)).astype(np.float32)


def value(text: str, masks: list[np.ndarray], **values: np.ndarray) -> float:
    wanted = Wanted.read(text, NAMES)
    own = [masks[NAMES.index(name)] for name in wanted.labels]
    return wanted.compute(own, grid_of(image_of(masks[0].astype(np.uint8))), values)


def test_shape_is_that_of_simpleitk(masks: list[np.ndarray]) -> None:
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputeFeretDiameterOn()
    shape.Execute(image_of(masks[0].astype(np.uint8)))
    assert value("volume:organ", masks) == pytest.approx(shape.GetPhysicalSize(1) / 1000, rel=1e-9)
    assert value("diameter:organ", masks) == pytest.approx(shape.GetFeretDiameter(1), rel=1e-9)
    centre = [value(f"centre_{axis}:organ", masks) for axis in "RAS"]
    np.testing.assert_allclose(centre, LPS_TO_RAS * shape.GetCentroid(1), rtol=1e-9)
    slices = [np.argwhere(plane) * SPACING[1::-1] for plane in masks[0]]
    farthest = max(pdist(points).max() for points in slices if len(points) > 1)
    assert value("diameter_in_slice:organ", masks) == pytest.approx(farthest, rel=1e-9)


def test_surface_of_a_ball_is_that_of_its_formula() -> None:
    z, y, x = np.indices((21, 37, 51)) * np.array(SPACING[::-1])[:, None, None, None]
    ball = (z - 25) ** 2 + (y - 23) ** 2 + (x - 22.5) ** 2 < 18**2
    assert value("surface_area:organ", [ball]) == pytest.approx(4 * math.pi * 18**2, rel=0.02)


def test_intensities_are_those_of_the_voxels_inside(masks: list[np.ndarray], dose: np.ndarray) -> None:
    image = np.rint(dose * 7 - 100).astype(np.int16)
    inside = image[masks[0]].tolist()
    assert value("mean_intensity:organ", masks, image=image) == pytest.approx(statistics.fmean(inside), rel=1e-9)
    tenths = statistics.quantiles(inside, n=10, method="inclusive")
    assert value("P90_intensity:organ", masks, image=image) == pytest.approx(tenths[-1], rel=1e-9)


def test_dose_is_that_of_the_cumulative_histogram(masks: list[np.ndarray], dose: np.ndarray) -> None:
    """As dicompyler has it: volume by dose in steps of 1 cGy, and the dose at which it falls below what is asked."""
    inside, voxel_ml = dose[masks[0]], math.prod(SPACING) / 1000
    steps = np.arange(0, 65, 0.01)
    volumes = np.array([np.count_nonzero(inside >= step) for step in steps]) * voxel_ml

    def dose_of(ml: float) -> float:
        return steps[volumes >= ml - 1e-9].max()

    total = len(inside) * voxel_ml
    for text, ml in {"D2%": 0.02 * total, "D98%": 0.98 * total, "D1ml": 1.0, "max_dose": 0.1}.items():
        assert 0 <= value(f"{text}:organ", masks, dose=dose) - dose_of(ml) < 0.0101, text
    assert value("V30Gy:organ", masks, dose=dose) == pytest.approx(100 * volumes[3000] / total, rel=1e-6)
    assert value("mean_dose:organ", masks, dose=dose) == pytest.approx(statistics.fmean(inside.tolist()), rel=1e-6)
    assert math.isnan(value("D50ml:organ", masks, dose=dose))  # there is less of it


def test_distance_is_that_of_the_nearest_voxels_as_boxes(masks: list[np.ndarray]) -> None:
    one, other = (np.argwhere(mask) for mask in masks)
    apart = [np.maximum(np.abs(one[:, None, axis] - other[:, axis]) - 1, 0) * SPACING[2 - axis] for axis in range(3)]
    nearest = np.sqrt(sum(each**2 for each in apart)).min()
    assert nearest > 1
    assert value("distance:organ:vessel", masks) == pytest.approx(nearest, rel=1e-9)
    assert value("distance:vessel:organ", masks) == pytest.approx(nearest, rel=1e-9)
    assert value("contact_area:organ:vessel", masks) == 0


def test_contact_is_the_area_of_faces_in_common() -> None:
    one, other = np.zeros((2, 6, 8, 9), bool)
    one[1:3, 2:5, 2:5], other[1:4, 2:6, 5:7] = True, True
    assert value("contact_area:organ:vessel", [one, other]) == pytest.approx(2 * 3 * SPACING[1] * SPACING[2])
    assert value("distance:organ:vessel", [one, other]) == 0
    corner = np.roll(other, (2, 3), (0, 1))  # only an edge in common
    assert value("contact_area:organ:vessel", [one, corner]) == value("distance:organ:vessel", [one, corner]) == 0


def test_a_single_voxel_and_a_plane_have_diameters_and_an_empty_label_has_none() -> None:
    mask = np.zeros((5, 20, 20), bool)
    assert value("volume:organ", [mask]) == 0 and math.isnan(value("diameter:organ", [mask]))
    mask[2, 3, 4] = True
    assert value("diameter:organ", [mask]) == 0
    mask[2, 3:15, 4:17] = True
    points = np.argwhere(mask) * SPACING[::-1]
    assert value("diameter:organ", [mask]) == pytest.approx(cdist(points, points).max(), rel=1e-9)


def test_diameters_are_of_a_piece_and_not_across_several() -> None:
    mask = np.zeros((9, 20, 40), bool)
    mask[2, 3:15, 4:17] = True
    points = np.argwhere(mask) * SPACING[::-1]
    mask[2, 3, 38] = mask[7, 4, 5] = True
    mask[7, 4, 20:32] = True  # shorter
    for name in ("diameter", "diameter_in_slice"):
        assert value(f"{name}:organ", [mask]) == pytest.approx(cdist(points, points).max(), rel=1e-9)
    mask[3, 15, 17] = True  # joined by a corner
    assert value("diameter:organ", [mask]) > 1.05 * cdist(points, points).max()


@pytest.mark.parametrize(
    "text",
    ["volume", "volume:liver", "volume:organ:vessel", "distance:organ:organ", "D0%:organ", "D2:organ", "girth:organ"],
)
def test_what_cannot_be_measured_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        read_wanted([text], NAMES, ("dose",))


def test_names_have_one_form_and_a_dose_must_be_there() -> None:
    assert [one.text for one in read_wanted(["D2.0%:organ", "D2%:organ"], NAMES, ("dose",))] == ["D2%:organ"]
    with pytest.raises(SettingsError, match="dose"):
        read_wanted(["mean_dose:organ"], NAMES, ("image",))


def test_a_user_adds_one(masks: list[np.ndarray]) -> None:
    @measurement("slices", "")
    def slices(part):
        return part.mask.any(axis=(1, 2)).sum()

    try:
        assert value("slices:organ", masks) == masks[0].any(axis=(1, 2)).sum() > 5
    finally:
        MEASUREMENTS.pop("slices")
