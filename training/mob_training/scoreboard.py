"""Which scores the tables show, and how."""

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
        against: The reference's score that it is tested against, if not the same: a model's variance is compared with
            the p (1 - p) of the control, whose own variance is but the disagreement of overlapping tiles.
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


def _ranking(measure: str, word: str) -> tuple[Metric, ...]:
    against = "bernoulli.box." if measure == "variance" else None
    return tuple(
        Metric(
            f"{measure}.box.{name}",
            f"{name.upper()}{unit} of {word}",
            name in ("auroc", "auprc"),
            digits,
            factor,
            against and against + name,
        )
        for name, unit, digits, factor in (
            ("auroc", "", 4, 1.0),
            ("auprc", "", 4, 1.0),
            ("aurc", " · 10³", 2, 1e3),
            ("augrc", " · 10³", 2, 1e3),
        )
    )


DICE = Metric("dice", "Dice", True, 2, 100.0)
NLL, ECE = Metric("volume.nll", "NLL"), Metric("volume.ece", "ECE", digits=5)
GROUPS: dict[str, tuple[str, tuple[Metric, ...]]] = {
    "scores": (
        "Overlap and calibration, whole volume",
        (
            DICE,
            Metric("nsd_2mm", "NSD at 2 mm", True, 2, 100.0),
            NLL,
            Metric("volume.brier", "Brier", digits=5),
            ECE,
            Metric("volume.mce", "MCE", digits=3),
        ),
    ),
    "box": (
        "Calibration in the box of prediction and truth, 10 mm wider",
        (
            Metric("box.nll", "NLL, box"),
            Metric("box.brier", "Brier, box"),
            Metric("box.ece", "ECE, box"),
            Metric("box.mce", "MCE, box", digits=3),
        ),
    ),
    "variance": ("How well the variance ranks errors, in that box", _ranking("variance", "variance")),
    "bernoulli": ("How well p (1 − p) ranks errors, in that box", _ranking("bernoulli", "p (1 − p)")),
    "entropy": ("How well the entropy ranks errors, in that box", _ranking("entropy", "entropy")),
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
    Metric("volume.brier", "Brier", digits=5),
    ECE,
    Metric("volume.mce", "MCE", digits=3),
    Metric("box.ece", "ECE, box"),
    Metric("variance.box.auroc", "AUROC of variance, box", True),
    Metric("bernoulli.box.auroc", "AUROC of p (1 − p), box", True),
)
