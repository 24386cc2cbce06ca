"""A review that starts from a segmentation which others have drawn: what is drawn stays until the reader changes it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import whole
from MoBUncertaintyLib.output.results_record import read_regions, write_prediction
from MoBUncertaintyLib.regions.discrepancy import find_differences, find_discrepancies, settings_of
from MoBUncertaintyLib.regions.findings import Checked, Second
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions, own_of
from MoBUncertaintyLib.review.refinement.extent import most_probable
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.suggestion import suggest
from support.fake_case import LEFT_KIDNEY, PANCREAS, fake_case

ISLAND, FAR_ISLAND, GAP = np.s_[4:8, 6:11, 18:23], np.s_[22:26, 26:31, 4:8], np.s_[12:16, 16:20, 18:22]
LABELS = {"one label": (PANCREAS,), "two labels": (PANCREAS, LEFT_KIDNEY)}


@pytest.fixture(params=LABELS)
def checked(request) -> Prediction:
    """A ball, drawn with two islands and a gap in it."""
    own = fake_case(labels=LABELS[request.param], with_regions=False).prediction
    drawn = own.segmentation.copy()
    drawn[ISLAND] = drawn[FAR_ISLAND] = PANCREAS.value
    drawn[GAP] = 0
    called = {label.name: label.name for label in own.labels}
    return replace(own, segmentation=drawn, checked=Checked("drawn.nii.gz", "0" * 64, called))


def listed(checked: Prediction) -> Regions:
    settings = settings_of(checked.region_settings)
    return find_discrepancies(checked.annotated(region_settings=settings), checked.segmentation)


def place_of(prediction: Prediction, box: tuple[slice, ...]) -> tuple[float, float, float]:
    middle = [(part.start + part.stop - 1) // 2 for part in box]
    r, a, s = prediction.grid.to_ras(np.array(middle)).tolist()
    return r, a, s


def region_in(review: Review, box: tuple[slice, ...]) -> str:
    voxel = np.array([[(part.start + part.stop - 1) // 2 for part in box]])
    (region,) = review.state.regions_at(voxel)
    return region.region_id


def test_the_worst_places_are_listed_first(checked: Prediction) -> None:
    regions = listed(checked)
    assert len(regions.ranked) == 2 + len(checked.labels)  # the gap is in all labels
    marked = regions.whole_map() > 0
    assert marked[ISLAND].all()
    assert marked[FAR_ISLAND].all()
    assert marked[GAP].mean() > 0.7  # where the labels meet, the model is not sure which one is missing
    assert marked.sum() < 1.3 * sum(marked[box].size for box in (ISLAND, FAR_ISLAND, GAP))


def test_the_list_is_what_a_panel_reads(checked: Prediction) -> None:
    regions = listed(checked)
    written = write_prediction(checked, regions, lambda _name, array: array)
    assert read_regions(written, regions.whole_map(), regions.settings).ranked == regions.ranked


def test_expected_error_is_that_of_what_was_drawn(checked: Prediction) -> None:
    own = [checked.probability[place] for place in range(len(checked.labels))]
    right = np.where(checked.segmentation == 0, 1 - sum(own), 0)
    for label, probability in zip(checked.labels, own, strict=True):
        right = np.where(checked.segmentation == label.value, probability, right)
    assert checked.expected_error_mm3 == pytest.approx(checked.grid.voxel_mm3 * float((1 - right).sum()), rel=1e-4)


def test_accepting_all_gives_what_was_drawn(checked: Prediction) -> None:
    review = Review(checked, listed(checked))
    np.testing.assert_array_equal(review.corrected(), checked.segmentation)
    for region in review.regions:
        review.decide(region.region_id, "accept")
    np.testing.assert_array_equal(review.corrected(), checked.segmentation)


def test_verdicts_follow_the_model(checked: Prediction) -> None:
    review = Review(checked, listed(checked))
    review.decide(region_in(review, ISLAND), "exclude")
    review.decide(region_in(review, GAP), "include")
    corrected = review.corrected()
    assert not corrected[ISLAND].any()
    assert (corrected[GAP] > 0).mean() > 0.7
    assert corrected[FAR_ISLAND].all()


@pytest.mark.parametrize(("box", "label"), [(ISLAND, 0), (GAP, PANCREAS.value)])
def test_a_click_mends_its_surroundings_and_nothing_far(
    checked: Prediction, box: tuple[slice, ...], label: int
) -> None:
    review = Review(checked, listed(checked))
    before = review.expected_error_mm3[1]
    review.click([place_of(checked, box)], label, region_in(review, box))
    corrected = review.corrected()
    changed = corrected != checked.segmentation
    assert changed[box].mean() > 0.5
    assert changed.sum() == pytest.approx(changed[box].sum(), abs=0.1 * changed.sum())
    assert corrected[FAR_ISLAND].all()
    assert review.expected_error_mm3[1] < before
    review.undo()
    np.testing.assert_array_equal(review.corrected(), checked.segmentation)


def test_a_click_in_a_hole_leaves_the_outline_as_it_was_drawn(checked: Prediction) -> None:
    """A click that takes the model's side in the hole says nothing of the outline, of which the reader has another."""
    model = most_probable(np.array(checked.probability), [label.value for label in checked.labels])
    tighter = np.where(ndimage.binary_erosion(model == PANCREAS.value), PANCREAS.value, 0).astype(np.uint8)
    drawn = np.where(model == PANCREAS.value, tighter, model)
    deepest = np.unravel_index(ndimage.distance_transform_edt(tighter).argmax(), drawn.shape)
    hole = tuple(slice(int(at) - 1, int(at) + 2) for at in deepest)
    drawn[hole] = 0
    tight = replace(checked, segmentation=drawn)
    review = Review(tight, listed(tight))
    review.click([place_of(tight, hole)], PANCREAS.value)
    changed = review.corrected() != drawn
    assert changed[hole].all()
    changed[hole] = False
    assert not changed.any()


def test_a_click_leaves_the_order_of_the_list_and_what_it_says(checked: Prediction) -> None:
    review = Review(checked, listed(checked))
    before = [(region.region_id, region.found.region) for region in review.regions]
    first = review.regions[0].region
    review.click([review.regions[0].region.centroid_ras], 0, before[0][0])
    assert review.regions[0].region.expected_error_mm3 != first.expected_error_mm3
    for each in (review, Review.from_dict(review.to_dict(), checked)):
        assert [region.region_id for region in each.regions] == [region_id for region_id, _ in before]
        for region, (_, found) in zip(each.regions, before, strict=True):
            assert own_of(region.region) == own_of(found) != {}


def test_a_click_that_agrees_with_what_was_drawn_keeps_it(checked: Prediction) -> None:
    review = Review(checked, listed(checked))
    review.click([place_of(checked, ISLAND)], PANCREAS.value)
    np.testing.assert_array_equal(review.corrected()[ISLAND], checked.segmentation[ISLAND])
    assert not review.conflicts


def test_a_record_gives_the_same_review(checked: Prediction) -> None:
    review = Review(checked, listed(checked))
    review.click([place_of(checked, ISLAND)], 0)
    again = Review.from_dict(review.to_dict(), checked)
    np.testing.assert_array_equal(again.corrected(), review.corrected())
    for mine, other in zip(again.maps_in(whole(checked.shape)), review.maps_in(whole(checked.shape)), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_next_click_is_suggested_where_what_was_drawn_is_wrong(checked: Prediction) -> None:
    suggestion = suggest(Review(checked, listed(checked)))
    assert suggestion is not None
    z, y, x = np.rint(checked.grid.to_index(np.array(suggestion.point_ras))).astype(int)
    assert any(box[0].start <= z < box[0].stop and box[1].start <= y < box[1].stop for box in (ISLAND, FAR_ISLAND, GAP))
    assert suggestion.gain_mm3 > 0
    assert x >= 0


def test_a_segmentation_as_predicted_has_no_discrepancy() -> None:
    own = fake_case(with_regions=False).prediction
    same = replace(own, checked=Checked("drawn.nii.gz", "0" * 64, {}))
    assert not listed(same).ranked


@pytest.fixture
def compared(checked: Prediction) -> Prediction:
    """Beside it a second one, with one of the islands, another label in the gap, and neither."""
    second = checked.segmentation.copy()
    second[ISLAND] = 0
    second[GAP] = checked.labels[-1].value
    of_second = Second("second.nii.gz", "1" * 64, {})
    settings = settings_of(checked.region_settings)
    told = replace(checked.checked, second=of_second)
    return replace(checked, second=second, checked=told, region_settings=settings)


def test_two_segmentations_are_compared_where_they_differ(compared: Prediction) -> None:
    first, second = compared.segmentation, compared.second
    found = find_differences(compared)
    np.testing.assert_array_equal(found.whole_map() > 0, first != second)
    assert {region.missing for region in found.ranked} == {True, False}
    assert all(region.discrepancy > 0 for region in found.ranked if not region.missing)  # no organ is in the island
    turned = find_differences(replace(compared, segmentation=second, second=first))
    gains = [{region.centroid_ras: region.discrepancy for region in each.ranked} for each in (found, turned)]
    one_label = len(compared.labels) == 1
    assert [*gains[1].values()] == sorted(gains[1].values(), reverse=True)
    if one_label:
        assert gains[1] == {place: pytest.approx(-gain, rel=1e-4) for place, gain in gains[0].items()}


def test_verdicts_keep_the_first_or_take_the_second(compared: Prediction) -> None:
    regions = find_differences(compared)
    for verdicts, wanted in ((("accept", "accept"), compared.segmentation), (("exclude", "include"), compared.second)):
        review = Review(compared, regions)
        for region in review.regions:
            review.decide(region.region_id, verdicts[region.region.missing])
        np.testing.assert_array_equal(review.corrected(), wanted)
        again = Review.from_dict(review.to_dict(), compared)
        np.testing.assert_array_equal(again.corrected(), wanted)
        assert [region.found.region.compared for region in again.regions] == [True] * len(review.regions)
