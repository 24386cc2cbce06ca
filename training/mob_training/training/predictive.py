"""Networks as trainings use them: for nnU-Net's own commands, and for cases that lack labels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mob_training.data.partial_labels import Missing
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.probability import moments
from MoBUncertaintyLib.network.backbone import StochasticNetwork

SMALLEST_PROBABILITY = 1e-7
NEVER = -1e4
"""Logit of a label that cannot be: finite, since infinities have no gradient."""


class PredictiveNetwork(StochasticNetwork):
    """A `StochasticNetwork` that stock nnU-Net can validate and predict with; the state dict is the same.

    In training mode it returns the distribution of the logits. In evaluation mode it returns ln E[p] (B, C, *S):
    nnU-Net blends that over tiles like logits, and its softmax is E[p] again, since E[p] sums to one. Of E[p] itself
    nnU-Net would take a second softmax.
    """

    @property
    def decoder(self) -> nn.Module:
        """The backbone's, whose deep supervision nnU-Net switches."""
        return self.backbone.decoder  # type: ignore[return-value]

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


def merge_missing(logits: Tensor, missing: Tensor) -> Tensor:
    """Merge the probabilities of labels that a case lacks into its background (Fang & Yan 2020; Shi et al. 2021).

    Cross entropy and Dice of the result are the marginal ones: of the background and all that may hide in it. A missing
    label itself has no probability then, no truth, and no gradient of its own.

    Logits are (B, C, *S), background first; missing, (B, C), is never the background. In the result, fp32, the
    background's logit is the logarithm of the sum, those of missing labels are far below all others.
    """
    logits = logits.float()
    lacked = missing.reshape(*missing.shape, *(1,) * (logits.ndim - 2))
    hidden = lacked.index_fill(1, torch.zeros(1, dtype=torch.long, device=lacked.device), True)
    background = logits.masked_fill(~hidden, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat((background, logits[:, 1:].masked_fill(lacked[:, 1:], NEVER)), dim=1)


def missing_labels(missing: Missing, names: Iterable[str], classes: int) -> Tensor | None:
    """Return which labels some cases lack, (B, C), as `merge_missing` takes it; None if all have all."""
    lacked = [missing.get(name, frozenset()) for name in names]
    if not any(lacked):
        return None
    return torch.tensor([[value in values for value in range(classes)] for values in lacked])


def pad_depth_first(network: nn.Module) -> None:
    """Let the convolutions of a network pad their input's depth in a step of its own; same weights, same results.

    oneDNN has no fast gradient of weights for convolutions that pad the depth on processors with AVX2 alone: there it
    multiplies matrices instead. A step then takes a fifth more time, and several times as much on a busy computer.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            depth, *plane = module.padding
            module.padding = (0, *plane)
            if depth:
                module.register_forward_pre_hook(partial(_pad_depth, depth))


def _pad_depth(depth: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return F.pad(inputs[0], (0, 0, 0, 0, depth, depth))


class MergedNetwork(nn.Module):
    """A network whose logits (B, C, *S), at one resolution or several, are merged (`merge_missing`)."""

    def __init__(self, network: nn.Module, missing: Tensor) -> None:
        super().__init__()
        self.network = network
        self.missing = missing

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits = self.network(x)
        if isinstance(logits, Tensor):
            return merge_missing(logits, self.missing)
        return [merge_missing(scale, self.missing) for scale in logits]
