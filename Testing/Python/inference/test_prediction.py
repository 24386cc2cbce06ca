"""What a prediction tells of itself."""

from __future__ import annotations

import numpy as np
import pytest

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.logistic_normal import logistic_normal_moments
from support.probability_images import prediction


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(np.array([[[0.2, 0.9]]]), 0.2 + 0.1), (np.array([[[[0.2, 0.1]]], [[[0.5, 0.1]]]]), 0.5 + 0.2)],
    ids=["two classes", "three classes"],
)
def test_expected_error_is_what_is_left_to_the_most_probable_class(probability: np.ndarray, expected: float) -> None:
    assert prediction(probability, spacing=(2.0, 1.0, 3.0)).expected_error_mm3() == pytest.approx(6 * expected)


def test_volumes_are_those_of_the_labels() -> None:
    segmentation = np.array([[[0, 1, 1, 2]]], np.uint8)
    found = prediction(np.zeros((3, 1, 1, 4)), segmentation=segmentation, spacing=(5.0, 10.0, 20.0))
    assert found.volumes_ml() == {"organ 1": 2.0, "organ 2": 1.0, "organ 3": 0.0}


def test_maps_must_fit_segmentation_and_labels() -> None:
    with pytest.raises(ImageError, match="differ in their number of voxels; predict again"):
        prediction(np.zeros((3, 4, 5)), segmentation=np.zeros((3, 4, 6), np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_form_of_arrays_is_that_of_tensors(dtype: type) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(0, 10, 1000).astype(dtype), rng.uniform(0, 50, 1000).astype(dtype)
    found = logistic_normal_moments(mean, variance)
    wanted = logistic_normal_moments(torch.from_numpy(mean), torch.from_numpy(variance))
    for array, tensor in zip(found, wanted, strict=True):
        assert array.dtype == dtype
        assert np.abs(array - tensor.numpy()).max() < 1e-6
