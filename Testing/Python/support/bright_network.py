"""A network whose answer is plain to see in the image, and PyTorch's engine on networks of no model."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from MoBUncertaintyLib.inference.torch_engine import TorchEngine
from MoBUncertaintyLib.model.card import Fold
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


class BareEngine(TorchEngine):
    """The engine of networks by their folds.

    Args:
        network_of: Gives the network of a fold.
        classes: C, background included.
        samples, wanted: As for `moments`.
    """

    def __init__(
        self,
        network_of: Callable[[Fold], nn.Module],
        classes: int,
        samples: int | None = None,
        wanted: tuple[int, ...] | None = None,
    ) -> None:
        self.classes, self.overlapping = classes, False
        self.samples, self.wanted = samples, wanted
        self._given, self._device = network_of, torch.device("cpu")
        self._networks = {}

    def network_of(self, fold: Fold, device: str = "cpu") -> nn.Module:
        return self._networks.setdefault(fold, self._given(fold))
