"""Samples of a segmentation: each voxel as often as its probability says, neighbours together; their measurements."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from MoBUncertaintyLib.base.errors import Cancelled, SettingsError
from MoBUncertaintyLib.measurements.distribution import QuantileBounds
from MoBUncertaintyLib.measurements.measurement import MEASUREMENTS, Wanted
from MoBUncertaintyLib.measurements.volumes import VolumeBounds
from MoBUncertaintyLib.model.covariance import correlation
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.findings import Checked
from MoBUncertaintyLib.regions.measurements import effects, measure
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions, as_stored, own_of
from MoBUncertaintyLib.regions.samples import ChangingVoxels
from MoBUncertaintyLib.review.outcome import decided_prediction
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review
from support.fake_case import fake_case
from support.probability_images import ball, prediction

COUNT = 3000


def drawn(case: Prediction, count: int = COUNT) -> tuple[ChangingVoxels, np.ndarray]:
    """The voxels that change, and samples of them, (count, N)."""
    voxels = ChangingVoxels.of(case, case.labels)
    return voxels, np.array(list(voxels.samples(count)))


def plate(p: np.ndarray, length_mm: float = 8.0) -> Prediction:
    """A prediction of constant probabilities (L,), 2 mm voxels, with a correlation length."""
    maps = np.broadcast_to(p[:, None, None, None], (len(p), 4, 16, 40)).astype(np.float32)
    everything = np.concatenate([1 - p.sum(keepdims=True), p])
    segmentation = np.full(maps.shape[1:], everything.argmax(), np.uint8)
    return replace(prediction(maps, segmentation=segmentation), correlation_mm=(length_mm,) * 3)


@pytest.mark.parametrize("length_mm", [1.0, 7.0, 20.0])
def test_a_voxel_has_a_label_as_often_as_its_probability_says(length_mm: float) -> None:
    for p in (0.2, 0.5001, 0.9):
        _, samples = drawn(plate(np.array([p]), length_mm))
        rates = (samples == 1).mean(axis=0)
        assert rates.mean() == pytest.approx(p, abs=0.02)
        assert np.abs(rates - p).max() < 5 * np.sqrt(p * (1 - p) / COUNT)


@pytest.mark.parametrize(("length_mm", "shared"), [(3.0, 0.0), (20.0, 0.0), (3.0, 0.4)])
def test_two_voxels_change_together_as_their_correlation_says(length_mm: float, shared: float) -> None:
    """At p = 1/2 they agree with the probability 1/2 + arcsin(k) / pi, between nodes and at them."""
    voxels, samples = drawn(replace(plate(np.array([0.50001]), length_mm), shared_fraction=shared))
    first = int(np.flatnonzero((voxels.places == [[1], [8], [11]]).all(axis=0))[0])
    agree = (samples == samples[:, [first]]).mean(axis=0)
    offsets = 2.0 * (voxels.places - voxels.places[:, [first]]).T
    expected = 0.5 + np.arcsin(correlation(offsets, (length_mm,) * 3, shared)) / np.pi
    np.testing.assert_allclose(agree, expected, atol=0.05)
    assert (expected.min() < 0.55) == (shared == 0) and np.median(np.abs(agree - expected)) < 0.012


def test_where_two_labels_meet_there_is_no_gap_and_a_third_keeps_out() -> None:
    _, samples = drawn(plate(np.array([0.55, 0.44995, 0.00005])))
    assert set(np.unique(samples)) == {1, 2}
    assert (samples == 1).mean() == pytest.approx(0.55, abs=0.02)


def test_a_sample_depends_on_the_seed_and_its_number_alone() -> None:
    voxels = ChangingVoxels.of(ball(), ball().labels)
    many, few = (list(voxels.samples(count, seed=4)) for count in (11, 3))
    assert all(map(np.array_equal, many, few)) and not np.array_equal(many[0], many[9])
    assert not np.array_equal(many[0], next(voxels.samples(1, seed=5)))


def two_organs() -> Prediction:
    """Two organs side by side in a doubtful band, wide enough for each to have voxels of its own; 2 mm voxels."""
    x = np.linspace(-3, 3, 40)
    logits = np.stack([np.zeros_like(x), 2 - np.abs(x + 1), 1.9 - np.abs(x - 1.2)])
    p = (np.exp(logits) / np.exp(logits).sum(axis=0))[:, None, None] * np.ones((4, 16, 1))
    case = prediction(p[1:], segmentation=p.argmax(axis=0).astype(np.uint8))
    return replace(case, correlation_mm=(8.0,) * 3)


def test_what_is_drawn_for_a_label_is_the_same_whatever_else_is_measured() -> None:
    case = two_organs()
    names = ["volume:organ 1", "centre_R:organ 2", "contact_area:organ 1:organ 2"]
    for together in measure(case, names, samples=20):
        (alone,) = measure(case, [together.name], samples=20)
        assert alone.samples == together.samples and len(set(alone.samples)) > 5


def test_what_is_drawn_for_a_voxel_is_the_same_whichever_others_may_change() -> None:
    case = two_organs()
    fewer = replace(case, segmentation=case.segmentation.copy())
    fewer.segmentation[:2, :9, :23] = 7  # decided
    (many, samples), (few, own) = drawn(case, 9), drawn(fewer, 9)
    assert 0 < few.places.shape[1] < many.places.shape[1]
    by_place = dict(zip(zip(*many.places.tolist(), strict=True), samples.T, strict=True))
    assert all(map(np.array_equal, own.T, (by_place[place] for place in zip(*few.places.tolist(), strict=True))))


def test_a_label_of_one_piece_has_no_strays_and_is_else_as_drawn() -> None:
    """Beside SciPy's connected components: what lies apart from all that is certain is background, nothing else."""
    noise = np.random.default_rng(0).uniform(0, 0.5, (6, 20, 40))
    core, nearer = np.zeros(noise.shape, bool), np.zeros(noise.shape, bool)
    core[2:4, 8:12, 5:9] = core[2:4, 2:5, 25:30] = nearer[:, :, :33] = True
    p = np.stack([np.where(core, 0.999, np.where(nearer, noise, 0)), np.where(nearer, 0, 0.4)]).astype(np.float32)
    case = replace(prediction(p, segmentation=core.astype(np.uint8)), correlation_mm=(2.0,) * 3)
    voxels, plain = drawn(case, 40)
    same, samples = drawn(replace(case, one_piece=("organ 1",)), 40)
    assert np.array_equal(same.places, voxels.places)
    taken = 0
    for before, after in zip(plain, samples, strict=True):
        whole = core.copy()
        whole[tuple(voxels.places)] = before == 1
        pieces, _ = ndimage.label(whole, np.ones((3, 3, 3)))
        stray = ~np.isin(pieces, np.unique(pieces[core]))[tuple(voxels.places)] & (before == 1)
        np.testing.assert_array_equal(after, np.where(stray, 0, before))
        taken += stray.sum()
    assert taken > 1000 and (samples == 2).any()
    uncertain = replace(case, probability=case.probability * np.float32(0.98), one_piece=("organ 1",))
    assert np.array_equal(drawn(uncertain, 9)[1], drawn(replace(uncertain, one_piece=()), 9)[1])


def test_samples_are_measured_as_whole_masks_are() -> None:
    """They are measured in boxes, and what needs no search is not searched for."""
    case, values = two_organs(), {"dose": np.random.default_rng(0).uniform(0, 60, (4, 16, 40))}
    case.segmentation[:, :3] = 0  # so that pieces and organs are of other sizes
    values["image"] = values["dose"] ** 2
    names = ["organ 1", "organ 2"]
    wanted = [
        Wanted.read(":".join([kind.name.replace("{}", "2"), *names[: kind.labels]]), names)
        for kind in MEASUREMENTS.values()
    ]
    voxels, samples = drawn(case, 20)
    whole = []
    for labels in (voxels.labels[0], *samples):
        sample = case.segmentation.copy()
        sample[tuple(voxels.places)] = labels
        masks = [sample == value for value in (1, 2)]
        whole.append([one.compute(masks[: one.measurement.labels], case.grid, values) for one in wanted])
    made = measure(case, [one.text for one in wanted], values, samples=20)
    for one, value, expected in zip(made, whole[0], np.sort(whole[1:], axis=0).T, strict=True):
        np.testing.assert_allclose([one.value, *one.samples], [value, *expected], rtol=1e-4, err_msg=one.name)


def test_regions_of_a_drawn_segmentation_are_not_ranked_by_effects() -> None:
    case, regions = three_ends()
    with pytest.raises(SettingsError):
        effects(replace(case, checked=Checked("drawn.nii.gz", "0" * 64, {})), regions, "volume:organ 1")


def test_mean_volume_of_samples_is_the_sum_of_probabilities() -> None:
    case = ball()
    (volume,) = measure(case, ["volume:organ 1"])
    expected = float(case.probability[0].sum(dtype=float)) * case.grid.voxel_mm3 / 1000
    assert np.mean(volume.samples) == pytest.approx(expected, abs=4 * np.std(volume.samples) / np.sqrt(200))


def test_an_interval_is_promised_where_it_was_calibrated_and_nowhere_else() -> None:
    bounds = VolumeBounds(0.9, 40, {}, {"volume:organ 1": QuantileBounds(0.9, 40, 1.0, 2.0)})
    case = replace(ball(), stated_bounds=bounds)
    volume, diameter = measure(case, ["volume:organ 1", "diameter:organ 1"], samples=40)
    assert volume.interval.low == pytest.approx(volume.quantile(0.05) - 1, rel=1e-6)
    assert volume.interval.high == pytest.approx(volume.quantile(0.95) + 2, rel=1e-6)
    assert diameter.interval is None and "not calibrated" in diameter.text
    unlike = replace(case, suitability=Suitability(Level.UNUSUAL, "made so"))
    assert measure(unlike, ["volume:organ 1"], samples=40)[0].interval is None


def test_what_a_reader_decides_and_clicks_narrows_the_samples() -> None:
    case = fake_case()
    review = Review(case.prediction, case.regions)
    before = measure(decided_prediction(review), ["volume:pancreas"])[0]
    for region in review.regions:
        review.decide(region.region_id, Verdict.ACCEPT)
    decided = decided_prediction(review)
    after = measure(decided, ["volume:pancreas"])[0]
    assert np.std(after.samples) < np.std(before.samples)
    changing = np.zeros(decided.shape, bool)
    changing[tuple(drawn(decided, 1)[0].places)] = True
    assert changing.any() and not any(changing[region.box][region.found.mask].any() for region in review.regions)


def test_cancelling_and_a_missing_dose_stop_it() -> None:
    seen = []
    with pytest.raises(Cancelled):
        measure(ball(), ["volume:organ 1"], progress=seen.append, cancelled=lambda: len(seen) == 3)
    assert [(each.done, each.total) for each in seen] == [(1, 200), (2, 200), (3, 200)]
    with pytest.raises(SettingsError):
        measure(ball(), ["max_dose:organ 1"])


def three_ends() -> tuple[Prediction, Regions]:
    """A bar of 12 x 12 voxels with three doubtful ends, far from each other, and the region of each; 2 mm voxels."""
    p, region_map = np.zeros((1, 12, 12, 90), np.float32), np.zeros((12, 12, 90), np.uint16)
    p[..., 5:85] = 0.9999
    for number, x in enumerate((5, 40, 80), start=1):
        p[..., x : x + 5], region_map[..., x : x + 5] = 0.6, number
    case = replace(prediction(p), correlation_mm=(4.0,) * 3)
    return case, RegionDescriber(case).describe_all(region_map, RegionSettings())


def test_regions_are_ranked_by_what_is_gone_of_a_measurements_variance_when_they_are_resolved() -> None:
    case, regions = three_ends()
    volume = regions.by_effect(effects(case, regions, "volume:organ 1"))
    assert volume.ranked_by == "volume:organ 1"
    fractions = [region.effect.fraction for region in volume.ranked]
    assert sum(fractions) == pytest.approx(1, abs=0.1) and min(fractions) > 0.2  # equal ends that do not meet
    dose = np.full(case.shape, 40.0)
    dose[..., :10] = 0.0
    ranked = regions.by_effect(effects(case, regions, "mean_dose:organ 1", {"dose": dose}))
    assert ranked.ranked[0].centroid_ras == regions.ranked[0].centroid_ras and ranked.ranked[0].effect.fraction > 0.8
    by_number = effects(case, regions, "mean_dose:organ 1", {"dose": dose[..., ::-1]})
    first, *others = regions.by_effect(by_number).ranked
    assert first.centroid_ras == regions.ranked[2].centroid_ras and (first.rank, first.number) == (1, 1)
    assert [region.number for region in others] == [2, 3]


def test_a_review_keeps_the_ranking_by_effect_whatever_is_clicked() -> None:
    case, regions = three_ends()
    dose = np.full(case.shape, 40.0)
    dose[..., 80:] = 0.0
    ranked = regions.by_effect(effects(case, regions, "mean_dose:organ 1", {"dose": dose}))
    again = RegionDescriber(case).describe_all(ranked.whole_map(), RegionSettings())
    stored = [as_stored(*pair) for pair in zip(again.ranked, map(own_of, ranked.ranked), strict=True)]
    assert stored == list(ranked.ranked)
    review = Review(case, ranked)
    review.click([ranked.ranked[0].centroid_ras], 0)
    places = [region.found.region.centroid_ras for region in review.regions]
    assert places == [region.centroid_ras for region in ranked.ranked]
    reopened = Review.from_dict(review.to_dict(), case)
    assert reopened.listed().ranked_by == "mean_dose:organ 1"
    assert [region.region.effect for region in reopened.regions] == [region.effect for region in ranked.ranked]
    reopened.update_regions(regions)  # those of another threshold, say, which have no effect yet
    errors = [region.region.expected_error_mm3 for region in reopened.regions]
    assert reopened.ranked_by is None and errors == sorted(errors, reverse=True)
