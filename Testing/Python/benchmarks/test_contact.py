"""The benchmark of contact: what its phantoms show, and how probabilities and intervals are scored."""

import numpy as np
import pytest
import SimpleITK as sitk

import contact
from measurements import LENGTHS_MM
from mob_training.data.phantom import make_phantom

TOUCH = "touch"


def cases_of(probabilities, events) -> dict:
    """Cases of a volume of 9 to 11 ml, stated as 10, in which labels touch or not with the given probabilities."""
    made = {}
    for number, (p, touch) in enumerate(zip(probabilities, events, strict=True)):
        row = [9.0 + number % 3, 10.0, 8.0, 12.0, 8.5, 11.5, 0.5]
        scope = {"volume:organ": row} | {event: [touch, round(p), p] for event in contact.EVENTS}
        made[f"case{number}"] = dict.fromkeys(LENGTHS_MM, scope) | {
            "distances": [0.0 if touch else 4.0] * len(contact.THRESHOLDS)
        }
    return {"test": made, "calibrate": made}


def test_the_duodenum_of_a_phantom_is_what_can_be_seen_of_it() -> None:
    phantom = make_phantom(5, raters=4, spacing=(6.0, 6.0, 6.0))
    labels = contact.label_map(phantom)
    masks = [sitk.GetArrayFromImage(phantom.labels[name]) > 0 for name in ("pancreas", "duodenum")]
    assert np.array_equal(labels == 1, masks[0]) and (labels == 2)[~masks[1]].sum() == 0
    for rater in phantom.raters:  # nobody sees pancreas in it
        assert not ((sitk.GetArrayFromImage(rater) > 0) & (labels == 2)).any()
    fractions = contact.rated(phantom, labels)
    assert all(4 * fraction in range(5) for fraction in fractions.values())
    assert fractions["closer than 2 mm"] >= fractions[TOUCH]


def test_probabilities_are_scored_beside_the_segmentation_and_a_regression() -> None:
    events = [1.0, 0.0] * 10
    sure = cases_of(events, events)
    happened, ways = contact.probabilities(sure, TOUCH, {})
    assert happened.tolist() == events and ways["local, as drawn"].tolist() == events
    assert ways["frequency among the calibration cases"] == pytest.approx(0.5)
    (regression,) = [p for way, p in ways.items() if way.startswith("logistic")]
    assert (regression[happened > 0] > 0.7).all() and (regression[happened < 1] < 0.3).all()
    assert contact.reliability(ways["local, as drawn"], happened) == [(10, 0.0, 0.0), (10, 1.0, 1.0)]
    row = next(line for line in contact.contact_rows(sure, {}) if "frequency among" in line)
    assert "| 0.250 (0.250 to 0.250) | 0.250 (0.250 to 0.250) | 0.000 |" in row


def test_intervals_of_each_way_are_pooled_over_the_labels() -> None:
    rows = contact.interval_rows(cases_of([0.5] * 21, [1.0, 0.0, 1.0] * 7), ["volume:organ"])
    cells = {line.split(" | ")[1]: line.strip("| ").split(" | ")[2:] for line in rows}
    assert len(cells) == 2 * len(LENGTHS_MM) + 1
    assert [cell.split()[0] for cell in cells["local, as drawn"]] == ["1.000", "4.000", "0.500"]
    assert float(cells["local, calibrated"][1].split()[0]) < 4
    assert [cell.split()[0] for cell in cells["residuals alone"]][:2] == ["1.000", "2.000"]
