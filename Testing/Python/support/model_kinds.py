"""Tiny training folders of every kind that nnU-Net makes, and what nnU-Net's own predictor says to an image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from MoBUncertaintyLib.model.folder import Model, load_model
from support.tiny import CONFIGURATION, INTENSITIES, make_dataset, make_plans, write_fold

SIZE = (24, 24, 24)
"""Voxels of an image: one tile, so that nothing is blended."""


def kind_plans(normalisations: Sequence[str] = ("ZScoreNormalization",)) -> dict[str, Any]:
    """Plans of a network with one input channel for each normalisation."""
    plans = make_plans(SIZE, (2.0, 2.0, 2.0))
    planned = plans["configurations"][CONFIGURATION]
    planned["normalization_schemes"] = list(normalisations)
    planned["use_mask_for_norm"] = [False] * len(normalisations)
    channels = map(str, range(len(normalisations)))
    return plans | {"foreground_intensity_properties_per_channel": dict.fromkeys(channels, INTENSITIES)}


def kind_dataset(channels: Sequence[str] = ("MR",), **more: Any) -> dict[str, Any]:
    """A data set of two labels, and with whatever is `more`."""
    names = {str(number): name for number, name in enumerate(channels)}
    return make_dataset(("liver", "spleen")) | {"channel_names": names} | more


def make_kind(
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    configuration: str = CONFIGURATION,
    folds: Sequence[int | str] = (0,),
) -> Model:
    """Write a training folder of a random network, whose logits are far apart, and open it; folds differ a little."""
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for number, fold in enumerate(folds):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nnunets_network(plans, dataset, configuration)
        weights = network.state_dict()
        last = [name for name in weights if "seg_layers" in name][-2:]
        for name in last:
            noise = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(number))
            weights[name] = 30 * weights[name] + 0.2 * number * noise
        write_fold(folder, fold, weights, configuration)
    return load_model(folder)


def nnunets_network(plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> torch.nn.Module:
    """Build the network as nnU-Net does."""
    manager = PlansManager(plans)
    planned = manager.get_configuration(configuration)
    return get_network_from_plans(
        planned.network_arch_class_name,
        planned.network_arch_init_kwargs,
        planned.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, planned, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
    )


def in_slices(plans: dict[str, Any]) -> dict[str, Any]:
    """The same plans with a configuration `2d`, whose slices are those of the image's second axis."""
    planned = json.loads(json.dumps(plans["configurations"][CONFIGURATION]))
    planned |= {"patch_size": planned["patch_size"][1:], "spacing": planned["spacing"][1:]}
    arguments = planned["architecture"]["arch_kwargs"]
    for name in ("kernel_sizes", "strides"):
        arguments[name] = [size[1:] for size in arguments[name]]
    arguments["conv_op"], arguments["norm_op"] = "torch.nn.Conv2d", "torch.nn.modules.instancenorm.InstanceNorm2d"
    transposed = {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    return plans | transposed | {"configurations": {"2d": planned}}


def make_mr(seed: int = 0, shape: Sequence[int] = SIZE, spacing: float = 2.0) -> sitk.Image:
    """An image of smooth noise, float32, no voxel 0."""
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.normal(100, 30, tuple(shape)).astype(np.float32).clip(1))
    image.SetSpacing([spacing] * 3)
    return sitk.SmoothingRecursiveGaussian(image, 2.0)


def stock(
    folder: Path,
    images: Sequence[sitk.Image],
    folds: Sequence[int | str] = (0,),
    first_stage: np.ndarray | None = None,
    mirror: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """What nnU-Net's own predictor makes of the images of a case.

    Args:
        folder: Training folder.
        images: One for each channel.
        folds: Those whose logits are averaged.
        first_stage: Label map of the first stage of a cascade.
        mirror: Mirror as the model allows.

    Returns:
        The label map (z, y, x), and the probabilities (C, z, y, x) of which `nnUNetv2_ensemble` takes the mean.
    """
    predictor = nnUNetPredictor(
        use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), tuple(folds))
    data = np.stack([sitk.GetArrayFromImage(image) for image in images]).astype(np.float32)
    properties = {"spacing": list(images[0].GetSpacing())[::-1]}
    previous = None if first_stage is None else first_stage[None].astype(np.float32)
    labels, probabilities = predictor.predict_single_npy_array(data, properties, previous, None, True)
    return labels, probabilities
