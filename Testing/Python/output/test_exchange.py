"""What a worker answers and a scene keeps comes back as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.output.exchange import KEPT, read_prediction, write_prediction
from MoBUncertaintyLib.output.results_record import RecordError
from support.fake_case import fake_case


def test_a_prediction_comes_back_with_all_that_it_knows() -> None:
    case = fake_case()
    own = replace(
        case.prediction,
        predicted_part=(slice(0, 3), slice(1, 4), slice(0, 2)),
        correlation_mm=(3.0, 4.5, 6.0),
        click_settings=ClickSettings(length_mm=2.5, strength=8.0),
    )
    fields = write_prediction(own, case.regions, lambda _name, array: array)
    assert set(KEPT) <= set(fields)
    found = read_prediction(fields, own.grid)
    for name in ("segmentation", "probability", "variance"):
        assert np.array_equal(getattr(found, name), getattr(own, name))
    for name in ("labels", "warnings", "timings", "click_settings", "processed_box", "correlation_mm"):
        assert getattr(found, name) == getattr(own, name)


def test_what_is_older_has_the_usual_settings_and_all_of_the_image() -> None:
    case = fake_case()
    fields = write_prediction(case.prediction, case.regions, lambda _name, array: array)
    del fields["provenance"]["click_settings"]
    found = read_prediction(fields, case.prediction.grid)
    assert found.click_settings == ClickSettings()
    assert [part.start for part in found.processed_box] == [0, 0, 0]
    assert tuple(part.stop for part in found.processed_box) == found.shape


@pytest.mark.parametrize("wrong", [4.0, [4.0, 4.0], [4.0, 4.0, 0.0], [4.0, 4.0, 1e300], [4.0, 4.0, "4"]])
def test_lengths_that_cannot_be_are_refused(wrong: object) -> None:
    case = fake_case()
    fields = write_prediction(case.prediction, case.regions, lambda _name, array: array)
    fields["provenance"]["correlation_mm"] = wrong
    with pytest.raises(RecordError):
        read_prediction(fields, case.prediction.grid)


@pytest.mark.parametrize("wrong", [{"strength": -1}, {"length": 3}, [3], {"prior_deviation": "1"}])
def test_settings_of_clicks_that_cannot_be_are_refused(wrong: object) -> None:
    case = fake_case()
    fields = write_prediction(case.prediction, case.regions, lambda _name, array: array)
    fields["provenance"]["click_settings"] = wrong
    with pytest.raises(RecordError):
        read_prediction(fields, case.prediction.grid)
