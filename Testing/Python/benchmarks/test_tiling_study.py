"""The study of full and adaptive tiling: its arithmetic on made-up cases, and one small case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import tiling
from MoBUncertaintyLib import read_image
from MoBUncertaintyLib.base.resources import RESOURCES


def cases(difference: float, spread: float = 1e-3, count: int = 20) -> list[dict[str, Any]]:
    """Cases whose Dice differs by that much in the mean; one has no thick error."""
    rows = []
    for number in range(count):
        own = difference + spread * (-1) ** number
        full = {"tiles": 27, "seconds": 3.0, "dice": 0.9, "nll": 0.002, "thick_error_caught": 0.8 if number else None}
        adaptive = full | {"tiles": 10 + number % 2, "seconds": 1.5, "dice": 0.9 + own}
        rows.append({"full": full, "adaptive": adaptive})
    return rows


def test_no_worse_is_what_the_confidence_bound_says() -> None:
    found = tiling.study(cases(0.0))
    dice = found["scores"]["dice"]
    differences = 1e-3 * np.array([1, -1] * 10)
    low, high = stats.t.interval(0.9, 19, loc=0, scale=stats.sem(differences))
    assert (dice["lower_bound"], dice["upper_bound"]) == (pytest.approx(low), pytest.approx(high))
    assert dice["difference"] == pytest.approx(0) and dice["p"] == pytest.approx(1)
    assert low > -tiling.MARGIN and found["no_worse"]
    assert not tiling.study(cases(-0.001))["no_worse"]
    assert not tiling.study(cases(0.0, spread=0.02))["no_worse"], "too few cases to say so"
    assert tiling.study(cases(0.01))["scores"]["dice"]["p"] < 1e-4


def test_cases_without_thick_error_are_left_out_of_its_comparison() -> None:
    scores = tiling.study(cases(0.0))["scores"]
    assert scores["thick_error_caught"]["cases"] == 19 and scores["nll"]["cases"] == 20
    assert scores["thick_error_caught"]["p"] == 1


def test_table_shows_tiles_and_scores() -> None:
    where = {"processor": "Abacus", "load": 1.0}
    studies = {"phantom": tiling.study(cases(0.002))}
    text = tiling.table({"machine": where, "engine": "auto", "studies": studies})
    assert "| tiles | 27.0 | 10.5 | -16.5 | | |" in text
    assert "| tiles, most | 27 | 11 | | | |" in text
    assert "| Dice | 0.9000 | 0.9020 | +0.0020 | +0.0016, +0.0024 |" in text
    assert "thick error caught (19 cases with such error)" in text and "of Dice: yes." in text


def test_a_case_is_predicted_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    image = read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz").image[32:96, 16:80, 16:64]
    truth = np.zeros(image.GetSize()[::-1], np.uint8)
    truth[20:30, 20:40, 20:40] = 1
    monkeypatch.setattr(tiling, "read", lambda kind, number, volumes: (image, truth))
    row = tiling.measure(("phantom", 0, str(Path()), "torch"))
    assert row["full"]["tiles"] == row["adaptive"]["tiles"] == 1
    scores = [{name: row[way][name] for name in tiling.SCORES} for way in ("full", "adaptive")]
    assert scores[0] == scores[1] and 0 <= scores[0]["dice"] < 1 and scores[0]["nll"] > 0
