"""Random Gaussians over the logits of a small tile."""

import torch
from torch import Tensor

from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.network.heads import build_head

STOCHASTIC = [kind for kind in Covariance if kind is not Covariance.DETERMINISTIC]


SHAPE = (5, 4, 6)


def gaussian_of(kind: Covariance, classes: int = 3, **options) -> LogitGaussian:
    """A random Gaussian from a random head, with noise far from its initial values."""
    torch.manual_seed(0)
    spec = CovarianceSpec(**{"kind": kind, "scope": kind.usual_scope, "rank": 4, "partitions": 3} | options)
    head = build_head(spec, features=6, classes=classes, spacing=(1.0, 1.0, 1.0)).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        return head(torch.randn(1, 6, *SHAPE), torch.randn(1, classes, *SHAPE))


def contrast_of(gaussian: LogitGaussian) -> tuple[Tensor, Tensor]:
    """Mean m (*S) of eta_1 - eta_0, and u (R + 2, *S) with eta_1 - eta_0 = m + u . z, z = (z2, z1 of both logits)."""
    deviation = gaussian.variance()[0].sqrt()
    factors = torch.stack((-deviation[0], deviation[1]))
    if gaussian.loading is not None:
        dense = gaussian.loading.dense()[0]
        factors = torch.cat((dense[1] - dense[0], factors))
    return gaussian.contrast()[0][0], factors
