"""Sum up what the network sees where it sees an organ: a few numbers for a tile, by which cases are compared."""

from __future__ import annotations

import torch
from torch import Tensor


def every_second(t: Tensor) -> Tensor:
    """Take every second voxel along each axis of (B, C, *S): an eighth of the work for the same means."""
    return t[..., ::2, ::2, ::2]


def organ_sums(x: Tensor, features: Tensor, mean: Tensor, overlapping: bool = False) -> Tensor:
    """Sum over voxels, each weighted by its probability p of any organ.

    Args:
        x: The network's input, (B, C_in, *S); its first channel counts.
        features: Last feature map, (B, F, *S).
        mean: Mean logits, (B, C, *S).
        overlapping: They are of labels that overlap, without one of the background.

    Returns:
        (B, 3 + F): the sums of p, p x, p x^2 and p times each feature, in fp32.
    """
    x, features, mean = (t.flatten(2).float() for t in (x[:, :1], features, mean))
    p = torch.sigmoid(mean).amax(dim=1) if overlapping else 1 - torch.softmax(mean, dim=1)[:, 0]
    values = torch.cat((torch.ones_like(x), x, x.square(), features), dim=1)
    sums: Tensor = torch.einsum("bvn,bn->bv", values, p)
    return sums
