"""A network whose answer is plain to see in the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.network.heads import build_head


class Bright(nn.Module):
    """Takes what is bright for foreground, whatever else is in the tile."""

    def __init__(self, covariance: Covariance = Covariance.DETERMINISTIC, gain: float = 20.0, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.gain = nn.Parameter(torch.tensor(gain))
        self.mean_layer = nn.Conv3d(1, classes, kernel_size=1)  # how many features the organ is described by
        self.head = build_head(CovarianceSpec.of_kind(covariance, rank=2, partitions=2), 1, classes)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logit = self.gain * (x - 0.5)
        return x, torch.cat([torch.zeros_like(logit), logit], dim=1)
