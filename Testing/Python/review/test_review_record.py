"""What is stored of a review: whole, sealed, and believed only as far as the prediction does not say it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.review.review import Review
from support.review_cases import (
    GRID,
    LEFT,
    MIDDLE,
    RIGHT,
    SHAPE,
    describe_as_in,
    found,
    label_map,
    predicted_as,
    state,
    stored_again,
)


@pytest.fixture
def review() -> Review:
    predicted = np.zeros(SHAPE, np.uint8)
    predicted[1:4, 2:5, 1:6] = 1
    return Review(predicted_as(predicted), found(label_map(LEFT, MIDDLE, RIGHT)))


class TestStoring:
    def reviewed(self, review: Review) -> Review:
        review.decide("1", "include", label=2)
        review.edit("2", np.full(SHAPE, 3, np.uint8))
        review.decide("3", "exclude")
        review.comment("3", "Größe? „=1+1“")
        review.sign("A. Reader", datetime(2026, 5, 31, 14, 30, tzinfo=UTC))
        return review

    def test_comes_back_through_json(self, review):
        self.reviewed(review)
        data = json.loads(json.dumps(review.to_dict()))
        again = Review.from_dict(data, review.prediction, describe_as_in(review))
        assert state(again) == state(review)
        assert again.settings == review.settings
        assert again.settings.measure is Measure.VARIANCE
        assert not again.can_undo

    def test_goes_on_where_it_stopped(self, review):
        review.decide("1", "include")
        again = stored_again(review)
        again.update_regions(found(label_map(RIGHT)))
        assert len({each.region_id for each in again.regions}) == 2
        again.decide("1", "pending")
        assert np.array_equal(again.corrected(), review.prediction.segmentation)

    def test_another_prediction_is_refused(self, review):
        other = review.prediction.segmentation.copy()
        other[0, 0, 0] = 1
        with pytest.raises(ReviewError):
            Review.from_dict(review.to_dict(), predicted_as(other), describe_as_in(review))

    def test_another_place_is_refused(self, review):
        elsewhere = Grid.from_matrix(2 * GRID.matrix())
        with pytest.raises(ReviewError):
            Review.from_dict(review.to_dict(), replace(review.prediction, grid=elsewhere), describe_as_in(review))

    @pytest.mark.parametrize(
        "damage",
        [
            lambda d: d.pop("regions"),
            lambda d: d["regions"][0].update(verdict="perhaps"),
            lambda d: d["regions"][0].update(verdict="include", label=None),
            lambda d: d["regions"][0].pop("voxels"),
            lambda d: d["regions"][0].update(voxels=d["regions"][2]["voxels"][:-8]),
            lambda d: d["regions"][0].update(first_voxel=[0, 0, 9]),
            lambda d: d["regions"][0].update(first_voxel=d["regions"][1]["first_voxel"]),
            lambda d: d["regions"][0].update(rank=2),
            lambda d: d["regions"][1].update(id=d["regions"][0]["id"]),
            lambda d: d["regions"][1].update(number=d["regions"][0]["number"]),
            lambda d: d["regions"][1].update(comment="\x1b[2J"),
            lambda d: d.update(signature={"name": "A", "time": "noon"}),
            lambda d: d.update(signature={"name": "A", "time": "9999-12-31T23:59:59+00:00"}),
            lambda d: d.update(settings={"measure": "mood"}),
            lambda d: d.update(settings={"threshold": -1}),
        ],
    )
    @pytest.mark.parametrize("sealed", [True, False])
    def test_damage_is_refused(self, review, damage, sealed):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        damage(data)
        data = seal(data) if sealed else data
        with pytest.raises(ReviewError):
            Review.from_dict(data, review.prediction, describe_as_in(review))

    @pytest.mark.parametrize(
        "edit",
        [
            lambda d: d["regions"][0]["region"].update(volume_mm3=852000.0),
            lambda d: d["regions"][0]["region"].update(location="right"),
            lambda d: d["signature"].update(name="B. Reader"),
            lambda d: d["signature"].update(time="2026-06-30T14:30:00+00:00"),
            lambda d: d["regions"][2].update(verdict="accept"),
            lambda d: d["regions"][1].update(labels=d["regions"][1]["voxels"]),
            lambda d: d.pop("sha256"),
        ],
    )
    def test_a_careless_edit_is_refused(self, review, edit):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        edit(data)
        with pytest.raises(ReviewError):
            Review.from_dict(data, review.prediction, describe_as_in(review))

    def test_numbers_are_those_of_the_prediction_whatever_was_stored(self, review):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        data["regions"][0]["region"] |= {"volume_mm3": 852000.0, "location": "right", "centroid_ras": [0, 0, 0]}
        again = Review.from_dict(seal(data), review.prediction, describe_as_in(review))
        assert [each.region for each in again.regions] == [each.region for each in review.regions]

    @pytest.mark.parametrize("verdict", ["pending", "accept"])
    @pytest.mark.parametrize("name", ["A. Reader", "", " \n", "A" * 101, "A\x00B"])
    def test_a_signature_is_restored_only_where_it_could_have_been_given(self, review, verdict, name):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        data["regions"][0]["verdict"] = verdict
        data["signature"]["name"] = name
        if (verdict, name) == ("accept", "A. Reader"):
            assert Review.from_dict(seal(data), review.prediction, describe_as_in(review)).signature
            return
        with pytest.raises(ReviewError):
            Review.from_dict(seal(data), review.prediction, describe_as_in(review))

    @pytest.mark.parametrize("version", [0, 99, None])
    def test_other_version_is_refused(self, review, version):
        data = review.to_dict() | {"schema_version": version}
        with pytest.raises(ReviewError):
            Review.from_dict(data, review.prediction, describe_as_in(review))
