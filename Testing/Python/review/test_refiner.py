"""What clicks make of a prediction: the properties that a review relies on."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import shape_of, whole
from MoBUncertaintyLib.gaussian.logits import logits_of, movable
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION, ClickSettings
from MoBUncertaintyLib.model.click_trees import ClickTrees
from MoBUncertaintyLib.model.covariance import Covariance, correlation
from MoBUncertaintyLib.regions.measure import VoxelMaps, maps_in, with_maps
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.refinement.conditioning import Wendland, mode
from MoBUncertaintyLib.review.refinement.refiner import Refiner
from support.clicks import click_at, random_trees
from support.probability_images import prediction

SHAPE = (18, 20, 22)
SPACING = (1.5, 1.0, 2.0)  # x, y, z
MAPS = ("probability", "variance", "segmentation")
SETTINGS = [ClickSettings(length_mm=2.0), ClickSettings(length_mm=1.5, prior_deviation=1.5, variance_strength=4.0)]

SETTINGS += [replace(SETTINGS[1], length_mm=None)]  # of a local model, whose length is its own
LOCAL_MM = (3.0, 1.2, 1.6)
LEARNED = 3
SETTINGS += [replace(SETTINGS[0], learned=random_trees(), caution=0.3)]


@cache
def case(labels: int = 1, deviation: float = 0.9) -> Prediction:
    """Balls with soft borders, wrong in waves; in a corner p is 0."""
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    logits = []
    for centre in np.linspace(6, 15, labels):
        distance = np.sqrt((2 * (z - 9)) ** 2 + (y - centre) ** 2 + (1.5 * (x - 10)) ** 2)
        logits.append(np.clip(0.9 * (6 - distance) + np.sin(3 * x + 2 * y + z), -7, 7))
    mean = np.array(logits, np.float32)
    s2 = np.broadcast_to(np.float32((deviation * (1 + 0.3 * np.cos(x + z))) ** 2), mean.shape)
    p, v = logistic_normal_moments(mean, s2) if deviation else (expit(mean), np.zeros_like(mean))
    excess = np.maximum(p.sum(0), 1)
    p, v = p / excess, v / excess**2
    p[:, :2, :2] = v[:, :2, :2] = 0
    best = np.where(1 - p.sum(0) >= p.max(0), 0, 1 + p.argmax(0)).astype(np.uint8)
    return prediction(p, v, best, SPACING)


@cache
def refiner(labels: int = 1, deviation: float = 0.9, own: int = 0) -> Refiner:
    return made(labels, deviation, own)


def made(labels: int, deviation: float, own: int) -> Refiner:
    of_model = LOCAL_MM if own == 2 else None
    return Refiner(replace(case(labels, deviation), correlation_mm=of_model), SETTINGS[own])


voxels = st.tuples(*(st.integers(0, size - 1) for size in SHAPE))
clicked = st.lists(st.tuples(st.lists(voxels, min_size=1, max_size=2), st.integers(0, 3)), min_size=1, max_size=6)
kinds = st.sampled_from(
    [(1, 0.9, 0), (1, 0.9, 1), (1, 0.0, 0), (3, 0.9, 0), (1, 0.9, 2), (3, 0.9, 2), (1, 0.9, LEARNED), (3, 0.9, LEARNED)]
)


def clicks_of(kind: tuple, given_: list) -> list[Click]:
    return [
        click_at(case(*kind[:2]), number, label % (kind[0] + 1), *places)
        for number, (places, label) in enumerate(given_, 1)
    ]


def same(a: VoxelMaps, b: VoxelMaps) -> bool:
    return all(one.shape == other.shape and one.tobytes() == other.tobytes() for one, other in zip(a, b, strict=True))


def corrected(own: Refiner, clicks: list[Click]) -> Prediction:
    return with_maps(own.prediction, own.reach(clicks), own.refine(clicks))


def latest(own: Refiner, clicks: list[Click]) -> dict[tuple, int]:
    return {tuple(v): click.label for click in clicks for v in own.voxels_of(click).tolist()}


@settings(deadline=None, max_examples=25)
@given(kind=kinds, given_=clicked, random=st.randoms(use_true_random=False))
def test_the_order_of_clicks_does_not_matter_in_the_last_bit(kind: tuple, given_: list, random) -> None:
    clicks = clicks_of(kind, given_)
    shuffled = random.sample(clicks, len(clicks))
    assert same(refiner(*kind).refine(clicks), refiner(*kind).refine(shuffled))
    assert same(refiner(*kind).refine(clicks), made(*kind).refine(shuffled))
    assert refiner(*kind).conflicts(clicks) == made(*kind).conflicts(shuffled)


@settings(deadline=None, max_examples=25)
@given(kind=kinds, given_=clicked)
def test_clicked_voxels_have_the_label_of_the_latest_click(kind: tuple, given_: list) -> None:
    own, clicks = refiner(*kind), clicks_of(kind, given_)
    refined = corrected(own, clicks)
    for voxel, label in latest(own, clicks).items():
        assert refined.segmentation[voxel] == label
        assert [p[voxel] for p in refined.probability] == [float(label == c + 1) for c in range(kind[0])]
        assert not any(v[voxel] for v in refined.variance)


@settings(deadline=None, max_examples=25)
@given(kind=kinds, given_=clicked)
def test_what_no_click_reaches_is_bit_for_bit_as_predicted(kind: tuple, given_: list) -> None:
    own, clicks = refiner(*kind), clicks_of(kind, given_)
    z, y, x = np.indices(SHAPE)
    places = np.stack([z, y, x], -1) * own.prediction.grid.spacing
    far = np.ones(SHAPE, bool)
    for voxel in latest(own, clicks):
        offsets = np.abs(places - voxel * own.prediction.grid.spacing)
        box = (offsets >= own.kernel.box_mm - 1e-4).any(-1)
        far &= box if kind[2] == 2 else np.linalg.norm(offsets, axis=-1) >= own.kernel.reach_mm - 1e-4
    now = corrected(own, clicks)
    for name in MAPS:
        assert np.array_equal(np.array(getattr(now, name))[..., far], np.array(getattr(own.prediction, name))[..., far])


@settings(deadline=None, max_examples=20)
@given(kind=kinds, given_=clicked)
def test_taking_a_click_back_restores_every_bit(kind: tuple, given_: list) -> None:
    own, clicks = made(*kind), clicks_of(kind, given_)
    states = [own.refine(clicks[:n]) for n in range(len(clicks) + 1)]
    for n in reversed(range(len(clicks) + 1)):
        assert same(own.refine(clicks[:n]), states[n])


@settings(deadline=None, max_examples=20)
@given(kind=kinds, given_=clicked, corners=st.tuples(voxels, voxels))
def test_a_part_is_what_the_whole_holds_there(kind: tuple, given_: list, corners: tuple) -> None:
    own, clicks = refiner(*kind), clicks_of(kind, given_)
    box = tuple(slice(min(a, b), max(a, b) + 1) for a, b in zip(*corners, strict=True))
    everything, part = own.refine(clicks, whole(SHAPE)), own.refine(clicks, box)
    for name in MAPS:
        assert np.array_equal(getattr(part, name), getattr(everything, name)[(..., *box)])
    assert np.array_equal(own.labels(clicks, box), part.segmentation)


@settings(deadline=None, max_examples=20)
@given(kind=kinds, given_=clicked)
def test_single_voxels_are_as_in_the_maps(kind: tuple, given_: list) -> None:
    """But for rounding, which now and then leads a voxel to another leaf of a tree."""
    own, clicks = refiner(*kind), tuple(clicks_of(kind, given_))
    everything = own.refine(clicks, whole(SHAPE))
    reached = np.zeros(SHAPE, bool)
    for place in own.prediction.grid.spacing * np.array(list(latest(own, clicks))):
        offsets = np.stack(np.indices(SHAPE), -1) * own.prediction.grid.spacing - place
        reached |= own.kernel.between(list(np.moveaxis(offsets, -1, 0))) > 1e-3
    for voxel in latest(own, clicks):
        reached[voxel] = False
    voxels = np.argwhere(reached)
    first, second = own.maps_at([(clicks, voxels[::3]), (clicks[:1], voxels[:0:-7])])
    assert second.segmentation.shape == voxels[:0:-7].shape[:1]
    at = tuple(voxels[::3].T)
    for got, wanted in zip(first[:2], everything[:2], strict=True):
        assert np.isclose(got, wanted[:, *at], atol=2e-3).mean() > 0.97
    assert (first.segmentation == everything.segmentation[at]).mean() > 0.97
    assert not own.maps_at([])


@settings(deadline=None, max_examples=20)
@given(kind=kinds, given_=clicked)
def test_maps_stay_probabilities_and_the_label_is_the_most_probable(kind: tuple, given_: list) -> None:
    refined = refiner(*kind).refine(clicks_of(kind, given_))
    p, v = refined.probability, refined.variance
    assert p.dtype == v.dtype == np.float32
    assert (p >= 0).all()
    assert (p.sum(0) <= 1 + 1e-6).all()
    assert (v >= 0).all()
    assert (v <= p * (1 - p) + 1e-9).all()
    everything = np.concatenate([1 - p.sum(0, keepdims=True), p])
    clear = np.sort(everything, axis=0)[-1] - np.sort(everything, axis=0)[-2] > 1e-3
    assert np.array_equal(refined.segmentation[clear], everything.argmax(0)[clear])


@settings(deadline=None, max_examples=20)
@given(own=st.integers(0, 2), given_=clicked)
def test_the_logit_is_nowhere_more_uncertain_than_without_clicks(own: int, given_: list) -> None:
    refined, clicks = refiner(1, 0.9, own), clicks_of((1, 0.9), given_)
    now = refined.refine(clicks)
    inner = np.abs(now.probability[0] - 0.5) < 0.4999
    before = maps_in(refined.prediction, refined.reach(clicks))
    old = logits_of(before.probability[0][inner], before.variance[0][inner])[1]
    new = logits_of(now.probability[0][inner], now.variance[0][inner])[1]
    assert (new <= old * (1 + 3e-3)).all()


@pytest.mark.parametrize("own", range(3))
def test_the_maps_are_those_of_the_formulas(own: int) -> None:
    """Blocks, groups and rounding change nothing that can be seen: dense matrices of all voxels give the same."""
    chosen = SETTINGS[own]
    predicted = replace(case(), correlation_mm=LOCAL_MM if own == 2 else None)
    places = [((9, 9, 5), 1), ((9, 10, 8), 0), ((4, 10, 10), 0), ((14, 3, 3), 0), ((9, 9, 7), 0)]
    clicks = [click_at(predicted, n, label, voxel) for n, (voxel, label) in enumerate(places, 1)]
    now = Refiner(predicted, chosen).refine(clicks, whole(SHAPE))

    mean, variance = (each.ravel() for each in logits_of(case().probability[0], case().variance[0]))
    c = movable(variance, chosen.prior_deviation)
    where = np.stack(np.indices(SHAPE), -1).reshape(-1, 3) * case().grid.spacing
    at = np.array([np.ravel_multi_index(voxel, SHAPE) for voxel, _ in places])
    offsets = where[at][:, None] - where
    kernel = Wendland(chosen.length_mm)(np.linalg.norm(offsets, axis=-1)) if own < 2 else correlation(offsets, LOCAL_MM)
    across = kernel * c[at][:, None] * c
    among = across[:, at]
    signs = np.array([1 if label else -1 for _, label in places])
    weights, _ = mode(mean[at].astype(float), among, signs, chosen.strength)
    _, curvature = mode(mean[at].astype(float), among, signs, chosen.variance_strength)
    explained = np.einsum("in,in->n", np.linalg.inv(among + np.diag(1 / curvature)) @ across, across)
    left = np.clip(1 - explained / c**2, 0, 1)
    moved = (mean + weights @ across) * (1 + chosen.sharpening * (1 - left))
    expected = logistic_normal_moments(moved, variance * left)

    free = (kernel > 0).any(axis=0)
    free[at] = False
    assert free.sum() > 500
    for got, wanted in zip((now.probability[0], now.variance[0]), expected, strict=True):
        assert np.abs(got.ravel() - wanted)[free].max() < 2e-4


def test_a_click_corrects_its_surroundings_and_an_opposite_one_limits_it() -> None:
    own, before = refiner(), case().segmentation.copy()
    clicks = [click_at(case(), 1, 0, (9, 3, 10))]
    one = corrected(own, clicks)
    changed = one.segmentation != before
    assert 20 < changed.sum() < np.prod(shape_of(own.reach(clicks))) / 8
    assert not one.segmentation[changed].any()
    assert not own.conflicts(clicks)
    two = corrected(own, [*clicks, click_at(case(), 2, 1, (9, 5, 10))])
    assert (two.segmentation != before).sum() < 0.9 * changed.sum()
    assert np.array_equal(case().segmentation, before), "the prediction is never changed"


def test_sharpening_makes_the_surroundings_surer_and_moves_no_outline() -> None:
    places = [((9, 3, 10), 0), ((9, 9, 14), 1)]
    clicks = [click_at(case(), n, label, voxel) for n, (voxel, label) in enumerate(places, 1)]
    plain, sharp = (Refiner(case(), ClickSettings(length_mm=2.0, sharpening=s)).refine(clicks) for s in (0.0, 1.5))
    assert np.array_equal(plain.segmentation, sharp.segmentation)
    surer = np.abs(sharp.probability[0] - 0.5) - np.abs(plain.probability[0] - 0.5)
    assert surer.min() > -1e-6
    assert (surer > 0.02).sum() > 50


def test_clicks_that_contradict_each_other_are_in_conflict() -> None:
    own, near = refiner(), [(9, 9, 10), (9, 9, 11), (9, 10, 10), (9, 8, 10), (9, 10, 11)]
    clicks = [click_at(case(), 1, 0, (9, 9, 10)), *(click_at(case(), n, 1, at) for n, at in enumerate(near[1:], 2))]
    assert own.conflicts(clicks) == {"c1"}
    assert own.conflicts(clicks[:1]) == frozenset()


def test_a_click_that_a_later_one_replaced_says_nothing() -> None:
    first, second = click_at(case(), 1, 1, (9, 1, 10)), click_at(case(), 2, 0, (9, 1, 10))
    both, later = refiner().refine([second, first]), refiner().refine([second])
    assert same(both, later)


def test_no_clicks_are_the_prediction() -> None:
    own = refiner()
    assert shape_of(own.reach([])) == (0, 0, 0)
    assert own.refine([]).probability.shape == (1, 0, 0, 0)
    assert same(own.refine([], whole(SHAPE)), maps_in(case(), whole(SHAPE)))


def test_outside_of_what_was_predicted_nothing_is_clicked_or_changed() -> None:
    part = replace(case(), predicted_part=(slice(4, 14), slice(2, 18), slice(3, 20)))
    own = Refiner(part, SETTINGS[0])
    with pytest.raises(ReviewError):
        own.refine([click_at(part, 1, 1, (3, 10, 10))])
    clicks = [click_at(part, 1, 1, (4, 2, 3))]
    assert [side.start for side in own.reach(clicks)] == [4, 2, 3]
    assert own.refine(clicks).probability[0, 0, 0, 1] != part.probability[0][4, 2, 4]


def test_what_tiles_disagree_by_does_not_limit_clicks_of_a_model_without_covariance() -> None:
    stock = replace(case(1, 0.1), covariance=Covariance.DETERMINISTIC)
    given_prior = Refiner(stock, replace(SETTINGS[0], prior_deviation=DEFAULT_PRIOR_DEVIATION))
    clicks = [click_at(stock, 1, 0, (9, 3, 10))]
    assert same(Refiner(stock, SETTINGS[0]).refine(clicks), given_prior.refine(clicks))
    far, near = (own.refine(clicks).segmentation for own in (Refiner(stock, SETTINGS[0]), refiner(1, 0.1)))
    assert (far == 0).sum() > (near == 0).sum()


def test_maps_that_lie_one_by_one_are_refined_like_an_array() -> None:
    listed = replace(case(3), probability=list(case(3).probability), variance=list(case(3).variance))
    clicks = [click_at(case(3), 1, 2, (9, 1, 10)), click_at(case(3), 2, 0, (9, 9, 10))]
    assert same(Refiner(listed, SETTINGS[0]).refine(clicks), refiner(3).refine(clicks))


@settings(max_examples=20, deadline=None)
@given(clicked, clicked)
def test_outside_of_the_boxes_that_changed_two_sets_give_the_same(before, after) -> None:
    own, sets = refiner(), [[], []]
    for clicks, given_clicks in zip(sets, (before, after), strict=True):
        for number, (places, label) in enumerate(given_clicks, 1):
            clicks.append(click_at(case(), number, min(label, 1), *places))
    unchanged = np.ones(SHAPE, bool)
    for box in own.changed(*sets):
        unchanged[box] = False
    old, new = (own.refine(clicks, whole(SHAPE)) for clicks in sets)
    for name in MAPS:
        differ = np.asarray(getattr(old, name) != getattr(new, name))
        assert not differ[..., unchanged].any()
    assert not own.changed(sets[0], sets[0][::-1])


def test_trees_say_how_probable_the_label_of_the_nearest_click_is() -> None:
    """All trees together say 2: by so much the logit of the clicked label rises, and the others share the rest."""
    asked, thresholds = np.zeros((4, 1), int), np.zeros((4, 1))
    learned = ClickTrees.of(asked, thresholds, np.full((4, 2), 0.5))
    clicks = [click_at(case(3), 1, 2, (9, 3, 10))]
    plain, raised = (
        Refiner(case(3), replace(SETTINGS[0], learned=trees)).refine(clicks, whole(SHAPE)) for trees in (None, learned)
    )
    changed = (plain.probability != raised.probability).any(0)
    changed[9, 3, 10] = False
    before, after = plain.probability[:, changed], raised.probability[:, changed]
    assert changed.sum() > 100
    assert np.allclose(logit(after[1]) - logit(before[1]), 2, atol=2e-3)
    assert np.allclose(after[[0, 2]].sum(0) / (1 - after[1]), before[[0, 2]].sum(0) / (1 - before[1]), atol=1e-3)
    had = case(3).segmentation == 2
    cautious = Refiner(case(3), replace(SETTINGS[0], learned=learned, caution=5.0)).refine(clicks, whole(SHAPE))
    near = changed & (np.abs(raised.probability[1] - 0.5) < 0.47)
    assert np.array_equal((cautious.segmentation == 2)[near], had[near]), "where the score is small, no label changes"
    assert not np.array_equal((raised.segmentation == 2)[near], had[near])


def test_a_click_that_agrees_moves_no_outline_where_clicks_are_learned() -> None:
    """The trees say that all around has the label of the click, as far as they are asked."""
    learned = ClickTrees.of(np.zeros((4, 1), int), np.zeros((4, 1)), np.full((4, 2), 0.5))
    own = Refiner(case(), replace(SETTINGS[0], learned=learned, caution=0.3))
    predicted = case().segmentation
    label = int(predicted[9, 9, 10])
    agreeing, contradicting = (
        own.refine([click_at(case(), 1, given_label, (9, 9, 10))], whole(SHAPE)) for given_label in (label, 1 - label)
    )
    assert np.array_equal(agreeing.segmentation, predicted)
    assert (np.abs(agreeing.probability - 0.5) > np.abs(case().probability - 0.5) + 0.01).sum() > 50
    assert (contradicting.segmentation != predicted).sum() > 20
