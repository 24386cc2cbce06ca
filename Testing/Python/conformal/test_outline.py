"""The set around an outline: that of which the margin is calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from MoBUncertaintyLib.conformal.outline import around, outline


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.8, 0.8)]), st.floats(0, 4))
def test_it_holds_what_lies_no_farther_from_the_outline(seed: int, spacing: tuple[float, ...], margin: float) -> None:
    shape = (6, 12, 14)
    mask = np.random.default_rng(seed).random(shape) > 0.8
    edge = {tuple(voxel) for voxel in np.argwhere(mask).tolist() if _touches_outside(mask, voxel)}
    assert edge == set(map(tuple, np.argwhere(outline(mask)).tolist()))
    distance, _ = cKDTree(np.array(sorted(edge)) * spacing).query(np.indices(shape).reshape(3, -1).T * spacing)
    distance = distance.reshape(shape)
    box, marked = around(mask, spacing, margin)
    held = np.zeros(shape, bool)
    held[box] = marked
    sure = np.abs(distance - margin) > 1e-5
    assert np.array_equal(held[sure], (distance < margin)[sure])


def _touches_outside(mask: np.ndarray, voxel: list[int]) -> bool:
    padded, (z, y, x) = np.pad(mask, 1), (place + 1 for place in voxel)
    return not all(
        padded[z + dz, y + dy, x + dx] for dz, dy, dx in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    )


def test_around_nothing_is_nothing() -> None:
    _box, marked = around(np.zeros((3, 3, 3), bool), (1, 1, 1), 5.0)
    assert not marked.any()


def test_a_ball_gets_a_shell() -> None:
    away = np.linalg.norm(np.indices((41, 41, 41)) - 20, axis=0)
    box, marked = around(away <= 12, (1, 1, 1), 3.0)
    inside = away[box][marked]
    assert (inside.min(), inside.max()) == pytest.approx((9, 15), abs=1)
