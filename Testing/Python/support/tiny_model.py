"""A tiny model, and ways to change what is in it, for the tests of the model's rooms."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from MoBUncertaintyLib.model.card import ModelCard
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.network.backbone import StochasticNetwork, build_network
from MoBUncertaintyLib.network.export import write_model

RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset007_Abdomen",
    "plans_name": "tinyPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 80.0, "std": 40.0, "percentile_00_5": -100.0, "percentile_99_5": 250.0}
    },
    "configurations": {
        "3d_fullres": {
            "data_identifier": "tinyPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [8, 8, 8],
            "spacing": [3.0, 1.5, 1.0],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": RESAMPLING,
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": RESAMPLING,
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": RESAMPLING,
            "batch_dice": False,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3]] * 3,
                    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                    "n_blocks_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}
OLD_PLANS: dict[str, Any] = PLANS | {
    "configurations": {
        "3d_fullres": {k: v for k, v in PLANS["configurations"]["3d_fullres"].items() if k != "architecture"}
        | {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 8,
            "n_conv_per_stage_encoder": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "num_pool_per_axis": [1, 1, 1],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
            "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        }
    }
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "pancreas": 1},
    "numTraining": 12,
    "file_ending": ".nii.gz",
}
SPEC = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)


def card(**changes: Any) -> ModelCard:
    return replace(
        ModelCard(
            name="Tiny",
            task="Pancreas in CT.",
            labels=describe_labels({1: "pancreas"}),
            covariance=SPEC,
            configuration="3d_fullres",
            orientation="RAS",
            spacing=(1.0, 1.5, 3.0),
            training={"cases": 12},
            scores={"dice": 0.9},
            licence="CC-BY-4.0",
        ),
        **changes,
    )


def network(seed: int = 0) -> StochasticNetwork:
    torch.manual_seed(seed)
    return build_network(PLANS, DATASET, "3d_fullres", SPEC).eval()


def write_tiny(folder: Path, **changes: Any) -> Model:
    """Write a model of two folds, as a zip if the name says so; `changes` of its card."""
    weights = [(fold, network(fold).state_dict()) for fold in (0, 1)]
    return write_model(folder, card(**changes), PLANS, DATASET, weights)


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place; `change` gets its content."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def rehash(folder: Path) -> None:
    """Make the hashes in `model.json` those of the files, as a careful forger would."""
    edit(
        folder / "model.json",
        lambda content: content.update(
            files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
        ),
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any) -> list[tuple[Any, ...]]:
    """Where every entry of nested JSON is."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in entries for path in [(key,), *((key, *rest) for rest in paths(inner))]]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed
