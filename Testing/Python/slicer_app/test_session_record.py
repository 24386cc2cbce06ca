"""What a scene holds of a review: nothing that others draw in or edit by hand changes it in silence."""

import json

import numpy as np
import pytest

from MoBUncertaintyLib.review.review import Review
from support.sessions import begin, same

pytestmark = pytest.mark.own_process


@pytest.fixture
def session(scene):
    """A review with one region edited, one excluded, one accepted, signed."""
    session = begin(scene)
    first, second, third = session.review.regions
    session.drawing.begin(first.region_id)
    session.results.updateSegmentation(first.box, np.ones(first.mask.shape, np.uint8))
    session.drawing.finish()
    session.step(Review.decide, second.region_id, "exclude")
    session.step(Review.decide, third.region_id, "accept")
    session.step(Review.sign, "A. Reader")
    return session


def reopened(session):
    from MoBUncertaintyLib.slicer_app.review_session import ReviewSession

    return ReviewSession.open(session.results)


def test_a_stroke_in_an_edited_region_does_not_pass_for_the_readers_edit(session):
    edited = session.review.regions[0]
    session.results.updateSegmentation(edited.box, np.zeros(edited.mask.shape, np.uint8))
    again = reopened(session)
    assert np.array_equal(again.review.corrected(), session.review.corrected())
    assert again.segmentation.strayEdits() > 0
    again.segmentation.discardStrayEdits()
    same(again)
    assert again.review.signature.name == "A. Reader"


def test_regions_that_were_drawn_over_are_as_the_review_has_them(session):
    from MoBUncertaintyLib.slicer_app.scene.segments import SegmentSpec

    session.results.setRegions(
        np.roll(session.review.listed().whole_map(), 2, axis=1), [SegmentSpec(1, "1", (0, 220, 255))]
    )
    again = reopened(session)
    assert np.array_equal(again.results.regions.array(), session.review.listed().whole_map())
    same(again)


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["regions"][0].update(verdict="pending"),
        lambda record: record["signature"].update(name="B. Reader"),
        lambda record: record["regions"][0]["region"].update(volume_mm3=852000.0),
        lambda record: record.pop("sha256"),
    ],
)
def test_a_record_that_was_edited_is_refused(session, edit):
    from MoBUncertaintyLib.base.errors import ReviewError

    record = session.results.documents.get("review")
    edit(record)
    session.results.documents.set("review", record)
    with pytest.raises(ReviewError):
        reopened(session)


def test_sealed_anew_it_is_not_signed_with_regions_undecided(session):
    from MoBUncertaintyLib.base.errors import ReviewError
    from MoBUncertaintyLib.base.integrity import seal

    record = session.results.documents.get("review")
    record["regions"][0]["verdict"] = "pending"
    session.results.documents.set("review", seal(record))
    with pytest.raises(ReviewError):
        reopened(session)


@pytest.mark.parametrize(
    "edit",
    [
        lambda kept: kept.update(labels=[]),
        lambda kept: kept["labels"][0].update(value="1"),
        lambda kept: kept["provenance"].update(regions={"settings": {"threshold": "low"}}),
        lambda kept: kept.pop("provenance"),
    ],
)
def test_what_the_scene_keeps_of_the_prediction_is_checked(session, edit):
    from MoBUncertaintyLib.base.errors import ReviewError

    kept = session.results.documents.get("prediction")
    edit(kept)
    session.results.documents.set("prediction", kept)
    with pytest.raises(ReviewError):
        reopened(session)


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', "[" * 5000, json.dumps({"comment": "\ud800"})])
def test_text_that_is_no_record(session, text):
    from MoBUncertaintyLib.base.errors import ReviewError

    session.results.node("state.review").SetText(text)
    with pytest.raises(ReviewError):
        reopened(session)


def test_a_region_stays_marked_when_the_list_is_renewed(scene):
    session = begin(scene)
    region = session.review.regions[1]
    session.step(Review.decide, region.region_id, "accept")
    session.regions.jumpTo(region)
    session.regions.find(0.02, 20.0)
    display = session.results.node("regions").GetDisplayNode()
    regions = session.review.regions
    opacity = {each.region_id: display.GetSegmentOpacity2DOutline(f"Segment_{each.number}") for each in regions}
    assert opacity.pop(region.region_id) == 1.0
    assert max(opacity.values()) < 1.0
