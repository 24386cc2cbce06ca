"""What all displays agree on: the scene in Slicer, pictures, reports and DICOM."""

from __future__ import annotations

from MoBUncertaintyLib.model.region_settings import MAX_VARIANCE

CT_RANGE = (-160.0, 240.0)
"""HU of black and white: the window of the abdomen, 400 wide around 40."""

NEGLIGIBLE = 0.001
"""Below this probability no map reaches a value worth drawing, and derived ones are 0."""

BRIGHTEST_ENTROPY = 0.8
"""Of the heat map's last colour, nats: a little beyond ln 2, where one organ is as likely as not."""

LISTED_REGIONS, DRAWN_REGIONS = 50, 30
"""How many doubtful regions, with the most expected error, pages and pictures show; tables hold all."""


def brightest_variance(threshold: float) -> float:
    """Variance of the heat map's last colour, the same for every case of a model, so that colours can be compared.

    It is 0.08 at the usual threshold, 0.015, where the variance is about 0.3 p (1 - p): a scale up to `MAX_VARIANCE`
    would leave it dark.
    """
    return min(MAX_VARIANCE, threshold * 16 / 3)
