"""The ordinary cases of a model, extended by those of a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.calibration.cases import SiteCase, counted, error_growth
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Ordinary

QUANTILE, NORMAL = 0.95, 1.96
"""This fraction of ordinary cases deviates by less than so many standard deviations."""


def extend_fingerprint(
    fingerprint: Fingerprint, cases: Sequence[SiteCase], temperature: float, keep_probability: bool = False
) -> Fingerprint:
    """Widen what is ordinary so far that it holds a site's cases, measure by measure.

    A review holds how far its case is from the ordinary ones, not on which side: the medians stay, but for that of the
    expected error, which a temperature changes of every case.
    """
    compared = [case for case in cases if case.deviations]
    if not compared:
        return fingerprint
    measures = {}
    for name, ordinary in fingerprint.measures.items():
        seen = [case.deviations[name] for case in compared if name in case.deviations]
        far = float(np.quantile(seen, QUANTILE, method="higher")) / NORMAL if seen else 0.0
        measures[name] = replace(ordinary, deviation=round(ordinary.deviation * max(far, 1.0), 4))
    if "error" in measures:
        own = measures["error"]
        shift = np.mean([error_growth(case.evidence, temperature, keep_probability) for case in cases])
        measures["error"] = Ordinary(round(own.median + float(shift), 4), own.deviation)
    data = f"{fingerprint.data}, and {counted(compared)} on site"
    # How often it is wrong about ordinary cases was measured with the narrower ranges.
    cases_now = fingerprint.cases + len(compared)
    return replace(fingerprint, cases=cases_now, data=data, measures=measures, false_alarms=None)
