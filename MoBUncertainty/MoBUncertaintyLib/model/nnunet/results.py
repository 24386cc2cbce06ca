"""How nnU-Net lays out what it has trained: training folders, and the checkpoints in them. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.nnunet.plans import previous_stage, resolve

DESCRIPTIONS = ("plans.json", "dataset.json")
"""Files of a training folder that say what was trained."""

FIRST_STAGE = "first_stage"
"""Folder of a cascade's first stage inside that of the second, in what was unpacked or sent."""


def is_training_folder(folder: Path) -> bool:
    """Whether a folder has nnU-Net's `plans.json`, `dataset.json` and a `fold_*`, and no weights of a model folder."""
    has_plans = all((folder / name).is_file() for name in DESCRIPTIONS)
    return has_plans and any(folder.glob("fold_*")) and not any(folder.glob("fold_*/weights.safetensors"))


def lacks(folder: Path) -> list[str]:
    """List which of its two descriptions a training folder lacks; none if it is no training folder."""
    trained = any(folder.glob("fold_*/checkpoint_*.pth"))
    return [name for name in DESCRIPTIONS if not (folder / name).is_file()] if trained else []


def folds_in(names: Iterable[str]) -> tuple[Fold, ...]:
    """Return the folds of a model by the names of its files: the numbered ones or, if there are none, `all`."""
    names = list(names)
    for file in ("weights.safetensors", "checkpoint_final.pth", "checkpoint_best.pth"):
        folds = [match[1] for name in names if (match := re.fullmatch(rf"fold_(\d+|all)/{re.escape(file)}", name))]
        if folds:
            return tuple(sorted(int(fold) for fold in folds if fold != "all")) or ("all",)
    return ()


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
    folders: dict[Fold, Path] = {}
    where = where or str(folder)
    for child in folder.iterdir():
        if match := re.fullmatch(r"fold_(0|[1-9][0-9]{0,2}|all)", child.name):
            folders["all" if match[1] == "all" else int(match[1])] = child
    if folds is not None and not folds:
        raise ModelError("No fold was chosen; choose at least one.")
    for name in preferred:
        there = [fold for fold, child in folders.items() if (child / name).is_file()]
        chosen = folds or sorted(fold for fold in there if isinstance(fold, int)) or ["all"]
        if set(chosen) <= set(there):
            return {fold: folders[fold] / name for fold in chosen}
    trained = [fold for fold, child in folders.items() if any((child / name).is_file() for name in preferred)]
    if not trained:
        raise ModelError(f"{where} has no fold with {' or '.join(preferred)}; train the model first.")
    missing = [fold for fold in folds or () if fold not in trained]
    there_are = ", ".join(map(str, trained))
    if missing:
        raise ModelError(f"{where} has no trained fold {missing[0]} (there is: {there_are}).")
    raise ModelError(f"The folds of {where} have no checkpoint of the same name; choose folds that are all trained.")


def beside(name: str, configuration: str) -> str:
    """Name the training folder of another configuration that lies beside one, TRAINER__PLANS__CONFIGURATION."""
    return f"{name.rpartition('__')[0]}__{configuration}"


def first_stage_of(name: str, plans: dict[str, Any]) -> str | None:
    """Name the training folder of a cascade's first stage, beside that of the second; None: it is no second stage.

    Args:
        name: Of the training folder, as nnU-Net names it.
        plans: Content of its `plans.json`.
    """
    with suppress(ModelError):
        previous = previous_stage(resolve(plans, name.rpartition("__")[2]))
        return beside(name, previous) if previous else None
    return None
