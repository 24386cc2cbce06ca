"""The review of a fake result in a scene."""

import json
from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.results_record import write_prediction
from MoBUncertaintyLib.review.review import Review
from support.fake_worker import fake_prediction
from support.late import slicer, slicer_app
from support.result_scenes import region_status
from support.standalone import add_volume

SHAPE = (22, 26, 30)
MATRIX = np.array([[-1.6, 0, 0, 20], [0, -1.5, 0, 15], [0, 0, 2.0, -9], [0, 0, 0, 1]])


def begin(scene, name="CT"):
    """A CT with the fake worker's result in the scene."""
    return begin_again(add_volume(scene, np.zeros(SHAPE, np.int16), MATRIX, name))


def begin_again(ct, **provenance):
    """The fake worker's result for a CT that is in a scene."""
    prediction, regions = fake_prediction(SHAPE, MATRIX, provenance)
    settings = RegionSettings.from_dict(provenance.get("regions", {}).get("settings", {}))
    answer = as_answer(replace(prediction, region_settings=settings), regions)
    steps = slicer_app.requests.showResult(ct, {"ct": {"ijk_to_ras": MATRIX}}, answer)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def as_answer(prediction, regions) -> dict:
    """A prediction as the worker's answer, with the arrays themselves in the places of files."""
    return write_prediction(prediction, regions, lambda _name, array: array)


def sign(session, name="A. Reader"):
    """Accept every region, and sign."""
    for region in session.review.regions:
        if not region.decided:
            session.step(Review.decide, region.region_id, "accept")
    session.step(Review.sign, name)


def draw(session, region, value=1):
    """Make all of a region's box organ or background, as by a brush that heeds no mask."""
    session.results.organs.update(region.box, np.full(region.mask.shape, value, np.uint8))


def stray(session):
    """Draw 8 voxels outside of the review, as a user of the Segment Editor may."""
    session.results.organs.update(np.s_[0:2, 0:2, 0:2], np.ones((2, 2, 2), np.uint8))


def reopened(session):
    """The session that is read from the scene."""
    return slicer_app.review_session.ReviewSession.open(session.results)


def stored(session):
    """The review as the scene has it."""
    return session.results.documents.get("review")


def same(session):
    """The scene holds what the review says: labels, list of regions, their status, their stored description."""
    results, review = session.results, session.review
    assert np.array_equal(results.organs.array(), review.corrected())
    assert np.array_equal(results.predicted(), review.prediction.segmentation)
    assert np.array_equal(results.regions.array(), review.listed().whole_map())
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    for region in review.regions:
        assert region_status(results, region.number) == (logic.Completed if region.decided else logic.Flagged)
    assert stored(session) == json.loads(json.dumps(review.to_dict()))
