"""Along which directions, in the space of the classes, neighbouring voxels share errors, and a model's noise.

What two neighbours share is the product of what is wrong at the one and at the other: of C classes with C classes, in
rows and columns of sum 0. Its principal directions say which classes are mistaken for which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.linalg import null_space
from torch import Tensor

from MoBUncertaintyLib.gaussian.arrays import softmax
from MoBUncertaintyLib.gaussian.distribution import BasisLoading
from MoBUncertaintyLib.gaussian.partitions import spread_cells
from MoBUncertaintyLib.model.covariance import Scope

if TYPE_CHECKING:
    from mob_training.evaluation.bases import OrganTile


@torch.no_grad()
def shared_errors(tile: OrganTile) -> dict[str, list[Any]]:
    """Sum what neighbours share in a tile, over all pairs along the three axes, as nested lists.

    Noise is that of the logits, brought to probabilities to the first order at the mean: by the slopes of the softmax,
    p_c (1[c = d] - p_d). How far it reaches is left out: that is the same along all directions.

    Returns:
        `errors`, of truth minus probability, (C, C); `columns`, of the cells with each basis, (M, C, C), M = 1 for a
        free low rank and 0 without one; `diagonal`, (C, C), which voxels share with the scope `local` only.
    """
    gaussian, loading = tile.gaussian, tile.gaussian.loading
    p = softmax(gaussian.logits, 1)[0].float()
    one_hot = torch.eye(len(p), device=p.device)
    true = one_hot[torch.from_numpy(tile.true[tile.box].astype(int)).to(p.device)].movedim(-1, 0)
    columns: list[list[Any]] = []
    if loading is not None:
        choice = loading.choice if isinstance(loading, BasisLoading) else None
        cells = torch.ones_like(p[:1]) if choice is None else spread_cells(choice, tuple(p.shape[1:]))[0]
        pushed = _pushed(p, loading.dense()[0])
        columns = [_of_neighbours(pushed, cell) for cell in cells]
    own = gaussian.variance()[0].sqrt() * (gaussian.scope is Scope.LOCAL)
    diagonal = _pushed(p, one_hot[:, :, None, None, None] * own)
    return {"errors": _of_neighbours((true - p)[:, None]), "columns": columns, "diagonal": _of_neighbours(diagonal)}


def principal_directions(errors: np.ndarray) -> np.ndarray:
    """Find the directions of shared errors, that with most of them first: unit vectors of sum 0, (C - 1, C).

    The largest entry of a label is positive.
    """
    contrasts = null_space(np.ones((1, len(errors))))
    vectors = (contrasts @ np.linalg.eigh(contrasts.T @ errors @ contrasts)[1]).T[::-1]
    return np.array([vector * np.sign(vector[1 + np.abs(vector[1:]).argmax()]) for vector in vectors])


def fractions_along(directions: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Compute what fraction of all that is shared each part, (P, C, C), has along each direction, (C - 1, P)."""
    shared = np.einsum("dc,pce,de->dp", directions, parts, directions)
    return np.asarray(shared / np.trace(parts, axis1=1, axis2=2).sum())


def _pushed(p: Tensor, factors: Tensor) -> Tensor:
    """Bring factors of logits, (C, Q, *S), to probabilities."""
    return p[:, None] * (factors - (p[:, None] * factors).sum(dim=0))


def _of_neighbours(factors: Tensor, counted: Tensor | float = 1.0) -> list[Any]:
    """Sum the products of neighbours over columns and voxels, (C, Q, *S) -> (C, C), and make them symmetric.

    `counted` (*S) is the weight of the first voxel of a pair.
    """
    product = torch.zeros(len(factors), len(factors), dtype=torch.float64)
    for axis in (2, 3, 4):
        pairs = factors.shape[axis] - 1
        first, second = (
            part.narrow(axis, at, pairs).flatten(1) for at, part in enumerate((factors * counted, factors))
        )
        product += (first @ second.T).double().cpu()
    return ((product + product.T) / 2).tolist()
