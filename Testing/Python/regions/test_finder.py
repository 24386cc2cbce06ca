"""Doubtful regions: found where doubt is thick, cut to fit a view, measured in the patient's millimetres."""

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

from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.geometry import occupied
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.region_settings import UNCERTAINTIES, Measure, RegionSettings, read_stated
from MoBUncertaintyLib.regions.description import organ_names
from MoBUncertaintyLib.regions.finder import RegionFinder, find_regions
from MoBUncertaintyLib.regions.measure import voxel_uncertainty
from MoBUncertaintyLib.regions.region import COLUMNS, Region, table_row, write_csv
from support.fake_case import changed_prediction
from support.probability_images import BERNOULLI, anatomy, ball, farthest_corners, prediction, ras_grid

OBLIQUE = tuple(sitk.VersorTransform((0.3, -0.5, 0.8), 0.6).GetMatrix())


SIX = tuple(28.0 * s * np.eye(3)[i] for i in range(3) for s in (-1, 1))


# Finding


@pytest.mark.parametrize("measure", UNCERTAINTIES)
@pytest.mark.parametrize("radius", [8.0, 25.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 2.5, 3.0), (1.0, 1.0, 5.0)])
def test_the_shell_of_a_sharp_ball_is_no_region(measure, radius, spacing):
    size = [int(70 / s) for s in spacing]
    ras = ras_grid(size, spacing, [-35.3, -35.2, -35.1], np.eye(3))
    p = expit((radius - np.linalg.norm(ras, axis=-1)) / (0.5 * max(spacing)))
    assert find_regions(prediction(p, spacing=spacing), RegionSettings(measure=measure)).ranked == ()


@pytest.mark.parametrize("measure", UNCERTAINTIES)
def test_a_wide_ambiguous_zone_is_one_region_in_the_right_place(measure):
    found = find_regions(ball(), RegionSettings(measure=measure))
    assert len(found.ranked) == 1
    right, *sideways = found.ranked[0].centroid_ras
    assert np.linalg.norm(sideways) < 2
    assert 20 < right < 31  # a cap of the ball: it grows along the border, which is bent


@pytest.mark.parametrize("blur", [1.0, 3.0])
def test_a_large_blurred_organ_does_not_hide_what_is_doubtful_in_a_small_one(blur):
    index = np.moveaxis(np.indices((70, 70, 110)), 0, -1) * 2.0  # mm

    def organ(middle: tuple[float, ...], radius: float, width: float) -> np.ndarray:
        return expit((radius - np.linalg.norm(index - middle, axis=-1)) / width)

    def regions_of(*organs: np.ndarray) -> list[Region]:
        p, labels = np.stack(organs), np.zeros(index.shape[:3], np.uint8)
        for value, each in enumerate(organs, start=1):
            labels[each > 0.5] = value
        found = find_regions(prediction(p, 0.3 * p * (1 - p), labels)).ranked
        return [region for region in found if region.centroid_ras[0] < -170]

    small = np.maximum(organ((70, 70, 190), 12, 0.7), 0.5 * organ((70, 70, 205), 7, 0.7))
    (alone,), (beside,) = regions_of(small), regions_of(small, organ((70, 70, 75), 55, blur))
    assert beside.expected_error_mm3 == pytest.approx(alone.expected_error_mm3, rel=0.05)
    assert beside.centroid_ras == pytest.approx(alone.centroid_ras, abs=1)


def test_every_zone_of_several_is_a_region():
    found = find_regions(ball(zones=SIX), replace(BERNOULLI, grow_mm=6.0))  # no zone reaches another
    distance = cdist([r.centroid_ras for r in found.ranked], SIX)
    assert len(found.ranked) == 6
    assert sorted(distance.argmin(axis=1)) == list(range(6))
    assert distance.min(axis=1).max() < 3


def test_a_doubtful_ball_without_a_segmentation_is_a_region():
    ras = ras_grid((30, 30, 30), (2, 2, 2), (-29, -29, -29), np.eye(3))
    p = 0.4 * expit((10 - np.linalg.norm(ras, axis=-1)) / 1.5)
    found = find_regions(prediction(p), BERNOULLI)
    assert len(found.ranked) == 1
    assert found.ranked[0].inside_fraction == 0
    assert found.ranked[0].location == "no organ segmented"


@pytest.mark.parametrize("measure", UNCERTAINTIES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certainty_has_no_regions(tmp_path, measure, value):
    found = find_regions(prediction(np.full((5, 6, 7), value)), RegionSettings(measure=measure))
    write_csv(found, tmp_path / "regions.csv", {})
    assert (tmp_path / "regions.csv").read_text().strip() == ",".join(COLUMNS)
    assert found.ranked == ()
    assert not found.whole_map().any()
    assert found.whole_map().shape == (5, 6, 7)


def test_each_measure_is_what_its_name_says():
    rng = np.random.default_rng(0)
    background, *organs = rng.dirichlet((1, 1, 1), 50).T
    variance = list(rng.uniform(0, 0.25, (2, 50)))
    assert np.array_equal(voxel_uncertainty(Measure.VARIANCE, organs, variance), np.maximum(*variance))
    bernoulli = [stats.bernoulli(p).var() for p in organs]
    assert voxel_uncertainty(Measure.BERNOULLI, organs, variance) == pytest.approx(np.maximum(*bernoulli))
    assert voxel_uncertainty(Measure.ENTROPY, organs, variance) == pytest.approx(stats.entropy([background, *organs]))
    assert voxel_uncertainty(Measure.ENTROPY, [np.array([0.0, 1.0, 1.0 + 1e-7])], variance) == pytest.approx(
        0, abs=1e-5
    )


def test_a_zone_at_the_images_edge_is_found():
    # Only the upper half of the ball is in the image.
    found = find_regions(
        changed_prediction(ball(), lambda i: sitk.RegionOfInterest(i, (44, 44, 22), (0, 0, 22))), BERNOULLI
    )
    assert len(found.ranked) == 1
    assert found.whole_map()[0].any()


def test_a_higher_threshold_leaves_less():
    finder = RegionFinder(ball(zones=SIX), BERNOULLI)
    sizes = [sum(r.volume_mm3 for r in finder.find(replace(BERNOULLI, threshold=t)).ranked) for t in (0.05, 0.2, 0.3)]
    assert sizes[0] > sizes[1] > sizes[2] == 0


def test_several_classes_count_background_and_each_other():
    ras = ras_grid((44, 44, 44), (2, 2, 2), (-43, -43, -43), np.eye(3))
    p = anatomy(ras, zones=((-28, 0, 0),))
    # Two organs that share the ball: doubt between them is no doubt about background.
    upper = expit(ras[..., 2] / (0.8 + 4 * np.exp(-0.5 * (ras[..., 0] ** 2 + ras[..., 1] ** 2) / 36)))
    both = np.stack([p * upper, p * (1 - upper)]).astype(np.float32)
    labels = np.where(p > 0.5, np.where(upper > 0.5, 1, 2), 0).astype(np.uint8)
    images = prediction(both, segmentation=labels, origin=(-43, -43, -43))
    for measure in UNCERTAINTIES:
        found = find_regions(images, RegionSettings(measure=measure, grow_mm=4.0, length_mm=30.0))
        close = cdist([(-28, 0, 0), (0, 0, 0)], [r.centroid_ras for r in found.ranked]).min(axis=1)
        assert (close < 6).all()
    between = min(found.ranked, key=lambda r: np.linalg.norm(r.centroid_ras))
    mask = found.whole_map() == between.number
    certain = np.max([*both, 1 - both.sum(axis=0)], axis=0)
    assert between.expected_error_mm3 == pytest.approx(8 * (1 - certain)[mask].sum(), rel=1e-4)
    assert between.mean_probability > 0.9


def test_a_list_that_holds_little_says_where_the_rest_lies():
    images = ball()
    usual = find_regions(images, BERNOULLI)
    p = images.probability[0]
    total = images.grid.voxel_mm3 * np.minimum(p, 1 - p).sum(dtype=float)
    held = usual.coverage
    assert held.held_mm3 == pytest.approx(sum(r.expected_error_mm3 for r in usual.ranked), rel=1e-4)
    assert held.held_mm3 + held.thin_mm3 + held.faint_mm3 + held.dropped_mm3 == pytest.approx(total, rel=0.02)
    assert held.fraction < 0.5
    assert "along the border" in held.warning
    assert "threshold" in find_regions(images, replace(BERNOULLI, threshold=0.24)).coverage.warning
    wide = ball(zones=SIX, width=12.0, reach=14.0)
    assert find_regions(wide, BERNOULLI).coverage.warning is None
    none = find_regions(wide, replace(BERNOULLI, minimum_mm3=1e6))
    assert not none.ranked and "too small" in none.coverage.warning
    assert "less than 1 %" in replace(none.coverage, held_mm3=1e-3).warning


@pytest.mark.parametrize("measure", UNCERTAINTIES)
def test_an_organ_that_is_doubtful_throughout_is_one_region(measure):
    p = np.full((20, 24, 28), 0.45)
    p[6:14, 8:16, 8:20] = 0.55
    found = find_regions(prediction(p), RegionSettings(measure=measure, length_mm=10.0))
    assert len(found.ranked) == 1
    assert (found.whole_map()[p > 0.5] == 1).all()
    assert found.coverage.throughout == pytest.approx(0.45, abs=0.01)
    assert "doubtful throughout" in found.coverage.warning


# What is said about a region


@pytest.fixture(scope="module")
def six():
    images = ball(zones=SIX)
    return images, find_regions(images, replace(BERNOULLI, excess=1.3))


def test_regions_are_ranked_by_expected_error(six):
    errors = [r.expected_error_mm3 for r in six[1].ranked]
    assert errors == sorted(errors, reverse=True)
    assert [r.rank for r in six[1].ranked] == [r.number for r in six[1].ranked] == list(range(1, 7))


def assert_numbers_agree_with_the_label_map(images, found):
    (p,), (v,), s, spacing = images.probability, images.variance, images.segmentation, images.grid.spacing
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(image_on(images.grid, found.whole_map()))
    assert statistics.GetNumberOfLabels() == len(found.ranked) > 0
    for region in found.ranked:
        mask = found.whole_map() == region.number
        assert region.volume_mm3 == pytest.approx(statistics.GetPhysicalSize(region.number))
        assert region.centroid_ras == pytest.approx(np.multiply(statistics.GetCentroid(region.number), (-1, -1, 1)))
        assert region.expected_error_mm3 == pytest.approx(spacing.prod() * np.minimum(p, 1 - p)[mask].sum(), rel=1e-4)
        assert region.mean_variance == pytest.approx(v[mask].mean(), rel=1e-4)
        assert region.max_variance == pytest.approx(v[mask].max())
        assert region.mean_probability == pytest.approx(p[mask].mean(), rel=1e-4)
        assert region.inside_fraction == pytest.approx(s[mask].mean())
        assert region.extent_mm == pytest.approx(farthest_corners(np.argwhere(mask) * spacing, spacing), rel=0.005)


def test_numbers_agree_with_the_label_map(six):
    assert_numbers_agree_with_the_label_map(*six)


def test_numbers_agree_with_the_label_map_where_voxels_are_fine():
    """Blocks of 2 x 3 x 1 voxels; sizes that blocks do not fill."""
    images = ball(ZONES, size=(95, 115, 67), spacing=(0.9, 0.65, 1.2))
    assert_numbers_agree_with_the_label_map(images, find_regions(images, BERNOULLI))


def test_volume_and_centroid_are_exact_where_a_region_ends_with_the_image():
    whole = ball(size=(85, 85, 85), spacing=(0.9,) * 3)
    images = changed_prediction(whole, lambda i: sitk.RegionOfInterest(i, (85, 85, 43), (0, 0, 42)))
    found = find_regions(images, BERNOULLI)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(image_on(images.grid, found.whole_map()))
    assert found.whole_map()[0].any()
    assert found.ranked[0].volume_mm3 == pytest.approx(statistics.GetPhysicalSize(1))
    assert found.ranked[0].centroid_ras == pytest.approx(np.multiply(statistics.GetCentroid(1), (-1, -1, 1)))


def test_location_is_in_the_patients_terms(six):
    at = {r.location: np.round(np.array(r.centroid_ras) / 28).tolist() for r in six[1].ranked}
    sides = ("left", "right", "posterior", "anterior", "inferior", "superior")
    assert at == {side: (np.array(place) / 28).tolist() for side, place in zip(sides, SIX, strict=True)}
    found = find_regions(ball(zones=(28 * np.array([-1, 1, 1]) / np.sqrt(3),)), BERNOULLI)
    assert [r.location for r in found.ranked] == ["superior anterior left"]


def test_only_the_first_regions_are_kept_when_asked(six):
    images, found = six
    kept = find_regions(images, replace(BERNOULLI, excess=1.3, max_regions=2))
    assert kept.ranked == found.ranked[:2]
    assert np.unique(kept.whole_map()).tolist() == [0, 1, 2]


def test_the_table_is_what_the_csv_holds(six, tmp_path):
    organs = organ_names(*six)
    write_csv(six[1], tmp_path / "regions.csv", organs)
    with (tmp_path / "regions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = [table_row(region, organs[region.number]) for region in six[1].ranked]
    assert tuple(rows[0]) == tuple(table[0]) == COLUMNS
    for name in ("location", "organ"):
        assert [row[name] for row in rows] == [row[name] for row in table]
    assert {row["organ"] for row in rows} == {label.name for label in six[0].labels}
    for name in set(COLUMNS) - {"location", "organ"}:
        assert [float(row[name]) for row in rows] == pytest.approx([row[name] for row in table], rel=1e-3, abs=1e-9)
    assert (table[0]["centroid_r_mm"], table[0]["centroid_s_mm"]) == six[1].ranked[0].centroid_ras[::2]


# Size


def test_long_zones_are_cut_into_short_pieces():
    arc = [(28 * np.cos(a), 28 * np.sin(a), 0) for a in np.linspace(0, np.pi, 12)]
    whole = find_regions(ball(zones=arc), replace(BERNOULLI, length_mm=1000.0))
    cut = find_regions(ball(zones=arc), replace(BERNOULLI, length_mm=45.0))
    assert max(r.extent_mm for r in whole.ranked) > 60
    assert 2 < len(cut.ranked) <= 6
    assert max(r.extent_mm for r in cut.ranked) <= 45
    assert sum(r.volume_mm3 for r in cut.ranked) == pytest.approx(sum(r.volume_mm3 for r in whole.ranked), rel=0.05)


def test_small_doubt_is_dropped_by_its_volume_before_growing():
    images = ball()
    found = [find_regions(images, replace(BERNOULLI, grow_mm=grown)) for grown in (0.0, 5.0)]
    core, grown = (each.ranked[0].volume_mm3 for each in found)
    assert core < grown
    assert len(find_regions(images, replace(BERNOULLI, minimum_mm3=core)).ranked) == 1
    assert find_regions(images, replace(BERNOULLI, minimum_mm3=core + 8)).ranked == ()


# Geometry


def assert_same_regions(a, b, tolerance, volume=0.0):
    assert len(a.ranked) == len(b.ranked) > 0
    nearest = cdist([r.centroid_ras for r in a.ranked], [r.centroid_ras for r in b.ranked])
    for one, match, distance in zip(a.ranked, nearest.argmin(axis=1), nearest.min(axis=1), strict=True):
        assert distance < tolerance
        assert b.ranked[match].location == one.location
        assert b.ranked[match].volume_mm3 == pytest.approx(one.volume_mm3, rel=volume or 0.02 * tolerance + 1e-9)


ZONES = ((28.0, 0.0, 0.0), (-16.0, 22.5, 5.0), (5.0, -20.0, -18.9), (-2.0, -8.0, -26.7))


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize(
    "flips", [(False, False, False), (True, False, True), (False, True, False), (True, True, True)]
)
def test_storing_the_axes_otherwise_changes_nothing(axes, flips):
    images = ball(ZONES, size=(44, 46, 42), spacing=(2.0, 1.9, 2.1))
    stored = changed_prediction(images, lambda i: sitk.Flip(sitk.PermuteAxes(i, axes), flips))
    moved = not np.array_equal(stored.grid.rotation, images.grid.rotation)
    assert moved or (axes, any(flips)) == ((0, 1, 2), False)
    assert_same_regions(find_regions(images, BERNOULLI), find_regions(stored, BERNOULLI), 0.1)


def test_an_oblique_grid_finds_the_same_places():
    straight, oblique = ball(ZONES), ball(ZONES, size=(52, 52, 52), direction=OBLIQUE)
    settings = RegionSettings(Measure.BERNOULLI, depth_mm=3.0)  # no zone near the limit of what counts as thick
    # What may be wrong is a layer of few voxels, whose number depends on how the grid lies.
    assert_same_regions(find_regions(straight, settings), find_regions(oblique, settings), 2.5, volume=0.1)


def test_the_map_is_cut_to_where_the_regions_lie():
    found = find_regions(ball(ZONES, size=(52, 50, 51), direction=OBLIQUE), BERNOULLI)
    assert found.map.dtype == found.whole_map().dtype == np.uint16
    assert found.whole_map().shape == found.shape == (51, 50, 52)
    assert occupied(found.whole_map()) == found.box
    assert np.array_equal(found.whole_map()[found.box], found.map)


def test_thickness_is_the_width_of_a_border_in_mm():
    """For p = sigmoid(d / s) the integral of p (1 - p) across the border is s."""
    distance = np.broadcast_to(np.arange(60) * 0.5 - 14.75, (40, 40, 60))
    finder = RegionFinder(
        prediction(expit(-distance / 1.2), spacing=(0.5, 2.0, 2.0)), replace(BERNOULLI, window_mm=8.0)
    )
    assert list(finder.prepare())
    assert finder._map.typical == pytest.approx(1.2, rel=0.1)


def test_a_fine_grid_finds_the_same_places():
    spacing = (0.99, 0.5, 3.0)
    size = [int(88 / s) for s in spacing]
    settings = RegionSettings(Measure.BERNOULLI, depth_mm=3.0)
    coarse, fine = (find_regions(images, settings) for images in (ball(ZONES), ball(ZONES, size, spacing)))
    # Growing by 5 mm is rounded to whole steps of the grid, hence the volume's tolerance.
    assert_same_regions(coarse, fine, 1.5, volume=0.15)


# Misuse


def test_maps_of_different_shapes_or_numbers_are_refused():
    fitting = prediction(np.zeros((4, 5, 6)))
    with pytest.raises(ImageError):
        replace(fitting, variance=fitting.variance[:, 1:])
    with pytest.raises(ImageError):
        replace(fitting, probability=np.zeros((2, 4, 5, 6), np.float32))


WRONG = [{"threshold": 0.0}, {"threshold": math.nan}, {"grow_mm": math.inf}, {"excess": -1}, {"length_mm": 0}]


@pytest.mark.parametrize("wrong", [*WRONG, {"grow_mm": -1}, {"window_mm": 1e12}, {"max_regions": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        RegionSettings(**wrong)


def test_a_finder_refuses_another_measure():
    with pytest.raises(SettingsError):
        RegionFinder(ball(), RegionSettings(Measure.ENTROPY)).find(BERNOULLI)


# Speed


@pytest.mark.slow
def test_a_full_ct_answers_a_new_threshold_at_once():
    """A 512 x 512 x 300 CT at 0.75 x 0.75 x 1 mm; seconds of one core, so that a busy machine is no failure."""
    p = np.zeros((300, 512, 512), np.float32)
    ras = ras_grid((120, 120, 90), (0.75, 0.75, 1.0), (-45, -45, -45), np.eye(3))
    p[60:150, 120:240, 120:240] = anatomy(ras, zones=SIX)
    finder = RegionFinder(prediction(p, spacing=(0.75, 0.75, 1.0)), BERNOULLI)
    seconds = []
    for threshold, smallest in ((0.05, 20.0), (0.08, 20.0), (0.08, 50.0)):
        start = time.process_time()
        found = finder.find(replace(BERNOULLI, threshold=threshold, minimum_mm3=smallest))
        seconds.append(time.process_time() - start)
        assert 4 <= len(found.ranked) <= 8  # grown, the six zones meet
    print(f"{seconds} s")
    assert min(seconds) < 0.15


def test_what_a_model_states_is_read_as_a_user_states_it():
    assert read_stated(["depth_mm=1.5", "minimum_mm3=0"]) == {"depth_mm": 1.5, "minimum_mm3": 0}


NOT_STATED = ("depth_mm", "depth_mm=", "depth=2", "threshold=0.1", "grow_mm=-1", "length_mm=nan", "window_mm=inf")
NOT_STATED += ("variance_threshold=0", "variance_threshold=0.25", "variance_threshold=nan", "depth_mm=1 depth_mm=2")


@pytest.mark.parametrize("entry", NOT_STATED)
def test_what_no_model_may_state_is_refused(entry):
    with pytest.raises(SettingsError):
        read_stated(entry.split())
