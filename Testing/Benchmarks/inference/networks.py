"""The checkpoints: each as a stock nnU-Net training folder and, with its covariance head, as a model of ours.

The backbone's weights are the same in both.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inference.tasks import network_name
from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.network.backbone import StochasticNetwork, build_network, load_network

CONFIGURATION = "3d_fullres"
SMALL = "PhantomPancreas"
# Of TotalSegmentator's CTs, which the paper's networks were trained on: spacing, and a typical abdomen, z y x.
PLANNED_SPACING, PLANNED_MM = 1.5, (300.0, 384.0, 384.0)
ORGAN_IS_RARE = 8.0
"""Added to the background's logit of random weights. In a trained network background wins almost everywhere; random
weights would call half of the body doubtful, and the regions of noise would be measured."""


def make_network(folder: Path, name: str) -> dict[str, Any]:
    """Write what `stock_folder` and `model_folder` name, unless it is there; returns what the network is.

    Args:
        folder: The benchmark's.
        name: `small`, `large`, or the path of a model with a covariance head.
    """
    target = network_folder(folder, name)
    if not (target / "about.json").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if name == "large":
            network, plans, dataset = _large()
            write_training_folder(target / "model", network, plans, dataset)
        else:
            model = find_network(name)
            network, plans, dataset = load_network(model, model.folds[0]), model.plans, model.dataset
            _copy_model(model, target / "model")
        write_training_folder(target / "stock", network, plans, dataset, stock=True)
        about = describe(network, plans, random=name == "large")
        (target / "about.json").write_text(json.dumps(about), encoding="utf-8")  # last: it says that all is there
    return json.loads((target / "about.json").read_text(encoding="utf-8"))


def find_network(name: str) -> Model:
    """The model that is `small`, or that a path names.

    Raises:
        ModelError: There is none, or it is not of the kind that is measured.
    """
    model = load_model(find_model(SMALL if name == "small" else name))
    if model.card.covariance.kind is not Covariance.MIXTURE_OF_BASES or len(model.card.labels) != 1:
        raise ModelError(f"The benchmark needs a Mixture-of-Bases model of one organ; {name} is none.")
    return model


def network_folder(folder: Path, name: str) -> Path:
    """Where a network's folders are; a path is known by its last part."""
    return folder / "networks" / network_name(name)


def stock_folder(folder: Path, name: str) -> Path:
    """The stock results folder: deterministic, `fold_0/checkpoint_final.pth`."""
    return network_folder(folder, name) / "stock"


def open_model(folder: Path, name: str) -> Model:
    """The model with its covariance head."""
    return load_model(network_folder(folder, name) / "model")


def describe(network: StochasticNetwork, plans: dict[str, Any], random: bool) -> dict[str, Any]:
    """What the tables say of a network."""
    configuration = plans["configurations"][CONFIGURATION]

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    return {
        "backbone_parameters": count(network.backbone),
        "head_parameters": count(network.head),
        "patch": [int(n) for n in configuration["patch_size"]],
        "spacing_mm": [float(s) for s in configuration["spacing"]],
        "random_weights": random,
    }


def _copy_model(model: Model, target: Path) -> None:
    """Its first fold only, since the stock folder has one."""
    if model.path.is_file() or len(model.folds) > 1:
        network = load_network(model, model.folds[0])
        plans = model.plans | {"covariance": _stated(model.card.covariance)}
        dataset = model.dataset | ({"orientation": model.card.orientation} if model.card.orientation else {})
        write_training_folder(target, network, plans, dataset)
    else:
        shutil.copytree(model.path, target)


def write_training_folder(
    folder: Path, network: StochasticNetwork, plans: dict[str, Any], dataset: dict[str, Any], stock: bool = False
) -> None:
    """A results folder as nnU-Net leaves it; `stock`: without the head, and with nnU-Net's own names of weights."""
    weights = network.state_dict()
    if stock:
        plans = {key: value for key, value in plans.items() if key not in ("covariance", "finetuning")}
        weights = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    checkpoint = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION, "fold": 0},
        "inference_allowed_mirroring_axes": None,
        "current_epoch": 1,
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def _large() -> tuple[StochasticNetwork, dict[str, Any], dict[str, Any]]:
    """nnU-Net's residual encoder L as it plans it for abdominal CTs, random weights, and a Mixture-of-Bases head."""
    spec = CovarianceSpec()
    model = load_model(find_model(SMALL))
    plans = plan_large(model.dataset, model.plans["foreground_intensity_properties_per_channel"])
    plans["covariance"] = _stated(spec)
    torch.manual_seed(0)
    network = build_network(plans, model.dataset, CONFIGURATION, spec).eval()
    with torch.no_grad():
        network.backbone.decoder.seg_layers[-1].bias[0] += ORGAN_IS_RARE
    return network, plans, model.dataset


def plan_large(dataset: dict[str, Any], intensities: dict[str, Any]) -> dict[str, Any]:
    """The plans that nnU-Net's own planner makes for CTs of `PLANNED_MM`.

    The planner wants a data set's fingerprint and an example of its files. Both are written where the environment says
    that nnU-Net's data lie (see `run.environment`), and removed.
    """
    from mob_training.training.planning import PLANNERS
    from mob_training.training.settings import Preset

    name = "Dataset705_Benchmark"
    raw, preprocessed = (Path(os.environ[f"nnUNet_{part}"]) / name for part in ("raw", "preprocessed"))
    shape = [round(mm / PLANNED_SPACING) for mm in PLANNED_MM]
    fingerprint = {
        "spacings": [[PLANNED_SPACING] * 3],
        "shapes_after_crop": [shape],
        "foreground_intensity_properties_per_channel": intensities,
        "median_relative_size_after_cropping": 1.0,
    }
    for part, file in (("imagesTr", "case_0000.nii.gz"), ("labelsTr", "case.nii.gz")):
        (raw / part).mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.uint8)), str(raw / part / file))
    preprocessed.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")
    planner = PLANNERS[Preset.LARGE](name)
    planner.plan_experiment()
    plans = json.loads((preprocessed / f"{planner.plans_identifier}.json").read_text(encoding="utf-8"))
    plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
    for made in (raw, preprocessed):
        shutil.rmtree(made)
    return plans


def _stated(spec: CovarianceSpec) -> dict[str, Any]:
    """As `mob-training finetune` writes it to the plans."""
    return {name: getattr(value, "value", value) for name, value in vars(spec).items()}
