"""Which bases a model takes at an organ's outline, and how much of the variance they carry there (paper, section 3).

A basis belongs to a cell of a tile, so one tile is examined: that with the true organ in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import binary_erosion

from mob_training.evaluation.joint_scores import nearest
from MoBUncertaintyLib.base.geometry import Box, bounding_box, shadows, shape_of, whole
from MoBUncertaintyLib.gaussian.distribution import BasisLoading, LogitGaussian, against_rest
from MoBUncertaintyLib.gaussian.partitions import cell_means, spread_cells
from MoBUncertaintyLib.images.reader import check_image
from MoBUncertaintyLib.inference.preprocessing import Case
from MoBUncertaintyLib.inference.sliding_window import padded_to
from MoBUncertaintyLib.regions.prediction import Precision

if TYPE_CHECKING:
    import SimpleITK as sitk

    from MoBUncertaintyLib.inference.predictor import Predictor

USED = 0.05
"""A basis is used if at least this fraction of the cells that the outlines meet has it."""


@dataclass(frozen=True, eq=False)
class OrganTile:
    """The tile with the true organ in its middle, on the network's grid.

    Attributes:
        case: The way between the network's grid and the image's.
        gaussian: What the first fold says of the tile's logits.
        true: The true label of each voxel, padded to a tile at least.
        inside: Where `true` is not padding.
        box: Where it is the tile.
    """

    case: Case
    gaussian: LogitGaussian
    true: np.ndarray
    inside: Box
    box: Box

    @classmethod
    @torch.no_grad()
    def of(cls, predictor: Predictor, image: sitk.Image, truth: np.ndarray) -> OrganTile:
        """Run the network on the tile about the organs of a label map (z, y, x)."""
        case, tile = predictor.prepare(check_image(image)[0]), predictor.model.tile
        padded, inside = padded_to(case.data, tile)
        true = np.zeros(padded.shape[1:], np.uint8)
        true[inside] = nearest(case.view(truth), shape_of(inside))
        box = _box_about(true > 0, tile)
        engine = predictor.pytorch()
        engine.load(predictor.folds[0], predictor.placement.network, Precision.FLOAT32)  # so that nothing overflows
        gaussian = engine.gaussian(engine.run(engine.uploaded(padded[(slice(None), *box)][None])))
        return cls(case, gaussian, true, inside, box)

    def in_image(self) -> Box:
        """Return the part of the tile that is not padding."""
        ends = [
            (max(a.start, b.start) - b.start, min(a.stop, b.stop) - b.start)
            for a, b in zip(self.inside, self.box, strict=True)
        ]
        return tuple(slice(*one) for one in ends)


@dataclass(frozen=True, eq=False)
class CaseBases:
    """The bases of a case, on the network's grid; 0 outside of the tile.

    Attributes:
        case: The way between the network's grid and the image's.
        share: Fraction of the variance of a label's contrast with the rest that bases carry, mean over the labels.
        chosen: Number of each voxel's basis, from 1 on.
        outline: Whether a voxel lies on the outline of a true label.
        cells: Number of cells that the outline meets, for each basis, (M,).
    """

    case: Case
    share: np.ndarray
    chosen: np.ndarray
    outline: np.ndarray
    cells: np.ndarray

    def share_at_outline(self) -> float:
        """Return the mean share at the outline within the tile; NaN without one."""
        seen = self.outline & (self.chosen > 0)
        return float(self.share[seen].mean()) if seen.any() else float("nan")

    def in_image(self, values: np.ndarray) -> np.ndarray:
        """Bring values from the network's grid to the image's, (z, y, x), by the nearest voxel; 0 elsewhere."""
        result = np.zeros(self.case.frame.image.GetSize()[::-1], np.float32)
        view = self.case.view(result)
        view[:] = nearest(values, view.shape)
        return result


def case_bases(tile: OrganTile) -> CaseBases | None:
    """Examine the bases near the organs; None if the model has no bases."""
    loading, true, box = tile.gaussian.loading, tile.true, tile.box
    if not isinstance(loading, BasisLoading):
        return None
    outline = np.zeros(true.shape, bool)
    for value in range(1, tile.gaussian.num_classes):
        outline |= (true == value) & ~binary_erosion(true == value)
    share, chosen = np.zeros(true.shape, np.float32), np.zeros(true.shape, np.uint8)
    share[box] = _share(tile.gaussian, loading)
    chosen[box], cells = _choice(loading, outline[box])
    return CaseBases(tile.case, share[tile.inside], chosen[tile.inside], outline[tile.inside], cells)


def used_bases(cells: np.ndarray) -> int:
    """Count the bases that are used, from the number of cells with each basis, (M,)."""
    return int(np.count_nonzero(cells >= USED * cells.sum())) if cells.any() else 0


def _box_about(organ: np.ndarray, tile: tuple[int, ...]) -> Box:
    """Place a tile with the organ in its middle, within the volume."""
    extent = bounding_box(shadows(organ)) if organ.any() else whole(organ.shape)
    box = []
    for part, n, size in zip(extent, tile, organ.shape, strict=True):
        start = min(max((part.start + part.stop - n) // 2, 0), size - n)
        box.append(slice(start, start + n))
    return tuple(box)


def _share(gaussian: LogitGaussian, loading: BasisLoading) -> np.ndarray:
    """Compute the `share` of each voxel of a tile."""
    shares, deviation = [], gaussian.variance().sqrt()
    for label in range(1, gaussian.num_classes):
        weights = against_rest(gaussian.mean, label)[1]
        shared, own = (part.square().sum(dim=1)[0] for part in (loading.mixed(weights), weights * deviation))
        shares.append(shared / (shared + own))
    return np.asarray(torch.stack(shares).mean(dim=0).cpu())


def _choice(loading: BasisLoading, outline: np.ndarray) -> tuple[np.ndarray | int, np.ndarray]:
    """Return `chosen` and `cells` of a tile."""
    if loading.choice is None:
        return 1, np.array([int(outline.any())])
    choice = loading.choice.cpu()
    met = cell_means(torch.from_numpy(outline)[None, None].float(), choice.shape[-1])[0, 0] > 0
    spread = spread_cells(choice[0].argmax(dim=0) + 1, outline.shape)
    return spread.numpy(), choice[0][:, met].sum(dim=1).round().int().numpy()
