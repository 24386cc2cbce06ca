"""How well uncertainty ranks errors: ROC, precision-recall, and risk-coverage curves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import digamma

from mob_training.evaluation.metrics.calibration import BINS

MAX_VALUES = 2**22


@dataclass(eq=False)
class ErrorRanking:
    """Counts of right and wrong voxels for each uncertainty. Rankings of cases add up, voxels are not kept.

    A table of the distinct pairs of uncertainty and error, which is exact up to `most` pairs. With more, the last bits
    of the values are dropped until the table fits. The steps of the precision-recall curve then grow as 1 / `most`, the
    other curves keep their areas: with a table of 2^16 AUPRC changes by 1e-5 and the others by less than 1e-6 (tested).

    Attributes:
        keys: The pairs, sorted, uint32: the bits of the uncertainty as float32, which are ordered like the numbers,
            then one bit that says whether the label is wrong.
        counts: Number of voxels of each pair, int64.
        dropped: Number of low bits of the uncertainty that are ignored.
        waiting: Rankings that were added and not merged yet: to sort all at once is faster than one by one.
    """

    most: int = MAX_VALUES
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    dropped: int = 0
    waiting: list[ErrorRanking] = field(default_factory=list)

    @classmethod
    def of(cls, uncertainty: np.ndarray, error: np.ndarray) -> ErrorRanking:
        """Rank the voxels of one case exactly: uncertainties, not negative, in single precision, and where it errs."""
        values = np.maximum(np.asarray(uncertainty, np.float32), np.float32(0)).ravel()  # -0.0 becomes 0.0
        keys = (values.view(np.uint32) << np.uint32(1)) | np.asarray(error, bool).ravel()
        keys, counts = np.unique(keys, return_counts=True)
        return cls(max(MAX_VALUES, len(keys)), keys, counts)

    def add(self, other: ErrorRanking) -> None:
        """Add the voxels of another ranking to this one."""
        self.waiting += [other, *other.waiting]
        if sum(len(each.keys) for each in self.waiting) > self.most:
            self._merge()

    def _merge(self) -> None:
        every = (self, *self.waiting)
        self.dropped = max(each.dropped for each in every)
        keys, counts = (np.concatenate([getattr(each, name) for each in every]) for name in ("keys", "counts"))
        self.waiting = []
        while True:
            # The last bits of the uncertainty become 0, the bit of the error is kept.
            mask = np.uint32((0xFFFFFFFF << (self.dropped + 1) & 0xFFFFFFFF) | 1)
            self.keys, place = np.unique(keys & mask, return_inverse=True)
            self.counts = np.bincount(place, weights=counts, minlength=len(self.keys)).astype(np.int64)
            if len(self.keys) <= self.most:
                return
            self.dropped += 1
            keys, counts = self.keys, self.counts

    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return distinct uncertainties, descending, the voxels of each, and how many of those are wrong; each (n,)."""
        if self.waiting:
            self._merge()
        values, place = np.unique(self.keys >> np.uint32(1), return_inverse=True)
        wrong = np.bincount(place, weights=self.counts * (self.keys & 1), minlength=len(values))
        count = np.bincount(place, weights=self.counts, minlength=len(values))
        return values.view(np.float32)[::-1], count[::-1], wrong[::-1]

    def scores(self) -> dict[str, float]:
        """Compute `auroc`, `auprc`, `aurc` and `augrc`; undefined scores are NaN.

        Voxels of equal uncertainty have no order, so every score is its expectation over their orders:

        - AUROC: probability that a wrong voxel is more uncertain than a right one, ties count half.
        - AUPRC: average precision, sum of (R_n - R_(n-1)) P_n over the distinct values, as scikit-learn defines it.
        - AURC (Geifman & El-Yaniv 2017): mean over i of the fraction of wrong voxels among the i most certain ones.
        - AUGRC (Traub et al. 2024): area under (wrong voxels among the accepted) / (all voxels) over the coverage.
        """
        _, count, wrong = self.table()
        n, errors = count.sum(), wrong.sum()
        right = count - wrong
        if not n:
            return dict.fromkeys(("auroc", "auprc", "aurc", "augrc"), float("nan"))
        seen_wrong, seen = np.cumsum(wrong), np.cumsum(count)
        auroc = auprc = float("nan")
        if errors:
            auprc = float((wrong * seen_wrong / seen).sum() / errors)
        if errors and errors < n:
            auroc = float((right * (seen_wrong - wrong / 2)).sum() / errors / (n - errors))
        return {"auroc": auroc, "auprc": auprc, **_risks(count[::-1], wrong[::-1])}

    def binned(self, top: float, bins: int = BINS) -> dict[str, list[float]]:
        """Return mean `uncertainty`, fraction of wrong voxels (`error`) and `count` in equal bins from 0 to `top`.

        The first two are NaN for an empty bin.
        """
        values, count, wrong = self.table()
        index = np.clip((values / top * bins).astype(int), 0, bins - 1)
        total, missed, summed = (np.bincount(index, one, minlength=bins) for one in (count, wrong, values * count))
        divisor = np.where(total, total, np.nan)
        return {
            "uncertainty": (summed / divisor).tolist(),
            "error": (missed / divisor).tolist(),
            "count": total.astype(int).tolist(),
        }


def _risks(count: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Compute AURC and AUGRC from the voxels of each uncertainty, lowest first.

    After the `before` voxels of lower uncertainty, i - before voxels of a group of k with e wrong ones hold
    e / k (i - before) wrong ones in expectation. The mean of (wrong so far) / i over the group's i is thus a sum of
    1 / i, a difference of digamma functions. The generalised risk is linear in i, so its area is a trapezium.
    """
    n = count.sum()
    before, wrong_before = np.cumsum(count) - count, np.cumsum(wrong) - wrong
    rate = wrong / count
    harmonic = digamma(before + count + 1) - digamma(before + 1)
    aurc = (rate * count + (wrong_before - rate * before) * harmonic).sum() / n
    augrc = (count * (wrong_before + wrong / 2)).sum() / n**2
    return {"aurc": float(aurc), "augrc": float(augrc)}
