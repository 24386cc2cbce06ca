"""The scores that tables show, and their format.

The box of prediction and truth is where uncertainty matters, but each model has its own box. Models are best compared
in the whole volume, whose voxels are the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A score in the tables.

    Attributes:
        key: Where it is in a case's scores, parts joined by dots.
        title: Of its column.
        higher: Whether more is better.
        digits: Decimals.
        factor: Shown is the score times this.
        against: Score of the reference to test against, if not the same: a model's variance is compared with the
            p (1 - p) of the control, which has no variance.
    """

    key: str
    title: str
    higher: bool = False
    digits: int = 4
    factor: float = 1.0
    against: str | None = None

    @property
    def header(self) -> str:
        return f"{self.title} {'↑' if self.higher else '↓'}"


BOX_MARGIN_MM = 10.0
"""Margin of the box of prediction and truth."""


def _ranking(measure: str, word: str) -> tuple[Metric, ...]:
    """List the scores of how well an uncertainty map ranks errors, in the whole volume and in the box."""
    per_volume, per_box = (" · 10⁶", 1, 1e6), (" · 10³", 2, 1e3)
    return tuple(
        Metric(
            f"{measure}.{place}.{name}",
            f"{name.upper()}{unit} of {word}, {place}",
            name in ("auroc", "auprc"),
            digits,
            factor,
            f"bernoulli.{place}.{name}" if measure == "variance" else None,
        )
        for place, risk in (("volume", per_volume), ("box", per_box))
        for name, (unit, digits, factor) in (
            ("auroc", ("", 4, 1.0)),
            ("auprc", ("", 4, 1.0)),
            ("aurc", risk),
            ("augrc", risk),
        )
    )


DICE = Metric("dice", "Dice", True, 2, 100.0)
NLL, ECE = Metric("volume.nll", "NLL"), Metric("volume.ece", "ECE", digits=5)
BRIER, MCE = Metric("volume.brier", "Brier", digits=5), Metric("volume.mce", "MCE", digits=3)
GROUPS: dict[str, tuple[str, tuple[Metric, ...]]] = {
    "scores": (
        "Overlap and calibration, whole volume",
        (DICE, Metric("nsd_2mm", "NSD at 2 mm", True, 2, 100.0), NLL, BRIER, ECE, MCE),
    ),
    "box": (
        f"Calibration in the box of prediction and truth, {BOX_MARGIN_MM:g} mm wider",
        (
            Metric("box.nll", "NLL, box"),
            Metric("box.brier", "Brier, box"),
            Metric("box.ece", "ECE, box"),
            Metric("box.mce", "MCE, box", digits=3),
        ),
    ),
    "variance": ("How well the variance ranks errors", _ranking("variance", "variance")),
    "bernoulli": ("How well p (1 − p) ranks errors", _ranking("bernoulli", "p (1 − p)")),
    "entropy": ("How well the entropy ranks errors", _ranking("entropy", "entropy")),
    "raters": (
        "Against several raters",
        (
            Metric("raters.ged", "GED"),
            Metric("raters.ged_segmentation", "GED of the segmentation alone"),
            Metric("raters.probability.box.mae", "|p − q|, box"),
            Metric("raters.probability.ambiguous.mae", "|p − q| where raters differ"),
            Metric("raters.probability.ambiguous.rmse", "RMSE where raters differ"),
        ),
    ),
}
POOLED = (
    DICE,
    NLL,
    BRIER,
    ECE,
    MCE,
    Metric("box.ece", "ECE, box"),
    Metric("variance.box.auroc", "AUROC of variance, box", True),
    Metric("bernoulli.box.auroc", "AUROC of p (1 − p), box", True),
)
