"""Build nnU-Net's backbone from its plans, with a covariance head on its last feature map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from MoBUncertaintyLib.base.errors import ModelError, is_out_of_memory
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.nnunet.dataset import has_regions
from MoBUncertaintyLib.model.nnunet.plans import check_plans
from MoBUncertaintyLib.network.heads import CovarianceHead, build_head, project


class MeanLayer(nn.Conv3d):
    """The backbone's last segmentation layer, which also returns its input. Runs in fp32.

    It keeps the names of its parameters, so that an nnU-Net checkpoint loads unchanged. A hook would do the same, but
    break `torch.compile`'s graph.
    """

    def __init__(self, layer: nn.Conv3d) -> None:
        super().__init__(layer.in_channels, layer.out_channels, kernel_size=1)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        with torch.autocast(device_type=features.device.type, enabled=False):
            features = features.float()
            return features, project(features, self)[0]


class StochasticNetwork(nn.Module):
    """Image tile (B, C_in, *S) -> `LogitGaussian` over its logits; mean = the backbone's last segmentation layer.

    Args:
        backbone: An nnU-Net network for `classes` classes whose `decoder` has `seg_layers`.
        spec: Covariance head on its last feature map.
        classes: Number of classes C, background included.
        spacing: Voxel size along the axes of the input, mm; needed for the scope `local`.
        overlapping: The classes overlap, and there is no background among them.

    Raises:
        ModelError: The architecture has no decoder with segmentation layers, or is not three-dimensional.
    """

    def __init__(
        self,
        backbone: nn.Module,
        spec: CovarianceSpec,
        classes: int,
        spacing: Sequence[float] | None = None,
        overlapping: bool = False,
    ) -> None:
        super().__init__()
        decoder = getattr(backbone, "decoder", None)
        layers = getattr(decoder, "seg_layers", None)
        if decoder is None or not layers or not isinstance(layers[-1], nn.Conv3d):
            raise ModelError(
                f"The architecture {type(backbone).__name__} has no 3D decoder with segmentation layers; "
                "train with one of nnU-Net's U-Nets."
            )
        decoder.deep_supervision = False
        layers[-1] = MeanLayer(layers[-1])
        self.backbone = backbone
        self.head = build_head(spec, layers[-1].in_channels, classes, spacing)
        self.spec = spec
        self.classes = classes
        self.overlapping = overlapping

    @property
    def mean_layer(self) -> MeanLayer:
        """The backbone's last segmentation layer."""
        layer: MeanLayer = self.backbone.decoder.seg_layers[-1]  # type: ignore[union-attr, index, assignment]
        return layer

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the last feature map (B, F, *S), which the head sees, and the mean logits (B, C, *S), both fp32."""
        features, mean = self.backbone(x)
        return features, mean

    def forward(self, x: Tensor) -> LogitGaussian:
        features, mean = self.features(x)
        gaussian: LogitGaussian = LogitGaussian(mean) if self.head is None else self.head(features, mean)
        return gaussian


def build_network(
    plans: dict[str, Any], dataset: dict[str, Any], configuration: str, spec: CovarianceSpec
) -> StochasticNetwork:
    """Build the network of an nnU-Net configuration, with random weights.

    Args:
        plans: Content of `plans.json`; its strings name classes to import, so it is checked by `check_plans`.
        dataset: Content of `dataset.json`.
        configuration: For example `3d_fullres`.
        spec: Covariance head.

    Raises:
        ModelError: The plans do not describe a network that can be built.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    check_plans(plans, configuration)
    manager = PlansManager(plans)
    configured = manager.get_configuration(configuration)
    classes = manager.get_label_manager(dataset).num_segmentation_heads
    try:
        backbone = get_network_from_plans(
            configured.network_arch_class_name,
            configured.network_arch_init_kwargs,
            configured.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, configured, dataset),
            classes,
            deep_supervision=False,
        )
    except Exception as error:  # plans can be wrong in as many ways as networks have arguments
        if is_out_of_memory(error):
            raise ModelError(
                "There is not enough memory for the network planned in plans.json; close other programs and try again."
            ) from error
        raise ModelError(
            f"The network planned in plans.json cannot be built ({error}); export the model again."
        ) from error
    return StochasticNetwork(backbone, spec, classes, configured.spacing, has_regions(dataset))


def load_network(model: Model, fold: Fold) -> StochasticNetwork:
    """Load the network of one fold with its trained weights, in evaluation mode on the CPU.

    Raises:
        ModelError: The weights do not fit the network that the plans and the covariance describe.
    """
    network = planned_network(model)
    network.load_state_dict(fitting_weights(network, model, fold), assign=True)
    return network.eval()


def planned_network(model: Model) -> StochasticNetwork:
    """Build the network of a model without allocating its weights, which are loaded next, or only compared.

    Raises:
        ModelError: The plans do not describe a network that can be built.
    """
    with torch.device("meta"):
        return build_network(model.plans, model.dataset, model.card.configuration, model.card.covariance)


def fitting_weights(network: StochasticNetwork, model: Model, fold: Fold) -> dict[str, Tensor]:
    """Read the weights of one fold, checked to have the names, shapes and kinds of the network's.

    Raises:
        ModelError: They do not fit the network.
    """
    weights, planned = model.state_dict(fold), network.state_dict()
    for name, value in weights.items():
        if value.ndim == 4 and name in planned and planned[name].ndim == 5:  # a 2D kernel, see `in_3d`
            weights[name] = value.unsqueeze(2)
    names = [*planned, *(name for name in weights if name not in planned)]
    wrong = [name for name in names if _form(weights.get(name)) != _form(planned.get(name))]
    if wrong:
        raise ModelError(
            f"The weights of fold {fold} do not fit the network in plans.json ({len(wrong)} of {len(planned)} tensors "
            f"are missing, or of another size or kind, the first is '{wrong[0][:80]}'); export the model again."
        )
    return weights


def _form(tensor: Tensor | None) -> tuple[object, ...] | None:
    """Return shape and kind: the weights are real numbers, what counts batches is whole ones."""
    return None if tensor is None else (tensor.is_floating_point(), *tensor.shape)


@torch.no_grad()
def divide_logits(network: StochasticNetwork, temperature: float) -> None:
    """Divide a network's logits by a temperature (Guo et al. 2017), in its weights: what runs them need not know of it.

    The random logits are divided, eta / T: mean and loading by T, the variance by T^2. So probabilities, variances and
    what clicks make of both follow.
    """
    _divide_layers([network.mean_layer], temperature)
    if network.head is not None:
        divide_head(network.head, temperature)


@torch.no_grad()
def divide_head(head: CovarianceHead, temperature: float) -> None:
    """Divide the noise that a head adds to the logits by a temperature, by changing its weights."""
    # The clamp stays as it is; no variance is near its limits.
    assert head.log_variance.bias is not None
    head.log_variance.bias -= 2 * math.log(temperature)
    _divide_layers(head.loading_layers, temperature)


def _divide_layers(layers: Iterable[nn.Conv3d], temperature: float) -> None:
    for layer in layers:
        layer.weight /= temperature
        if layer.bias is not None:
            layer.bias /= temperature
