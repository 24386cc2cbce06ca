"""The network for nnU-Net's own commands: in evaluation mode it returns the logarithm of the predictive mean."""

from __future__ import annotations

import torch
from torch import Tensor

from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.moments import moments

SMALLEST_PROBABILITY = 1e-7


class PredictiveNetwork(StochasticNetwork):
    """A `StochasticNetwork` that stock nnU-Net can validate and predict with; the state dict is the same.

    In training mode it returns the distribution of the logits. In evaluation mode it returns ln E[p] (B, C, *S):
    nnU-Net blends that over tiles like logits, and its softmax is E[p] again, since E[p] sums to one. Of E[p] itself
    nnU-Net would take a second softmax.
    """

    def distribution(self, x: Tensor) -> LogitGaussian:
        """Compute the distribution of the logits, also in evaluation mode."""
        return super().forward(x)

    def forward(self, x: Tensor) -> LogitGaussian | Tensor:  # type: ignore[override]
        gaussian = self.distribution(x)
        return gaussian if self.training else log_predictive_mean(gaussian)


@torch.compiler.disable
def log_predictive_mean(gaussian: LogitGaussian) -> Tensor:
    """Compute ln E[p] of all classes, background first, (B, C, *S), fp32.

    With more than two classes E[p] is a Monte Carlo mean whose noise is the same in every call: repeatable.
    """
    if gaussian.is_deterministic:
        return gaussian.mean.log_softmax(dim=1)
    generator = torch.Generator(gaussian.mean.device).manual_seed(0)
    foreground = moments(gaussian, generator=generator).mean
    background = 1 - foreground.sum(dim=1, keepdim=True)
    return torch.cat((background, foreground), dim=1).clamp_min(SMALLEST_PROBABILITY).log()
