"""What ordinary cases look like: ranges, limits and false alarms that a card states."""

import copy

import pytest
from scipy import stats

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.model.fingerprint import FalseAlarms, Fingerprint, Level, Ordinary, Suitability


def fingerprint() -> Fingerprint:
    alarms = FalseAlarms(2, 50, "others")
    return Fingerprint(60, "made", {"error": Ordinary(-2.0, 0.1)}, (4.0, 8.0), {}, {}, "torch", "float32", alarms)


@pytest.mark.parametrize(("count", "cases"), [(0, 30), (2, 50), (30, 30), (5, 100)])
def test_the_interval_of_false_alarms_is_exact(count: int, cases: int) -> None:
    exact = stats.binomtest(count, cases).proportion_ci(0.95, "exact")
    assert FalseAlarms(count, cases, "others").interval == pytest.approx((exact.low, exact.high))


def test_false_alarms_are_told_with_their_interval() -> None:
    said = "2 of 50 other ordinary cases (others) were not called ordinary: 4 %, 95 % interval 0.5 to 13.7 %"
    assert FalseAlarms(2, 50, "others").text == said


def test_a_fingerprint_survives_json() -> None:
    made = fingerprint()
    assert Fingerprint.from_dict(to_json(made)) == made


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("limits",), [8.0, 4.0]),
        (("limits",), [4.0]),
        (("measures", "error", "deviation"), 0),
        (("measures", "error"), {"median": 1}),
        (("false_alarms", "count"), 51),
        (("false_alarms",), {"count": 1}),
    ],
)
def test_a_damaged_fingerprint_is_refused(place: tuple[str, ...], value: object) -> None:
    damaged = copy.deepcopy(to_json(fingerprint()))
    inner = damaged
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(SettingsError):
        Fingerprint.from_dict(damaged)
    with pytest.raises(SettingsError):
        Fingerprint.from_dict({"cases": 20})


def test_the_most_serious_reason_comes_first() -> None:
    found = Suitability(deviations={"error": 9.0}).worsened(Level.UNUSUAL, "it is cut").worsened(Level.UNUSUAL, "thick")
    assert found.reasons == ("it is cut", "thick")
    found = found.worsened(Level.NOT_USABLE, "nothing was found").worsened(Level.UNUSUAL, "more")
    assert (found.level, found.reasons) == (Level.NOT_USABLE, ("nothing was found", "it is cut", "thick", "more"))
    assert found.sentence == "This case is not usable: nothing was found; do not use this result."
    assert Suitability.from_dict(found.to_dict()) == found
    assert found.says("Nothing was found.") and not found.says("It is cut.") and not Suitability().says("It is cut.")


def test_an_ordinary_case_has_no_sentence_but_a_text() -> None:
    assert Suitability().sentence is None
    assert Suitability().text == "ordinary"
    assert Suitability(judged=False).text == "not compared with ordinary cases"
