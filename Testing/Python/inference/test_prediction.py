"""What a prediction tells of itself."""

from __future__ import annotations

import numpy as np
import pytest

from MoBUncertaintyLib.errors import ImageError
from support.probability_images import prediction


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(np.array([[[0.2, 0.9]]]), 0.2 + 0.1), (np.array([[[[0.2, 0.1]]], [[[0.5, 0.1]]]]), 0.5 + 0.2)],
    ids=["two classes", "three classes"],
)
def test_expected_error_is_what_is_left_to_the_most_probable_class(probability: np.ndarray, expected: float) -> None:
    assert prediction(probability, spacing=(2.0, 1.0, 3.0)).expected_error_mm3() == pytest.approx(6 * expected)


def test_expected_error_of_a_label_counts_what_it_may_lack_and_what_it_may_have_wrongly() -> None:
    probability = np.array([[[[0.2, 0.1, 0.6]]], [[[0.5, 0.1, 0.3]]]])
    found = prediction(probability, segmentation=np.array([[[2, 0, 1]]], np.uint8), spacing=(2.0, 1.0, 3.0))
    errors = {"organ 1": 6 * (0.2 + 0.1 + 0.4), "organ 2": 6 * (0.5 + 0.1 + 0.3)}
    assert found.expected_errors_mm3() == pytest.approx(errors)
    # A voxel that is wrong is so for two labels, one of which may be the background.
    background = 6 * (0.3 + (1 - 0.8) + 0.1)
    assert sum(errors.values()) + background == pytest.approx(2 * found.expected_error_mm3())
    alone = prediction(np.array([[[0.2, 0.9]]]))
    assert alone.expected_errors_mm3() == {"organ 1": pytest.approx(alone.expected_error_mm3())}


def test_volumes_are_those_of_the_labels() -> None:
    segmentation = np.array([[[0, 1, 1, 2]]], np.uint8)
    found = prediction(np.zeros((3, 1, 1, 4)), segmentation=segmentation, spacing=(5.0, 10.0, 20.0))
    assert found.volumes_ml() == {"organ 1": 2.0, "organ 2": 1.0, "organ 3": 0.0}


def test_maps_must_fit_segmentation_and_labels() -> None:
    with pytest.raises(ImageError, match="differ in their number of voxels; predict again"):
        prediction(np.zeros((3, 4, 5)), segmentation=np.zeros((3, 4, 6), np.uint8))
