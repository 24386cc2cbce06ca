"""Open nnU-Net's training folder, stock or fine-tuned by `mob-training`, as a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.model.card import NOT_STATED, Fold, ModelCard
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.files import ModelFiles
from MoBUncertaintyLib.model.nnunet import totalsegmentator
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing, resolve
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.model.weights import WEIGHTS_LIMIT, read_checkpoint

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
WEIGHTS = "weights.safetensors"

SIZES = ("kernel_sizes", "strides", "conv_kernel_sizes", "pool_op_kernel_sizes")
"""Of each stage; the last two in plans written before nnU-Net 2.4."""
OPERATORS = ("conv_op", "norm_op", "dropout_op")


def open_training_folder(
    files: ModelFiles, folds: Sequence[Fold] | None = None
) -> tuple[ModelCard, dict[str, Any], dict[str, Any], dict[Fold, str]]:
    """Read a training folder; its covariance is the extra entry `covariance` of `plans.json`, which stock ones lack.

    Of a fine-tuning, its best epoch is taken; of a stock training, the last; if that is missing, the other.

    Args:
        files: `plans.json`, `dataset.json` and `fold_K/checkpoint_*.pth`.
        folds: Default: all that are trained.

    Returns:
        Card, plans, dataset, and the name of the checkpoint of each fold. `ModelError` if it is damaged or unsafe.
    """
    path, plans, dataset = files.path, files.plans, files.dataset
    number = totalsegmentator.number_of(path)
    preferred = (BEST, FINAL) if "covariance" in plans else (FINAL, BEST)
    weights = _choose_checkpoints(files, preferred, folds)
    first = files.read(next(iter(weights.values())), WEIGHTS_LIMIT)
    trained = read_checkpoint(first)
    plans = in_3d(plans, trained.configuration)
    planned = check_plans(plans, trained.configuration)
    names, covers = check_dataset(dataset, len(planned["normalization_schemes"]))
    channels = [_text(name) for name in channel_names(dataset)]
    data_set = _text(plans.get("dataset_name")) or path.parent.name
    orientation = dataset.get("orientation")  # which `mob-training` states
    if orientation is None and number is not None:
        orientation = totalsegmentator.ORIENTATION
    elif orientation is None and str(plans.get("image_reader_writer")).endswith("WithReorient"):
        orientation = "RAS"  # other readers of nnU-Net's keep the stored axes
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
            labels=describe_labels(names, covers),
            covariance=covariance,
            configuration=trained.configuration,
            orientation=orientation,
            spacing=image_spacing(plans, planned),
            mirror_axes=tuple(axis + 3 - len(planned["spacing"]) for axis in trained.mirror_axes),
            training={
                "dataset": data_set,
                "cases": dataset.get("numTraining"),
                "trainer": trained.trainer,
                "plans": _text(plans.get("plans_name")),
                "checkpoint": first.name.rpartition("/")[2],
                "epochs": trained.epoch,
                # How `mob-training finetune` trained; stock folders have no such entry.
                **({"finetuning": plans["finetuning"]} if "finetuning" in plans else {}),
                **({} if trained.temperature is None else {"temperature": trained.temperature}),
            },
            licence=licence(dataset, number),
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"The training folder {path} cannot be used: {error}.") from error
    return card, plans, dataset, weights


def trained_folds(names: Iterable[str]) -> tuple[Fold, ...]:
    """Return the folds of a model by the names of its files: the numbered ones or, if there are none, `all`."""
    names = tuple(names)
    return next((usual for file in (WEIGHTS, FINAL, BEST) if (usual := _usual(_folds_with(names, file)))), ())


def _choose_checkpoints(files: ModelFiles, preferred: Sequence[str], folds: Sequence[Fold] | None) -> dict[Fold, str]:
    """Choose the checkpoint of each fold: the first of the preferred names that all the folds have, or `ModelError`.

    By default these are the numbered folds that have it (one that is still being trained does not), else `fold_all`.
    """
    if folds is not None and not folds:
        raise ModelError("No fold was chosen; choose at least one.")
    having = {name: _folds_with(files.names, name) for name in preferred}
    for name, there in having.items():
        chosen = folds or _usual(there)
        if chosen and set(chosen) <= set(there):
            return {fold: f"fold_{fold}/{name}" for fold in chosen}
    trained = dict.fromkeys(fold for there in having.values() for fold in there)
    if not trained:
        raise ModelError(f"{files.path} has no fold with {' or '.join(preferred)}; train the model first.")
    if missing := [fold for fold in folds or () if fold not in trained]:
        there_are = ", ".join(map(str, trained))
        raise ModelError(f"{files.path} has no trained fold {missing[0]} (there is: {there_are}).")
    raise ModelError(
        f"The folds of {files.path} have no checkpoint of the same name; choose folds that are all trained."
    )


def _folds_with(names: Iterable[str], file: str) -> list[Fold]:
    """List the folds that have a file; the numbered ones in order, and then `all`."""
    matches = (re.fullmatch(rf"fold_(0|[1-9][0-9]{{0,2}}|all)/{re.escape(file)}", name) for name in names)
    folds = {match[1] for match in matches if match}
    return [*sorted(int(fold) for fold in folds - {"all"}), *(folds & {"all"})]


def _usual(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """Leave out `all` beside numbered folds."""
    return tuple(fold for fold in folds if fold != "all") or tuple(folds)


def in_3d(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return plans whose configuration, if it is two-dimensional, is a three-dimensional one that looks at one slice.

    The network is the same, so only the spacing still has two numbers. What is malformed stays; raises `ModelError`.
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
    both = [[size, size] if is_whole(size) else size for size in sizes]
    return [[1, *size] if isinstance(size, list) and len(size) == 2 else size for size in both]


def licence(dataset: dict[str, Any], number: int | None) -> str:
    """Return the licence of the weights, as the data set states it or, for its number, TotalSegmentator."""
    own = _text(dataset.get("licence")) or _text(dataset.get("license"))
    return own or totalsegmentator.LICENCES.get(number or 0, NOT_STATED)


def _text(value: Any) -> str:
    """Cut free text of nnU-Net's files to one line that fits a card."""
    return " ".join(value.split())[:100].strip() if isinstance(value, str) else ""
