"""A case as a simulated reader sees it: a prediction, its regions and the truth, cut to where something may happen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mob_training.evaluation.case_scores import NSD_MM, ScoredCase, surface_scores
from MoBUncertaintyLib.base.geometry import Box, bounding_box, shadows, within
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions

if TYPE_CHECKING:
    import SimpleITK as sitk

MARGIN_MM = 12.0
"""A case is cut to where a reader may click, and this much wider."""


@dataclass(frozen=True, eq=False)
class ReadCase:
    """A prediction to review, cut, and the truth (z, y, x).

    The doubtful regions, and the expected error elsewhere, in mm3, are of before the cut. The image is only for what
    corrects by it (`baselines`).
    """

    prediction: Prediction
    truth: np.ndarray
    regions: Regions
    elsewhere_mm3: float
    image: np.ndarray | None = None

    @classmethod
    def of(
        cls, prediction: Prediction, truth: sitk.Image, settings: RegionSettings, image: np.ndarray | None = None
    ) -> ReadCase:
        """Find the regions of a prediction of a whole image, and cut what no reader looks at.

        Raises:
            ImageError, SettingsError: As for `ScoredCase.of`.
        """
        true = ScoredCase.of(prediction, truth).truth
        regions = find_regions(prediction, settings)
        used = (prediction.segmentation > 0) | (true > 0) | (regions.whole_map() > 0)
        box = bounding_box(shadows(used), np.ceil(MARGIN_MM / prediction.grid.spacing).tolist())
        part = cut(prediction, box)
        shape = part.shape
        listed = Regions(regions.ranked, regions.map, within(regions.box, box), shape, regions.settings)
        elsewhere = prediction.expected_error_mm3 - part.expected_error_mm3
        return cls(part, true[box], listed, elsewhere, None if image is None else image[box])

    def unclicked(self) -> np.ndarray:
        """Mark no voxel."""
        return np.zeros(self.truth.shape, bool)

    def wrong(self, segmentation: np.ndarray) -> np.ndarray:
        """Find the voxels that have another label than the truth."""
        return np.asarray(segmentation != self.truth)

    def dice(self, segmentation: np.ndarray, mask: np.ndarray | bool = True) -> float:
        """Compute the Dice of a segmentation inside a mask, mean over the labels."""
        counts = np.bincount((segmentation.astype(np.intp) * 256 + self.truth)[mask].ravel(), minlength=256**2)
        table = counts.reshape(256, 256)  # voxels by label and true label
        both, either = table.diagonal(), table.sum(0) + table.sum(1)
        values = [label.value for label in self.prediction.labels]
        return float(np.mean(np.divide(2 * both, either, out=np.ones(256), where=either > 0)[values]))

    def scores(self, now: Prediction, clicked: np.ndarray, surfaces: bool = True) -> dict[str, float]:
        """Score what a reader has made of the prediction; `clicked` voxels were labelled one by one.

        Return `dice`, and `dice_elsewhere`, of the voxels that were not clicked; `nsd_2mm`; `error_mm3`, what is wrong,
        and `expected_error_mm3`, what the probabilities say of it; `corrected_mm3` and `harmed_mm3`, the voxels not
        clicked that became right or wrong. Dice and NSD are means over the labels.
        """
        voxel, spacing = now.grid.voxel_mm3, now.grid.spacing
        others = ~clicked
        before, after = self.wrong(self.prediction.segmentation), self.wrong(now.segmentation)
        scores = {
            "dice": self.dice(now.segmentation),
            "dice_elsewhere": self.dice(now.segmentation, others),
            "error_mm3": voxel * np.count_nonzero(after),
            "expected_error_mm3": self.elsewhere_mm3 + now.expected_error_mm3,
            "corrected_mm3": voxel * np.count_nonzero(before & ~after & others),
            "harmed_mm3": voxel * np.count_nonzero(after & ~before & others),
        }
        if surfaces:
            pairs = [(now.segmentation == label.value, self.truth == label.value) for label in now.labels]
            scores["nsd_2mm"] = float(np.mean([surface_scores(a, b, spacing, NSD_MM)["nsd"] for a, b in pairs]))
        return scores


def cut(prediction: Prediction, box: Box) -> Prediction:
    """Cut a prediction to a box, with copies of its maps."""
    grid = prediction.grid
    start = np.array([part.start for part in box])
    probability, variance = (
        np.array([one[box] for one in maps], np.float32) for maps in (prediction.probability, prediction.variance)
    )
    return replace(
        prediction,
        segmentation=prediction.segmentation[box].copy(),
        probability=probability,
        variance=variance,
        grid=replace(grid, origin=grid.to_ras(start)),
        # What was processed is all of what is left: a click elsewhere has nothing to move.
        predicted_part=None,
    )
