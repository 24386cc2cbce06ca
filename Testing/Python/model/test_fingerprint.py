"""What ordinary cases look like: the density of features, and what a card states of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy import stats

from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.model.fingerprint import Density, Fingerprint, Level, Ordinary, Suitability


def features(cases: int, size: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 3 + rng.normal(size=(cases, 3)) @ rng.normal(size=(3, size)) * 2 + rng.normal(0, 0.3, (cases, size))


def fingerprint() -> Fingerprint:
    density = Density.fit(features(60), 3)
    return Fingerprint(60, "made", {"error": Ordinary(-2.0, 0.1), "features": Ordinary(0.0, 0.2)}, density, (4.0, 8.0))


def test_the_distance_is_that_of_the_gaussian_of_its_components() -> None:
    known = features(4000)
    density = Density.fit(known, 3)
    axes = np.array(density.axes)
    spread = np.diag(np.square(density.deviations) - density.residual**2)
    covariance = axes.T @ spread @ axes + density.residual**2 * np.eye(12)
    for case in features(5, seed=1):
        gaussian = stats.multivariate_normal(density.centre, covariance)
        squared = -2 * (gaussian.logpdf(case) - gaussian.logpdf(density.centre))
        assert density.distance(case) == pytest.approx(np.sqrt(squared / 12), rel=1e-3)


def test_ordinary_features_are_about_one_away_and_others_far() -> None:
    density = Density.fit(features(200), 3)
    ordinary = [density.distance(case) for case in features(200)]
    assert np.sqrt(np.mean(np.square(ordinary))) == pytest.approx(1, rel=0.05)
    assert density.distance(features(1)[0] + 5 * np.random.default_rng(2).normal(size=12)) > 5


def test_a_density_needs_more_cases_than_axes() -> None:
    with pytest.raises(ValueError, match="rank 8 needs more than 9 cases, these are 9"):
        Density.fit(features(9), 8)


def test_a_fingerprint_survives_json() -> None:
    made = fingerprint()
    assert Fingerprint.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("limits",), [8.0, 4.0]),
        (("limits",), [4.0]),
        (("measures", "error", "deviation"), 0),
        (("measures", "error"), {"median": 1}),
        (("density", "residual"), float("nan")),
        (("density", "axes"), [[1.0]]),
        (("density", "centre"), "three"),
        (("density",), None),
    ],
)
def test_a_damaged_fingerprint_is_refused(place: tuple[str, ...], value: object) -> None:
    damaged = copy.deepcopy(fingerprint().to_dict())
    inner = damaged
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(SettingsError, match="fingerprint is not as it should be"):
        Fingerprint.from_dict(damaged)
    with pytest.raises(SettingsError, match=r"fingerprint is not as it should be \(it lacks 'density'\)"):
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
