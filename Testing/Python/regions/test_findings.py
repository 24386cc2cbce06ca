"""What is plainly wrong with a segmentation, on two organs at either side: each fault is named, where it is."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.regions.findings import plain_findings
from MoBUncertaintyLib.regions.prediction import Prediction
from support.fake_case import LEFT_KIDNEY, PANCREAS

SHAPE = (60, 40, 60)
RIGHT, LEFT = replace(PANCREAS, name="kidney_right"), LEFT_KIDNEY
GRID = Grid(np.array([3.0, 1.5, 1.5]), np.fliplr(np.diag([-1.0, 1.0, 1.0])), np.array([10.0, -20.0, 30.0]))


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    index = np.indices(SHAPE).T - centre
    return ((index / radii) ** 2).sum(axis=-1).T < 1


ORGANS = np.zeros(SHAPE, np.uint8)
ORGANS[ellipsoid((20, 20, 14), (9, 8, 7))] = RIGHT.value
ORGANS[ellipsoid((16, 21, 43), (10, 9, 8))] = LEFT.value
DRAWN = np.zeros(SHAPE, np.uint8)  # by someone with a wider margin
DRAWN[ellipsoid((20, 20.3, 14), (9.5, 8.6, 7.6))] = RIGHT.value
DRAWN[ellipsoid((16, 21, 43.2), (10, 9.4, 8.4))] = LEFT.value


def predicted(labels: np.ndarray) -> Prediction:
    maps = np.array([labels == 1, labels == 2], np.float32)
    return Prediction(labels, maps, np.zeros_like(maps), GRID, (RIGHT, LEFT))


def without(place: tuple[slice, ...]) -> np.ndarray:
    drawn = DRAWN.copy()
    drawn[place] = 0
    return drawn


def with_part(place: tuple[slice, ...], value: int) -> np.ndarray:
    drawn = DRAWN.copy()
    drawn[place] = value
    return drawn


FAULTS: dict[str, tuple[Callable[[], np.ndarray], str, str]] = {
    "swapped": (lambda: np.array([0, 2, 1], np.uint8)[DRAWN], "", "are swapped"),
    "mirrored": (lambda: DRAWN[::-1], "", "superior and inferior are exchanged"),
    "shifted": (lambda: np.roll(DRAWN, 2, axis=0), "", "2 voxels (6 mm) further inferior"),
    "shifted by a slice": (lambda: np.roll(DRAWN, 1, axis=0), "", "1 voxel (3 mm) further inferior"),
    "shifted aslant": (lambda: np.roll(DRAWN, (-1, 2), (0, 1)), "", "superior and 2 voxels (3 mm) further"),
    "of another patient": (lambda: np.roll(DRAWN, 15, axis=2), "", "another patient"),
    "misplaced": (lambda: np.where(DRAWN == 1, 0, DRAWN) + np.roll(DRAWN == 1, 28, 0), "kidney_right", "84 mm from"),
    "misnamed": (lambda: np.where(DRAWN == 1, 2, 0).astype(np.uint8), "kidney_left", "the model sees kidney right"),
    "empty": (lambda: np.where(DRAWN == 1, 0, DRAWN), "kidney_right", "is empty"),
    "a slice missing": (lambda: without(np.s_[20:21, :, :30]), "kidney_right", "missing in 1 axial slice"),
    "every third missing": (lambda: without(np.s_[::3]), "kidney_left", "missing in 6 axial slices"),
    "coarse": (lambda: np.repeat(DRAWN[::2], 2, axis=0), "kidney_left", "every 1 x 1 x 2 voxels"),
    "a stray part": (lambda: with_part(np.s_[2:4, 2:4, 2:5], 1), "kidney_right", "a stray part of 0.08 ml"),
    "a hole": (lambda: without(np.s_[15:17, 20:22, 42:44]), "kidney_left", "a hole of 0.05 ml"),
    "cut": (lambda: with_part(np.s_[20:, 17:24, 11:17], 1), "kidney_right", "cut at the superior edge"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str) -> None:
    make, label, words = FAULTS[fault]
    findings = plain_findings(make().astype(np.uint8), predicted(ORGANS), (RIGHT, LEFT))
    (told,) = [each for each in findings if words in each.sentence and each.label == label]
    assert told.volume_mm3 > 0


def test_another_reader_s_margin_is_no_fault() -> None:
    assert plain_findings(DRAWN, predicted(ORGANS), (RIGHT, LEFT)) == ()
    assert plain_findings(ORGANS, predicted(ORGANS), (RIGHT, LEFT)) == ()


def test_a_place_and_a_size_are_those_of_what_is_wrong() -> None:
    (island,) = plain_findings(with_part(np.s_[2:4, 2:4, 2:5], 1), predicted(ORGANS), (RIGHT, LEFT))
    assert island.centroid_ras == pytest.approx(GRID.to_ras(np.array([2.5, 2.5, 3.0])))
    assert island.volume_mm3 == pytest.approx(12 * GRID.voxel_mm3)


def test_what_the_model_sees_likewise_is_no_fault() -> None:
    """An organ of two parts, with a ring: the model's own has them too."""
    anatomy = ORGANS.copy()
    anatomy[2:4, 2:4, 2:5] = 1
    anatomy[15:17, 20:22, 42:44] = 0
    assert plain_findings(anatomy, predicted(anatomy), (RIGHT, LEFT)) == ()
