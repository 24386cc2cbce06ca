"""The copy of a prediction's labels that a scene keeps."""

import numpy as np
import pytest

from MoBUncertaintyLib.output.label_record import ElsewhereError, pack_labels, unpack_labels

MATRIX = np.diag([1.5, 1.5, 2.0, 1.0])
SHAPE = (20, 24, 28)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:7, 3:5, 20:28] = np.arange(80).reshape(5, 2, 8)


@pytest.fixture
def record():
    return pack_labels(LABELS, MATRIX)


def test_it_comes_back(record):
    assert np.array_equal(unpack_labels(record, MATRIX, SHAPE), LABELS)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_it_comes_back_in_the_order_that_the_image_has_now(record, axes, order):
    expected = np.flip(LABELS, axes).transpose(order)
    change = np.zeros((4, 4))  # from the indices of the reordered image to those of the stored one, (i, j, k)
    change[3, 3] = 1
    for new, old in enumerate(order):
        sign = -1 if old in axes else 1
        change[2 - old, 2 - new] = sign
        change[2 - old, 3] = SHAPE[old] - 1 if sign < 0 else 0
    assert np.array_equal(unpack_labels(record, MATRIX @ change, expected.shape), expected)


@pytest.mark.parametrize("change", [{"voxels": "AAAA"}, {"first_voxel": [0, 0, 0]}, {"sha256": None}])
def test_a_changed_one_is_refused(record, change):
    with pytest.raises(ValueError, match="SHA-256"):
        unpack_labels(record | change, MATRIX, SHAPE)


@pytest.mark.parametrize(("matrix", "shape"), [(MATRIX * 2, SHAPE), (MATRIX, (20, 24, 29))])
def test_one_of_another_image_is_refused(record, matrix, shape):
    with pytest.raises(ElsewhereError):
        unpack_labels(record, matrix, shape)
