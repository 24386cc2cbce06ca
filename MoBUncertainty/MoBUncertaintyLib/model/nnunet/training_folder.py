"""Open nnU-Net's training folder, stock or fine-tuned by `mob-training`, as a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.errors import ModelError
from MoBUncertaintyLib.files.schema import from_json
from MoBUncertaintyLib.model.card import NOT_STATED, Fold, ModelCard
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.files import ModelFile
from MoBUncertaintyLib.model.nnunet import totalsegmentator
from MoBUncertaintyLib.model.nnunet.dataset import channel_names, check_dataset, covered_values
from MoBUncertaintyLib.model.nnunet.plans import check_plans, image_spacing
from MoBUncertaintyLib.model.nnunet.results import find_checkpoints
from MoBUncertaintyLib.model.nnunet.slices import in_3d
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.model.weights import checkpoint_file, read_checkpoint

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


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
        covariance = CovarianceSpec(Covariance.DETERMINISTIC)
        if stated is not None:
            covariance = from_json(CovarianceSpec, stated, "'covariance'")
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


def licence(dataset: dict[str, Any], path: Path) -> str:
    """Return the licence of the weights, as the data set or TotalSegmentator states it."""
    stated = _text(dataset.get("licence")) or _text(dataset.get("license"))
    return stated or totalsegmentator.licence_of(path) or NOT_STATED


def _orientation(plans: dict[str, Any], dataset: dict[str, Any], path: Path) -> str | None:
    """Return what `mob-training` wrote, or RAS for nnU-Net's reorienting readers; others keep the stored axes."""
    stated: str | None = dataset.get("orientation")
    if stated is not None:
        return stated
    if totalsegmentator.is_its(path):
        return totalsegmentator.ORIENTATION
    return "RAS" if str(plans.get("image_reader_writer")).endswith("WithReorient") else None


def _text(value: Any) -> str:
    """Cut free text of nnU-Net's files to one line that fits a card."""
    return " ".join(value.split())[:100].strip() if isinstance(value, str) else ""
