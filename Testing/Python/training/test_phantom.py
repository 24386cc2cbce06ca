"""The phantom: reproducible, anatomically ordered, and ambiguous exactly where and as much as it says."""

import csv

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, binary_erosion

from mob_training.data.phantom import Phantom, make_phantom, write_cohort
from mob_training.data.shapes import Grid, Tube, ellipsoid

COARSE = (5.0, 5.0, 6.0)
ORGANS = {
    "adrenal_gland_left", "aorta", "colon", "duodenum", "gallbladder", "inferior_vena_cava", "kidney_left",
    "kidney_right", "liver", "pancreas", "small_bowel", "spleen", "stomach", "vertebrae_L1",
}  # fmt: skip


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(7, raters=2, spacing=COARSE)


@pytest.fixture(scope="module")
def fine() -> Phantom:
    return make_phantom(11, raters=12)


def centroid(mask: sitk.Image) -> np.ndarray:
    """Centre of mass in RAS mm, computed from the image's own geometry."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(mask)
    left, posterior, superior = statistics.GetCentroid(1)
    return np.array([-left, -posterior, superior])


def test_same_seed_gives_the_same_case(phantom):
    again = make_phantom(7, raters=2, spacing=COARSE)
    assert np.array_equal(array(again.ct), array(phantom.ct))
    assert all(np.array_equal(array(again.labels[k]), array(v)) for k, v in phantom.labels.items())
    assert all(np.array_equal(array(a), array(b)) for a, b in zip(again.raters, phantom.raters, strict=True))


def test_asking_for_raters_changes_neither_ct_nor_truth(phantom):
    alone = make_phantom(7, spacing=COARSE)
    assert alone.raters == [] and alone.probability is None
    assert np.array_equal(array(alone.ct), array(phantom.ct))
    assert np.array_equal(array(alone.labels["pancreas"]), array(phantom.labels["pancreas"]))


def test_all_images_share_one_ras_geometry(phantom):
    orient = sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines
    for image in [phantom.ct, *phantom.labels.values(), *phantom.raters, phantom.probability]:
        assert orient(image.GetDirection()) == "RAS"
        assert image.GetSize() == (64, 56, 40)
        assert image.GetSpacing() == COARSE
        assert image.GetOrigin() == phantom.ct.GetOrigin()


def test_every_organ_is_present_and_no_two_overlap(phantom):
    assert set(phantom.labels) >= ORGANS
    masks = [array(mask) for mask in phantom.labels.values()]
    assert all(mask.any() for mask in masks)
    assert np.sum(masks, axis=0).max() == 1


def test_organs_lie_where_they_do_in_a_person(phantom):
    at = {name: centroid(mask) for name, mask in phantom.labels.items()}
    right, anterior, superior = 0, 1, 2
    assert at["liver"][right] > 20 and at["gallbladder"][right] > 20 and at["kidney_right"][right] > 20
    assert at["spleen"][right] < -20 and at["kidney_left"][right] < -20 and at["adrenal_gland_left"][right] < -10
    assert at["vertebrae_L1"][anterior] < at["aorta"][anterior] < at["pancreas"][anterior]
    assert at["adrenal_gland_left"][superior] > at["kidney_left"][superior]
    assert at["duodenum"][right] > at["pancreas"][right] > at["spleen"][right]


def test_density_is_that_of_a_ct(fine):
    ct = array(fine.ct)
    assert ct.dtype == np.int16 and ct.min() >= -1024 and ct.max() <= 1500
    assert abs(np.median(ct[:, -2:, :2]) + 1000) < 30  # air outside the body
    pancreas = binary_erosion(array(fine.labels["pancreas"]))
    assert 20 < ct[pancreas].mean() < 140
    assert 10 < ct[pancreas].std() < 20


def test_border_of_the_pancreas_is_sharp_fat_where_it_is_not_ambiguous(fine):
    ct, truth = array(fine.ct), array(fine.labels["pancreas"]) > 0
    doubtful = binary_dilation(_doubtful(fine), iterations=2)
    rim = binary_dilation(truth, iterations=2) & ~binary_dilation(truth) & ~doubtful
    assert ct[binary_erosion(truth)].mean() - ct[rim].mean() > 100
    assert (ct[rim] < 0).mean() > 0.9


def test_the_truth_cannot_be_seen_where_it_is_ambiguous(fine):
    ct, truth, p = array(fine.ct), array(fine.labels["pancreas"]) > 0, array(fine.probability)
    open_question = (p > 0.25) & (p < 0.75)
    inside, outside = ct[open_question & truth], ct[open_question & ~truth]
    assert min(len(inside), len(outside)) > 50
    noise = np.hypot(inside.std() / np.sqrt(len(inside)), outside.std() / np.sqrt(len(outside)))
    assert abs(inside.mean() - outside.mean()) < 6 * noise + 2  # HU; neighbouring voxels' noise is correlated


def _doubtful(phantom: Phantom) -> np.ndarray:
    p = array(phantom.probability)
    return (p > 0) & (p < 1)


def test_raters_differ_only_where_the_truth_is_ambiguous(fine):
    readings = [array(r) > 0 for r in fine.raters] + [array(fine.labels["pancreas"]) > 0]
    differing = np.any([r != readings[0] for r in readings], axis=0)
    assert differing.any()
    assert not (differing & ~_doubtful(fine)).any()


def test_raters_agree_about_as_much_as_readers_of_the_pancreas_do(fine):
    readings = [array(r) > 0 for r in fine.raters]
    agreement = np.mean([dice(a, b) for i, a in enumerate(readings) for b in readings[:i]])
    assert 0.9 < agreement < 0.98


def test_probability_is_how_often_a_rater_says_pancreas(fine):
    rng = np.random.default_rng(0)
    draws = 4000
    for site in fine.sites:
        frequency = np.mean([site.draw(rng) for _ in range(draws)], axis=0)
        p = site.probability()
        assert np.abs(frequency - p).max() < 5.5 * np.sqrt(0.25 / draws)
        assert np.all(frequency[p == 1] == 1) and np.all(frequency[p == 0] == 0)


def test_probability_outside_the_ambiguous_places_is_the_mask(fine):
    p, truth = array(fine.probability), array(fine.labels["pancreas"])
    sure = ~_doubtful(fine)
    assert np.array_equal(p[sure], truth[sure])


def test_cohort_is_laid_out_as_totalsegmentator_and_grows_without_changing(tmp_path):
    small = write_cohort(tmp_path / "small", 1, seed=3, raters=2, spacing=COARSE)
    large = write_cohort(tmp_path / "large", 2, seed=3, spacing=COARSE)
    assert [case.name for case in large] == ["s0001", "s0002"]
    for name in ["ct.nii.gz", "segmentations/pancreas.nii.gz", "segmentations/liver.nii.gz"]:
        first = array(sitk.ReadImage(str(small[0] / name)))
        assert np.array_equal(first, array(sitk.ReadImage(str(large[0] / name))))
        assert not np.array_equal(first, array(sitk.ReadImage(str(large[1] / name))))
    assert {p.name.removesuffix(".nii.gz") for p in (large[0] / "segmentations").iterdir()} >= ORGANS
    assert {p.name for p in (small[0] / "raters").iterdir()} == {
        "pancreas_1.nii.gz", "pancreas_2.nii.gz", "pancreas_probability.nii.gz",
    }  # fmt: skip
    assert not (large[0] / "raters").exists()
    with (tmp_path / "large" / "meta.csv").open() as file:
        assert [row["image_id"] for row in csv.DictReader(file, delimiter=";")] == ["s0001", "s0002"]


def test_ellipsoid_distance_is_exact_for_a_sphere():
    points = Grid((40.0, 40.0, 40.0), (4.0, 4.0, 4.0)).points()
    expected = np.linalg.norm(points - np.array([1, 2, 3])[:, None, None, None], axis=0) - 10
    assert np.allclose(ellipsoid(points, (1, 2, 3), (10, 10, 10)), expected, atol=1e-3)


def test_tube_distance_is_that_of_a_capsule():
    points = Grid((60.0, 20.0, 20.0), (3.0, 3.0, 3.0)).points()
    tube = Tube.through([[-20, 0, 0], [0, 0, 0], [20, 0, 0]], 5.0, samples=400)
    nearest = np.clip(points[0], -20, 20)
    expected = np.sqrt((points[0] - nearest) ** 2 + points[1] ** 2 + points[2] ** 2) - 5
    assert np.allclose(tube.distance(points), expected, atol=0.05)


def test_smooth_noise_is_the_same_field_at_any_spacing():
    coarse, fine = (
        Grid((90.0, 90.0, 90.0), (s, s, s)).smooth_noise(np.random.default_rng(1), 20.0) for s in (9.0, 3.0)
    )
    assert np.allclose(coarse, fine[1::3, 1::3, 1::3], atol=1e-4)  # every third fine voxel centre is a coarse one
