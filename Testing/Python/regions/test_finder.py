"""Doubtful regions: found where doubt is thick, cut to fit a view, measured in the patient's millimetres."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.special import expit

from MoBUncertaintyLib.errors import ImageError, SettingsError
from MoBUncertaintyLib.regions.finder import COLUMNS, RegionFinder, find_regions, regions_table, write_csv
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings, read_stated
from MoBUncertaintyLib.regions.uncertainty import DoubtMap, voxel_doubt
from support.probability_images import BERNOULLI, STRAIGHT, anatomy, ball, image, prediction, ras_grid
from support.shapes import farthest_corners

OBLIQUE = tuple(sitk.VersorTransform((0.3, -0.5, 0.8), 0.6).GetMatrix())


SIX = tuple(28.0 * s * np.eye(3)[i] for i in range(3) for s in (-1, 1))


# Finding


@pytest.mark.parametrize("measure", Measure)
@pytest.mark.parametrize("radius", [8.0, 25.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 2.5, 3.0), (1.0, 1.0, 5.0)])
def test_the_shell_of_a_sharp_ball_is_no_region(measure, radius, spacing):
    size = [int(70 / s) for s in spacing]
    ras = ras_grid(size, spacing, [-35.3, -35.2, -35.1], np.eye(3))
    p = expit((radius - np.linalg.norm(ras, axis=-1)) / (0.5 * max(spacing)))
    assert find_regions(*prediction(p, spacing=spacing), RegionSettings(measure=measure)).regions == ()


@pytest.mark.parametrize("measure", Measure)
def test_a_wide_ambiguous_zone_is_one_region_in_the_right_place(measure):
    found = find_regions(*ball(), RegionSettings(measure=measure))
    assert len(found.regions) == 1
    assert np.linalg.norm(np.array(found.regions[0].centroid_ras) - (28, 0, 0)) < 3


def test_every_zone_of_several_is_a_region():
    found = find_regions(*ball(zones=SIX), BERNOULLI)
    distance = cdist([r.centroid_ras for r in found.regions], SIX)
    assert len(found.regions) == 6
    assert sorted(distance.argmin(axis=1)) == list(range(6))
    assert distance.min(axis=1).max() < 3


def test_a_doubtful_ball_without_a_segmentation_is_a_region():
    ras = ras_grid((30, 30, 30), (2, 2, 2), (-29, -29, -29), np.eye(3))
    p = 0.4 * expit((10 - np.linalg.norm(ras, axis=-1)) / 1.5)
    found = find_regions(*prediction(p), BERNOULLI)
    assert len(found.regions) == 1
    assert found.regions[0].inside_share == 0
    assert found.regions[0].location == "no organ segmented"


@pytest.mark.parametrize("measure", Measure)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certainty_has_no_regions(measure, value):
    found = find_regions(*prediction(np.full((5, 6, 7), value)), RegionSettings(measure=measure))
    assert found.regions == ()
    assert not sitk.GetArrayFromImage(found.labels).any()
    assert found.labels.GetSize() == (7, 6, 5)


def test_each_measure_is_what_its_name_says():
    rng = np.random.default_rng(0)
    background, *organs = rng.dirichlet((1, 1, 1), 50).T
    variance = list(rng.uniform(0, 0.25, (2, 50)))
    assert np.array_equal(voxel_doubt(Measure.VARIANCE, organs, variance), np.maximum(*variance))
    bernoulli = [stats.bernoulli(p).var() for p in organs]
    assert voxel_doubt(Measure.BERNOULLI, organs, variance) == pytest.approx(np.maximum(*bernoulli))
    assert voxel_doubt(Measure.ENTROPY, organs, variance) == pytest.approx(stats.entropy([background, *organs]))
    assert voxel_doubt(Measure.ENTROPY, [np.array([0.0, 1.0, 1.0 + 1e-7])], variance) == pytest.approx(0, abs=1e-5)


def test_zero_variance_has_no_regions_by_variance():
    probability, variance, segmentation = ball()
    assert find_regions(probability, variance * 0, segmentation).regions == ()


def test_a_zone_at_the_images_edge_is_found():
    probability, variance, segmentation = ball()
    # Only the upper half of the ball is in the image.
    cut = [sitk.RegionOfInterest(i, (44, 44, 22), (0, 0, 22)) for i in (probability, variance, segmentation)]
    found = find_regions(*cut, BERNOULLI)
    assert len(found.regions) == 1
    assert sitk.GetArrayFromImage(found.labels)[0].any()


def test_a_higher_threshold_leaves_less():
    finder = RegionFinder.of(*ball(zones=SIX), Measure.BERNOULLI)
    sizes = [sum(r.volume_mm3 for r in finder.find(replace(BERNOULLI, threshold=t)).regions) for t in (0.03, 0.08, 0.3)]
    assert sizes[0] > sizes[1] > sizes[2] == 0


def test_several_classes_count_background_and_each_other():
    ras = ras_grid((44, 44, 44), (2, 2, 2), (-43, -43, -43), np.eye(3))
    p = anatomy(ras, zones=((-28, 0, 0),))
    # Two organs that share the ball: doubt between them is no doubt about background.
    upper = expit(ras[..., 2] / (0.8 + 4 * np.exp(-0.5 * (ras[..., 0] ** 2 + ras[..., 1] ** 2) / 36)))
    both = np.stack([p * upper, p * (1 - upper)], axis=-1).astype(np.float32)
    labels = np.where(p > 0.5, np.where(upper > 0.5, 1, 2), 0).astype(np.uint8)
    geometry = {"origin": (-43, -43, -43)}
    images = (
        image(both, vector=True, **geometry),
        image(0.6 * both * (1 - both), vector=True, **geometry),
        image(labels, **geometry),
    )
    for measure in Measure:
        found = find_regions(*images, RegionSettings(measure=measure))
        close = cdist([(-28, 0, 0), (0, 0, 0)], [r.centroid_ras for r in found.regions]).min(axis=1)
        assert (close < 6).all()
    between = min(found.regions, key=lambda r: np.linalg.norm(r.centroid_ras))
    mask = sitk.GetArrayFromImage(found.labels) == between.label
    certain = np.max([both[..., 0], both[..., 1], 1 - both.sum(axis=-1)], axis=0)
    assert between.expected_error_mm3 == pytest.approx(8 * (1 - certain)[mask].sum(), rel=1e-4)
    assert between.mean_probability > 0.9


# What is said about a region


@pytest.fixture(scope="module")
def six():
    images = ball(zones=SIX)
    return images, find_regions(*images, replace(BERNOULLI, excess=1.3))


def test_regions_are_ranked_by_expected_error(six):
    errors = [r.expected_error_mm3 for r in six[1].regions]
    assert errors == sorted(errors, reverse=True)
    assert [r.rank for r in six[1].regions] == [r.label for r in six[1].regions] == list(range(1, 7))


def assert_numbers_agree_with_the_label_map(images, found):
    p, v, s = (sitk.GetArrayFromImage(i) for i in images)
    spacing = np.array(images[0].GetSpacing())[::-1]
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(found.labels)
    assert statistics.GetNumberOfLabels() == len(found.regions) > 0
    for region in found.regions:
        mask = sitk.GetArrayFromImage(found.labels) == region.label
        assert region.volume_mm3 == pytest.approx(statistics.GetPhysicalSize(region.label))
        assert region.centroid_ras == pytest.approx(np.multiply(statistics.GetCentroid(region.label), (-1, -1, 1)))
        assert region.expected_error_mm3 == pytest.approx(spacing.prod() * np.minimum(p, 1 - p)[mask].sum(), rel=1e-4)
        assert region.mean_variance == pytest.approx(v[mask].mean(), rel=1e-4)
        assert region.peak_variance == pytest.approx(v[mask].max())
        assert region.mean_probability == pytest.approx(p[mask].mean(), rel=1e-4)
        assert region.inside_share == pytest.approx(s[mask].mean())
        assert region.extent_mm == pytest.approx(farthest_corners(np.argwhere(mask) * spacing, spacing), rel=0.005)


def test_numbers_agree_with_the_label_map(six):
    assert_numbers_agree_with_the_label_map(*six)


def test_numbers_agree_with_the_label_map_where_voxels_are_fine():
    """Blocks of 2 x 3 x 1 voxels; sizes that blocks do not fill."""
    images = ball(ZONES, size=(95, 115, 67), spacing=(0.9, 0.65, 1.2))
    assert_numbers_agree_with_the_label_map(images, find_regions(*images, BERNOULLI))


def test_volume_and_centroid_are_exact_where_a_region_ends_with_the_image():
    images = [sitk.RegionOfInterest(i, (85, 85, 43), (0, 0, 42)) for i in ball(size=(85, 85, 85), spacing=(0.9,) * 3)]
    found = find_regions(*images, BERNOULLI)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(found.labels)
    assert sitk.GetArrayFromImage(found.labels)[0].any()
    assert found.regions[0].volume_mm3 == pytest.approx(statistics.GetPhysicalSize(1))
    assert found.regions[0].centroid_ras == pytest.approx(np.multiply(statistics.GetCentroid(1), (-1, -1, 1)))


def test_location_is_in_the_patients_terms(six):
    at = {r.location: np.round(np.array(r.centroid_ras) / 28).tolist() for r in six[1].regions}
    assert at == {
        "right": [1, 0, 0],
        "left": [-1, 0, 0],
        "anterior": [0, 1, 0],
        "posterior": [0, -1, 0],
        "superior": [0, 0, 1],
        "inferior": [0, 0, -1],
    }


def test_location_combines_words():
    found = find_regions(*ball(zones=(28 * np.array([-1, 1, 1]) / np.sqrt(3),)), BERNOULLI)
    assert [r.location for r in found.regions] == ["superior anterior left"]


def test_only_the_first_regions_are_kept_when_asked(six):
    images, found = six
    kept = find_regions(*images, replace(BERNOULLI, excess=1.3, max_regions=2))
    assert kept.regions == found.regions[:2]
    assert np.unique(sitk.GetArrayFromImage(kept.labels)).tolist() == [0, 1, 2]


def test_the_table_is_what_the_csv_holds(six, tmp_path):
    write_csv(six[1], tmp_path / "regions.csv")
    with (tmp_path / "regions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = regions_table(six[1])
    assert tuple(rows[0]) == tuple(table[0]) == COLUMNS
    assert [row["location"] for row in rows] == [row["location"] for row in table]
    for name in set(COLUMNS) - {"location"}:
        assert [float(row[name]) for row in rows] == pytest.approx([row[name] for row in table], rel=1e-3, abs=1e-9)
    assert (table[0]["centroid_r_mm"], table[0]["centroid_s_mm"]) == six[1].regions[0].centroid_ras[::2]


def test_no_regions_make_a_csv_with_only_a_header(tmp_path):
    write_csv(find_regions(*prediction(np.zeros((4, 4, 4)))), tmp_path / "regions.csv")
    assert (tmp_path / "regions.csv").read_text().strip() == ",".join(COLUMNS)


# Size


def test_long_zones_are_cut_into_short_pieces():
    arc = [(28 * np.cos(a), 28 * np.sin(a), 0) for a in np.linspace(0, np.pi, 12)]
    whole = find_regions(*ball(zones=arc), replace(BERNOULLI, length_mm=1000.0))
    cut = find_regions(*ball(zones=arc), BERNOULLI)
    assert max(r.extent_mm for r in whole.regions) > 60
    assert 2 < len(cut.regions) <= 6
    assert max(r.extent_mm for r in cut.regions) <= BERNOULLI.length_mm
    assert sum(r.volume_mm3 for r in cut.regions) == pytest.approx(sum(r.volume_mm3 for r in whole.regions), rel=0.05)


def test_small_doubt_is_dropped_by_its_volume_before_growing():
    images = ball()
    volume = {
        grown: find_regions(*images, replace(BERNOULLI, grow_mm=grown)).regions[0].volume_mm3 for grown in (0.0, 5.0)
    }
    core = volume[0.0]
    assert core < volume[5.0]
    assert len(find_regions(*images, replace(BERNOULLI, minimum_mm3=core)).regions) == 1
    assert find_regions(*images, replace(BERNOULLI, minimum_mm3=core + 8)).regions == ()


# Geometry


def assert_same_regions(a, b, tolerance, volume=0.0):
    assert len(a.regions) == len(b.regions) > 0
    nearest = cdist([r.centroid_ras for r in a.regions], [r.centroid_ras for r in b.regions])
    for one, match, distance in zip(a.regions, nearest.argmin(axis=1), nearest.min(axis=1), strict=True):
        assert distance < tolerance
        assert b.regions[match].location == one.location
        assert b.regions[match].volume_mm3 == pytest.approx(one.volume_mm3, rel=volume or 0.02 * tolerance + 1e-9)


ZONES = ((28.0, 0.0, 0.0), (-16.0, 22.5, 5.0), (5.0, -20.0, -18.9), (-2.0, -8.0, -26.7))


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize(
    "flips", [(False, False, False), (True, False, True), (False, True, False), (True, True, True)]
)
def test_storing_the_axes_otherwise_changes_nothing(axes, flips):
    images = ball(ZONES, size=(44, 46, 42), spacing=(2.0, 1.9, 2.1))
    stored = [sitk.Flip(sitk.PermuteAxes(i, axes), flips) for i in images]
    assert stored[0].GetDirection() != images[0].GetDirection() or (axes, any(flips)) == ((0, 1, 2), False)
    assert_same_regions(find_regions(*images, BERNOULLI), find_regions(*stored, BERNOULLI), 0.1)


def test_an_oblique_grid_finds_the_same_places():
    straight, oblique = ball(ZONES), ball(ZONES, size=(52, 52, 52), direction=OBLIQUE)
    settings = RegionSettings(Measure.BERNOULLI, depth_mm=3.0)  # no zone near the limit of what counts as thick
    assert_same_regions(find_regions(*straight, settings), find_regions(*oblique, settings), 2.5)


def test_the_label_map_lies_on_the_inputs_grid():
    probability, variance, segmentation = ball(ZONES, size=(52, 50, 51), direction=OBLIQUE)
    labels = find_regions(probability, variance, segmentation, BERNOULLI).labels
    assert labels.GetPixelID() == sitk.sitkUInt16
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(labels, get)() == getattr(segmentation, get)()


def test_thickness_is_the_width_of_a_border_in_mm():
    """For p = sigmoid(d / s) the integral of p (1 - p) across the border is s."""
    distance = np.broadcast_to(np.arange(60) * 0.5 - 14.75, (40, 40, 60))
    doubt = DoubtMap.of(*prediction(expit(-distance / 1.2), spacing=(0.5, 2.0, 2.0)), Measure.BERNOULLI, window_mm=8.0)
    assert doubt.typical == pytest.approx(1.2, rel=0.1)


@pytest.mark.parametrize("spacing", [(0.6, 0.6, 0.9), (0.99, 0.5, 3.0)])
def test_a_fine_grid_finds_the_same_places(spacing):
    size = [int(88 / s) for s in spacing]
    settings = RegionSettings(Measure.BERNOULLI, depth_mm=3.0)
    coarse, fine = (find_regions(*images, settings) for images in (ball(ZONES), ball(ZONES, size, spacing)))
    # Growing by 5 mm is rounded to whole steps of the grid, hence the volume's tolerance.
    assert_same_regions(coarse, fine, 1.5, volume=0.15)


@pytest.mark.parametrize("direction", [STRAIGHT, OBLIQUE])
def test_arrays_with_slicers_matrix_are_as_good_as_images(direction):
    images = ball(ZONES, size=(52, 50, 51), direction=direction)
    p, v, s = (sitk.GetArrayFromImage(i) for i in images)
    axes = np.array(direction).reshape(3, 3) * images[0].GetSpacing()
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.block(
        [[axes, np.array(images[0].GetOrigin())[:, None]], [0, 0, 0, 1]]
    )
    found, finder = find_regions(*images, BERNOULLI), RegionFinder.from_arrays({1: p}, {1: v}, s, matrix, "bernoulli")
    arrays = finder.find_arrays(BERNOULLI)
    regions, whole = arrays.regions, sitk.GetArrayFromImage(found.labels)
    assert (arrays.labels == whole[arrays.box]).all()
    assert np.count_nonzero(arrays.labels) == np.count_nonzero(whole)
    assert [r.location for r in regions] == [r.location for r in found.regions]
    assert np.array([r.centroid_ras for r in regions]) == pytest.approx(
        np.array([r.centroid_ras for r in found.regions])
    )
    again = finder.find(BERNOULLI).labels
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(again, get)() == pytest.approx(getattr(images[0], get)())


# Misuse


def test_arrays_of_different_shapes_or_classes_are_refused():
    p, s = np.zeros((4, 5, 6), np.float32), np.zeros((4, 5, 6), np.uint8)
    with pytest.raises(ImageError, match="voxels"):
        RegionFinder.from_arrays({1: p}, {1: p[1:]}, s, np.eye(4))
    with pytest.raises(ImageError, match="classes"):
        RegionFinder.from_arrays({1: p, 2: p}, {1: p}, s, np.eye(4))


def test_images_on_different_grids_are_refused():
    probability, variance, segmentation = ball()
    segmentation.SetOrigin((1, 2, 3))
    with pytest.raises(ImageError, match="segmentation"):
        find_regions(probability, variance, segmentation)
    with pytest.raises(ImageError, match="variance"):
        find_regions(probability, variance[1:], segmentation)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"excess": -1},
        {"length_mm": 0},
        {"grow_mm": -1},
        {"max_regions": 0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        RegionSettings(**wrong)


def test_a_finder_refuses_another_measure():
    with pytest.raises(SettingsError):
        RegionFinder.of(*ball(), Measure.ENTROPY).find(BERNOULLI)


# Speed


@pytest.mark.slow
def test_a_full_ct_answers_a_new_threshold_at_once():
    """A 512 x 512 x 300 CT at 0.75 x 0.75 x 1 mm; seconds of one core, so that a busy machine is no failure."""
    p = np.zeros((300, 512, 512), np.float32)
    ras = ras_grid((120, 120, 90), (0.75, 0.75, 1.0), (-45, -45, -45), np.eye(3))
    p[60:150, 120:240, 120:240] = anatomy(ras, zones=SIX)
    matrix = np.diag([0.75, 0.75, 1.0, 1.0])
    finder = RegionFinder.from_arrays({1: p}, {1: 0.6 * p * (1 - p)}, (p > 0.5).astype(np.uint8), matrix, "bernoulli")
    seconds = []
    for threshold, smallest in ((0.05, 20.0), (0.08, 20.0), (0.08, 50.0)):
        start = time.process_time()
        found = finder.find_arrays(replace(BERNOULLI, threshold=threshold, minimum_mm3=smallest))
        seconds.append(time.process_time() - start)
        assert len(found.regions) == 6
    print(f"{seconds} s")
    assert min(seconds) < 0.15


def test_what_a_model_states_is_read_as_a_user_states_it():
    assert read_stated(["depth_mm=1.5", "minimum_mm3=0"]) == {"depth_mm": 1.5, "minimum_mm3": 0}


NOT_STATED = ("depth_mm", "depth_mm=", "depth=2", "threshold=0.1", "grow_mm=-1", "length_mm=nan", "window_mm=inf")
NOT_STATED += ("variance_threshold=0", "variance_threshold=0.25", "variance_threshold=nan")


@pytest.mark.parametrize("entry", NOT_STATED)
def test_what_no_model_may_state_is_refused(entry):
    with pytest.raises(SettingsError, match=r"(setting|mm|variance_threshold) .*\.$"):
        read_stated([entry])


@pytest.mark.parametrize("name", ["threshold", "excess", "minimum_mm3", "grow_mm"])
@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_setting_that_is_no_number_is_refused_before_anything_is_computed(name, number):
    with pytest.raises(SettingsError, match=f"{name} must be a number, not {number}"):
        RegionSettings(**{name: number})
