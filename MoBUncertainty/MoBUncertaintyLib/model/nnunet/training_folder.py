"""Open nnU-Net's training folder, stock or fine-tuned by `mob-training`, as a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.model.card import NOT_STATED, Fold, ModelCard
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.files import ModelFile
from MoBUncertaintyLib.model.nnunet import totalsegmentator
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset, covered_values
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing, resolve
from MoBUncertaintyLib.model.nnunet.results import find_checkpoints
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.model.weights import checkpoint_file, read_checkpoint

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"

SIZES = ("kernel_sizes", "strides", "conv_kernel_sizes", "pool_op_kernel_sizes")
"""Of each stage; the last two in plans written before nnU-Net 2.4."""
OPERATORS = ("conv_op", "norm_op", "dropout_op")


def open_training_folder(
    folder: Path, checkpoint: str | None = None, folds: Sequence[Fold] | None = None, path: Path | None = None
) -> tuple[ModelCard, dict[str, Any], dict[str, Any], dict[Fold, Path], dict[str, str]]:
    """Read a training folder.

    The covariance is the extra entry `covariance` of `plans.json`; a stock folder has none and is deterministic.

    Args:
        folder: Holds `plans.json`, `dataset.json` and `fold_K/checkpoint_*.pth`.
        checkpoint: File name; None: the last epoch of a stock training, with which nnU-Net predicts and a fine-tuning
            starts, and the best epoch of a fine-tuning; where that is missing, the other one.
        folds: None: all that are trained.
        path: The folder, or the zip of it, as the user knows it; None: `folder`.

    Returns:
        Card, plans, dataset, the checkpoint of each fold, and the SHA-256 of each file that was read, by its name.

    Raises:
        ModelError: It is damaged, unsafe or incomplete.
    """
    path = path or folder
    where = str(path)
    read = [ModelFile.read(folder, name, where) for name in ("plans.json", "dataset.json")]
    plans, dataset = (file.json() for file in read)
    preferred = (BEST, FINAL) if "covariance" in plans else (FINAL, BEST)
    sources = find_checkpoints(folder, preferred if checkpoint is None else (checkpoint,), folds, where)
    read.append(checkpoint_file(next(iter(sources.values())), where))
    trained = read_checkpoint(read[-1])
    plans = in_3d(plans, trained.configuration)
    planned = check_plans(plans, trained.configuration)
    names = check_dataset(dataset, len(planned["normalization_schemes"]))
    channels = [_text(name) for name in channel_names(dataset)]
    data_set = _text(plans.get("dataset_name")) or path.parent.name
    try:
        spec = plans.get("covariance")
        covariance = CovarianceSpec(Covariance.DETERMINISTIC)
        if spec is not None:
            covariance = from_json(CovarianceSpec, spec, "'covariance'")
        if covariance.learn_length and trained.length_mm is not None:
            covariance = replace(covariance, length_mm=trained.length_mm)
        card = ModelCard(
            name=_text(dataset.get("name")) or re.sub(r"^Dataset\d+_", "", data_set) or path.stem,
            task=_text(dataset.get("description"))
            or f"Segments {', '.join(names.values())} in {' and '.join(filter(None, channels)) or 'images'}.",
            labels=describe_labels(names, covered_values(dataset)),
            covariance=covariance,
            configuration=trained.configuration,
            orientation=_orientation(plans, dataset, path),
            spacing=image_spacing(plans, planned),
            mirror_axes=tuple(axis + 3 - len(planned["spacing"]) for axis in trained.mirror_axes),
            training={
                "dataset": data_set,
                "cases": dataset.get("numTraining"),
                "trainer": trained.trainer,
                "plans": _text(plans.get("plans_name")),
                "checkpoint": next(iter(sources.values())).name,
                "epochs": trained.epoch,
                # How `mob-training finetune` trained; stock folders have no such entry.
                **({"finetuning": plans["finetuning"]} if "finetuning" in plans else {}),
                **({} if trained.temperature is None else {"temperature": trained.temperature}),
            },
            licence=licence(dataset, path),
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"The training folder {where} cannot be used: {error}.") from error
    return card, plans, dataset, sources, {file.name: file.sha256 for file in read}


def in_3d(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return plans whose configuration, if it is two-dimensional, is a three-dimensional one that looks at one slice.

    The network is the same: a 3D convolution whose kernel is one voxel deep is a 2D one. So nothing else need know of
    two dimensions, but that the spacing has two numbers: slices lie as far apart as in the image.

    Args:
        plans: Content of `plans.json`, unchecked; what is malformed stays as it is.
        configuration: Name of the configuration.

    Raises:
        ModelError: There is no such configuration.
    """
    planned = resolve(plans, configuration)
    patch = planned.get("patch_size")
    if not isinstance(patch, list) or len(patch) != 2:
        return plans
    deeper = {name: value for name, value in planned.items() if name != "inherits_from"} | {"patch_size": [1, *patch]}
    architecture = deeper.get("architecture")
    if isinstance(architecture, dict) and isinstance(architecture.get("arch_kwargs"), dict):
        arguments = _deepened(architecture["arch_kwargs"])
        deeper["architecture"] = architecture | {"arch_kwargs": arguments}
    else:
        deeper = _deepened(deeper)
    return plans | {"configurations": plans["configurations"] | {configuration: deeper}}


def _deepened(arguments: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: _stages(arguments[name]) for name in SIZES if isinstance(arguments.get(name), list)}
    operators = {name: arguments[name] for name in OPERATORS if isinstance(arguments.get(name), str)}
    return arguments | sizes | {name: value.removesuffix("2d") + "3d" for name, value in operators.items()}


def _stages(sizes: list[Any]) -> list[Any]:
    """Give each stage's size a depth of one voxel."""
    return [
        [1, size, size] if is_whole(size) else [1, *size] if isinstance(size, list) and len(size) == 2 else size
        for size in sizes
    ]


def licence(dataset: dict[str, Any], path: Path) -> str:
    """Return the licence of the weights, as the data set or TotalSegmentator states it."""
    own = _text(dataset.get("licence")) or _text(dataset.get("license"))
    return own or totalsegmentator.licence_of(path) or NOT_STATED


def _orientation(plans: dict[str, Any], dataset: dict[str, Any], path: Path) -> str | None:
    """Return what `mob-training` wrote, or RAS for nnU-Net's reorienting readers; others keep the stored axes."""
    orientation: str | None = dataset.get("orientation")
    if orientation is not None:
        return orientation
    if totalsegmentator.is_its(path):
        return totalsegmentator.ORIENTATION
    return "RAS" if str(plans.get("image_reader_writer")).endswith("WithReorient") else None


def _text(value: Any) -> str:
    """Cut free text of nnU-Net's files to one line that fits a card."""
    return " ".join(value.split())[:100].strip() if isinstance(value, str) else ""
