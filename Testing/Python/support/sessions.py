"""The review of a fake result in a scene."""

import json
from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.model.region_settings import RegionSettings
from support.result_scenes import region_status

SHAPE = (22, 26, 30)
MATRIX = np.array([[-1.6, 0, 0, 20], [0, -1.5, 0, 15], [0, 0, 2.0, -9], [0, 0, 0, 1]])


def begin(scene, name="CT"):
    """A CT with the fake worker's result in the scene."""
    from support.standalone import add_volume

    return begin_again(add_volume(scene, np.zeros(SHAPE, np.int16), MATRIX, name))


def begin_again(ct, **provenance):
    """The fake worker's result for a CT that is in a scene."""
    from MoBUncertaintyLib.slicer_app.requests import showResult
    from support.fake_worker import fake_prediction

    prediction, regions = fake_prediction(SHAPE, MATRIX, provenance)
    settings = RegionSettings.from_dict(provenance.get("regions", {}).get("settings", {}))
    answer = as_answer(replace(prediction, region_settings=settings), regions)
    steps = showResult(ct, {"ct": {"ijk_to_ras": MATRIX}}, answer)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def as_answer(prediction, regions) -> dict:
    """A prediction as the worker's answer, with the arrays themselves in the places of files."""
    from MoBUncertaintyLib.output.results_record import write_prediction

    return write_prediction(prediction, regions, lambda _name, array: array)


def same(session):
    """The scene holds what the review says: labels, list of regions, their status, their stored description."""
    import slicer

    results, review = session.results, session.review
    assert np.array_equal(results.organs.array(), review.corrected())
    assert np.array_equal(results.predicted(), review.prediction.segmentation)
    assert np.array_equal(results.regions.array(), review.listed().whole_map())
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    for region in review.regions:
        assert region_status(results, region.number) == (logic.Completed if region.decided else logic.Flagged)
    assert results.documents.get("review") == json.loads(json.dumps(review.to_dict()))
