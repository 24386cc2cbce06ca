"""Models: written, and exported from an nnU-Net results folder; complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib import archive
from MoBUncertaintyLib.card import Fold, ModelCard
from MoBUncertaintyLib.errors import ModelError, OutputError
from MoBUncertaintyLib.integrity import file_digest
from MoBUncertaintyLib.model import Model, load_folder, load_model
from MoBUncertaintyLib.nnunet_folder import is_results_folder
from MoBUncertaintyLib.weights import write_weights

if TYPE_CHECKING:
    from torch import Tensor

# Lists of training files name patients and machines; inference needs none of them.
PRIVATE_DATASET_KEYS = ("dataset", "training", "validation", "test")


def export(
    results_folder: Path | str,
    output: Path | str,
    *,
    name: str | None = None,
    task: str | None = None,
    folds: Sequence[Fold] | None = None,
    checkpoint: str | None = None,
    licence: str | None = None,
    training: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
    regions: dict[str, float] | None = None,
    orientation: str | None = None,
    half: bool = False,
) -> Model:
    """Make a model folder (or `.zip`) from an nnU-Net results folder, stock or fine-tuned.

    Args:
        results_folder: Holds `plans.json`, `dataset.json` and `fold_K/checkpoint_*.pth`.
        output: Must not exist.
        name, task, licence: Of the card; None: from `dataset.json`.
        folds: None: all numbered folds that are trained.
        checkpoint: File name; None: as `nnunet_folder.open_results` chooses.
        training: Added to what the folder tells about the training.
        scores, regions: Of the card.
        orientation: Of the training data, e.g. `RAS`; None: as the folder tells.
        half: Store the weights as float16.

    Raises:
        ModelError: The results folder cannot be used.
        OutputError: The output exists already or cannot be written.
    """
    results_folder = Path(results_folder)
    if not is_results_folder(results_folder):
        raise ModelError(
            f"{results_folder} is not a results folder of nnU-Net (plans.json, dataset.json and fold_K); "
            "choose the folder that holds them."
        )
    model = load_model(results_folder, checkpoint, folds)
    stated = {
        "name": name,
        "task": task,
        "licence": licence,
        "scores": scores,
        "regions": regions,
        "orientation": orientation,
    }
    try:
        card = replace(
            model.card,
            training=model.card.training | (training or {}),
            **{key: value for key, value in stated.items() if value is not None},
        )
    except ValueError as error:
        raise ModelError(f"The model cannot be exported: {error}.") from error
    from MoBUncertaintyLib.network import fitting_weights, planned_network

    network = planned_network(model)
    weights = ((fold, fitting_weights(network, model, fold)) for fold in model.folds)
    return write_model(output, card, model.plans, model.dataset, weights, half)


def write_model(
    target: Path | str,
    card: ModelCard,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    weights: Iterable[tuple[Fold, Mapping[str, Tensor]]],
    half: bool = False,
) -> Model:
    """Write a model folder, or a zip if the name ends in `.zip`; complete or not at all.

    Args:
        target: Must not exist.
        card: Its `files` are filled in.
        plans, dataset: nnU-Net's; lists of training files are left out.
        weights: Folds, each with its state dict, whose keys are those of `StochasticNetwork`.
        half: Store the weights as float16.

    Raises:
        ModelError: What is to be written would not be a valid model.
        OutputError: It exists already or cannot be written.
    """
    target = Path(target)
    # What model.json says must be said there alone.
    plans = {key: value for key, value in plans.items() if key not in ("covariance", "finetuning")}
    dataset = {key: value for key, value in dataset.items() if key not in PRIVATE_DATASET_KEYS}
    with _published(target) as partial:
        folder = partial.with_name(partial.name + "-folder") if target.suffix == ".zip" else partial
        try:
            folder.mkdir()
            _write_json(folder / "plans.json", json.dumps(plans, indent=1))
            _write_json(folder / "dataset.json", json.dumps(dataset, indent=1, ensure_ascii=False))
            files = ["plans.json", "dataset.json"]
            for fold, state in weights:
                files.append(f"fold_{fold}/weights.safetensors")
                (folder / f"fold_{fold}").mkdir()
                write_weights(folder / files[-1], dict(state), half)
            card = replace(card, files={name: file_digest(folder / name) for name in files})
            _write_json(folder / "model.json", card.to_json())
            load_folder(folder, target)
            if folder != partial:
                archive.pack(folder, ["model.json", *files], partial)
        except (ValueError, TypeError) as error:
            raise ModelError(f"The model cannot be written: {error}.") from error
        finally:
            if folder != partial:
                shutil.rmtree(folder, ignore_errors=True)
    return load_model(target)


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, renamed to `target` at the end and removed on failure."""
    if target.exists():
        raise OutputError(f"{target} exists already; choose another name or delete it.")
    partial = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.rename(partial, target)
    except OSError as error:
        raise OutputError(f"The model cannot be written to {target}: {error.strerror or error}.") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink()


def _write_json(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
