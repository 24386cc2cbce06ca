"""What neighbouring voxels share of errors and of a model's noise, in the space of the classes.

Neighbours share the product of what is wrong at the one and at the other: of C classes with C classes, in rows and
columns of sum 0. Its principal directions say which classes are mistaken for which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from MoBUncertaintyLib.gaussian.distribution import BasisLoading, LogitGaussian
from MoBUncertaintyLib.gaussian.partitions import spread_cells
from MoBUncertaintyLib.model.covariance import Scope, correlation

if TYPE_CHECKING:
    from mob_training.evaluation.bases import OrganTile

SHARED = ("errors", "columns", "diagonal")
SAMPLES = 16
"""Of each voxel by itself, for its mean probability and slopes."""


@torch.no_grad()
def shared_by_neighbours(tile: OrganTile) -> dict[str, list[Any]]:
    """Sum what neighbours share in a tile, over all pairs along the three axes within the image, as nested lists.

    Noise is that of the logits, brought to probabilities by the mean slopes of the softmax, which is what is linear in
    it (Stein's lemma).

    Returns:
        `SHARED`: errors, truth minus mean probability, (C, C); noise of the columns of each basis, (M, C, C), M = 1 for
        a free low rank and 0 without one, of a pair in two cells half and half; noise of the diagonal part, (C, C).
    """
    gaussian, loading = tile.gaussian, tile.gaussian.loading
    shape, inside = tuple(gaussian.logits.shape[2:]), (..., *tile.in_image())
    p, slopes = _linearised(gaussian)
    true = torch.from_numpy(tile.true[tile.box].astype(int)).to(p.device)
    errors = torch.stack([(true == number).to(p) - one for number, one in enumerate(p)])[inside]
    everywhere = torch.ones_like(errors[:1])
    shared = _of_columns(gaussian)
    sums = {"errors": _sum_pairs([errors], np.ones(3), everywhere)[0], "columns": torch.empty(0)}
    if loading is not None:
        choice = loading.choice if isinstance(loading, BasisLoading) else None
        cells = everywhere if choice is None else spread_cells(choice, shape)[0][inside]
        pushed = (_push(slopes, column)[inside] for column in loading.dense()[0].unbind(1))
        sums["columns"] = _sum_pairs(pushed, shared, cells)
    deviation = gaussian.variance()[0].sqrt()
    pushed = ((slopes[:, number] * own)[inside] for number, own in enumerate(deviation))
    sums["diagonal"] = _sum_pairs(pushed, shared * (gaussian.scope is Scope.LOCAL), everywhere)[0]
    return {part: values.tolist() for part, values in sums.items()}


def _linearised(gaussian: LogitGaussian) -> tuple[Tensor, Tensor]:
    """Compute the mean probability at each voxel, (C, *S), and the mean slopes dp_c / d eta_d, (C, C, *S)."""
    alone = replace(gaussian, scope=Scope.VOXEL, lengths=None, shared_fraction=0.0)
    generator = torch.Generator(gaussian.logits.device).manual_seed(0)
    p, products = torch.zeros_like(gaussian.logits[0]), torch.zeros(())
    for _ in range(SAMPLES):
        sample = alone.rsample(1, generator)[0, 0].softmax(dim=0)
        p, products = p + sample / SAMPLES, products + sample[:, None] * sample / SAMPLES
    return p, torch.eye(len(p), device=p.device)[..., None, None, None] * p - products


def _of_columns(gaussian: LogitGaussian) -> np.ndarray:
    """Return the correlation of the columns' noise between neighbours along each axis, (3,)."""
    if gaussian.lengths is None:
        return np.full(3, float(gaussian.scope is Scope.TILE))
    return correlation(np.eye(3), [float(length) for length in gaussian.lengths], gaussian.shared_fraction)


def _push(slopes: Tensor, column: Tensor) -> Tensor:
    """Bring a column of logits, (C, *S), to probabilities."""
    return (slopes * column).sum(dim=1)


def _sum_pairs(columns: Iterable[Tensor], shared: Sequence[float] | np.ndarray, cells: Tensor) -> Tensor:
    """Sum the products of neighbours over columns (C, *S), times what they share along each axis: (M, C, C).

    A voxel counts for each of M parts as `cells`, (M, *S), says, a pair as the mean of its voxels.
    """
    sums = torch.zeros(())
    for column in columns:
        for axis, k in enumerate(shared, start=1):
            pairs = column.shape[axis] - 1
            first, second = (column.narrow(axis, at, pairs).flatten(1) for at in (0, 1))
            weights = sum(cells.narrow(axis, at, pairs) for at in (0, 1)).flatten(1) / 2
            sums = sums + k * ((weights[:, None] * first) @ second.T).double().cpu()
    return (sums + sums.transpose(1, 2)) / 2
