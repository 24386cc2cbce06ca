"""Open nnU-Net's training folder, stock or fine-tuned by `mob-training`, as a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.errors import ModelError
from MoBUncertaintyLib.model.card import Fold, ModelCard, covariance_from_json
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.files import ModelFile
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset, covered_values
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing
from MoBUncertaintyLib.model.nnunet.slices import in_3d
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.model.weights import checkpoint_file, read_checkpoint

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


def is_training_folder(folder: Path) -> bool:
    """Whether a folder has nnU-Net's `plans.json`, `dataset.json` and a `fold_*`, and no weights of a model folder."""
    has_plans = all((folder / name).is_file() for name in ("plans.json", "dataset.json"))
    return has_plans and any(folder.glob("fold_*")) and not any(folder.glob("fold_*/weights.safetensors"))


def find_checkpoints(
    folder: Path, preferred: Sequence[str], folds: Sequence[Fold] | None = None, where: str = ""
) -> dict[Fold, Path]:
    """Find the checkpoint of each fold, with the same file name for all.

    Args:
        folder: Training folder.
        preferred: File names, best first; the first that all the folds have is taken.
        folds: Folds to use; None: all numbered folds that have the first of `preferred` that any has (which leaves out
            a fold that is still being trained) or, if there are none, `fold_all`.
        where: The folder, as the user knows it; "": by its path.

    Raises:
        ModelError: A fold, or every fold, has no such checkpoint.
    """
    found: dict[Fold, Path] = {}
    where = where or str(folder)
    for child in folder.iterdir():
        if match := re.fullmatch(r"fold_(0|[1-9][0-9]{0,2}|all)", child.name):
            found["all" if match[1] == "all" else int(match[1])] = child
    if folds is not None and not folds:
        raise ModelError("No fold was chosen; choose at least one.")
    for name in preferred:
        there = [fold for fold, child in found.items() if (child / name).is_file()]
        chosen = folds or sorted(fold for fold in there if isinstance(fold, int)) or ["all"]
        if set(chosen) <= set(there):
            return {fold: found[fold] / name for fold in chosen}
    trained = [fold for fold, child in found.items() if any((child / name).is_file() for name in preferred)]
    if not trained:
        raise ModelError(f"{where} has no fold with {' or '.join(preferred)}; train the model first.")
    missing = [fold for fold in folds or () if fold not in trained]
    there_are = ", ".join(map(str, trained))
    if missing:
        raise ModelError(f"{where} has no trained fold {missing[0]} (there is: {there_are}).")
    raise ModelError(f"The folds of {where} have no checkpoint of the same name; choose folds that are all trained.")


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
        stated = plans.get("covariance")
        covariance = CovarianceSpec(Covariance.DETERMINISTIC) if stated is None else covariance_from_json(stated)
        if covariance.learn_length and trained.length_mm is not None:
            covariance = replace(covariance, length_mm=trained.length_mm)
        card = ModelCard(
            name=_text(dataset.get("name")) or re.sub(r"^Dataset\d+_", "", data_set) or path.stem,
            task=_text(dataset.get("description"))
            or f"Segments {', '.join(names.values())} in {' and '.join(filter(None, channels)) or 'images'}.",
            labels=describe_labels(names, data_set, covered_values(dataset)),
            covariance=covariance,
            configuration=trained.configuration,
            orientation=_orientation(plans, dataset),
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
            licence=_text(dataset.get("licence")) or _text(dataset.get("license")) or "not stated",
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"The training folder {where} cannot be used: {error}.") from error
    return card, plans, dataset, sources, {file.name: file.sha256 for file in read}


def _orientation(plans: dict[str, Any], dataset: dict[str, Any]) -> str | None:
    """Return what `mob-training` wrote, or RAS for nnU-Net's reorienting readers; others keep the stored axes."""
    stated: str | None = dataset.get("orientation")
    if stated is not None:
        return stated
    return "RAS" if str(plans.get("image_reader_writer")).endswith("WithReorient") else None


def _text(value: Any) -> str:
    """Cut free text of nnU-Net's files to one line that fits a card."""
    return " ".join(value.split())[:100].strip() if isinstance(value, str) else ""
