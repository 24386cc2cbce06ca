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
        factor: Shown is the score times this.
        target: The best value, where neither more nor less is better; such scores are not tested.
        plain: No value is best.
        against: What stands for this score of a model that lacks it, in a test against one that has it: a variance
            is compared with the p (1 - p) of the control, which has no variance; clicks that spread by a model's own
            correlation with the control's, which spread by a stationary one.
    """

    key: str
    title: str
    higher: bool = False
    digits: int = 4
    factor: float = 1.0
    target: float | None = None
    plain: bool = False
    against: str | None = None

    @property
    def header(self) -> str:
        if self.plain:
            return self.title
        if self.target is not None:
            return f"{self.title} → {self.factor * self.target:g}"
        return f"{self.title} {'↑' if self.higher else '↓'}"

    @property
    def tested(self) -> bool:
        """Whether a difference can be better or worse."""
        return self.target is None and not self.plain


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
            against=f"bernoulli.{place}.{name}" if measure == "variance" else None,
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
LIKELIHOOD = Metric("joint.log_likelihood", "Log likelihood, nats", True, 1)
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
    "joint": (
        "What is joint: the whole segmentation, its volume, how far errors reach",
        (
            LIKELIHOOD,
            Metric("joint.gain", "gain of the covariance, nats", True, 1),
            Metric("joint.volume.crps", "CRPS of the volume, mm³", digits=1),
            *(
                Metric(f"joint.volume.covered_{level}", f"{level} % interval holds, %", False, 0, 100.0, level / 100)
                for level in (50, 80, 90)
            ),
            Metric("joint.volume.width_90", "its width, mm³", digits=0, plain=True),
            Metric("joint.lengths.samples", "Correlation length of samples, mm", digits=2, plain=True),
            Metric("joint.lengths.gap", "that of errors differs by, mm", digits=2),
            Metric("bases.share", "Variance of bases at the outline, %", digits=0, factor=100.0, plain=True),
        ),
    ),
    "clicks": (
        "Dice in % after clicks at the largest errors, by the correlation that spreads them",
        (
            Metric("clicks.stationary.dice_1", "after 1, stationary kernel", True, 2, 100.0),
            Metric("clicks.stationary.dice_5", "after 5", True, 2, 100.0),
            Metric("clicks.stationary.elsewhere_5", "elsewhere after 5", True, 2, 100.0),
            *(
                Metric(f"clicks.own.{name}_5", title, True, 2, 100.0, against=f"clicks.stationary.{name}_5")
                for name, title in (("dice", "Dice after 5, the model's own"), ("elsewhere", "elsewhere after 5, own"))
            ),
        ),
    ),
    "raters": (
        "Against several raters",
        (
            Metric("raters.ged", "GED"),
            Metric("raters.ged_segmentation", "GED of the segmentation alone"),
            Metric("raters.matched_iou", "Matched IoU", True),
            Metric("raters.matched_iou_segmentation", "Matched IoU of the segmentation alone", True),
            Metric("raters.probability.box.mae", "|p − q|, box"),
            Metric("raters.probability.ambiguous.mae", "|p − q| where raters differ"),
            Metric("raters.probability.ambiguous.rmse", "RMSE where raters differ"),
        ),
    ),
}
ENDPOINTS = (LIKELIHOOD.key, "joint.volume.crps", "raters.ged", "clicks.own.dice_5")
"""By which covariances are judged: the primary one, then the secondary ones (training/results/MixtureOfBases)."""
BY_LABEL = (
    DICE,
    Metric("median_mm", "Surface distance, median, mm"),
    Metric("hd95_mm", "95 % of it, mm"),
    Metric("volume.nll", "NLL · 10³", factor=1e3),
    Metric("volume.ece", "ECE · 10³", factor=1e3),
    Metric("volume_error", "Volume error, %", factor=100.0),
)
"""Of one label against the rest."""
POOLED = (
    DICE,
    NLL,
    BRIER,
    ECE,
    MCE,
    Metric("box.ece", "ECE, box"),
    Metric("variance.box.auroc", "AUROC of variance, box", True),
    Metric("bernoulli.box.auroc", "AUROC of p (1 − p), box", True),
    Metric("bases.used", "Bases in 5 % of the outline's cells", digits=1, plain=True),
)
