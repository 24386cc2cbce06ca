"""A new covariance head for a trained network: the backbone stays, and with it the segmentation.

Or the head stays as well, and with it each voxel's probability and variance; what is new is how far its noise reaches.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from mob_training.data.datasets import case_names, folder_cases, write_dataset
from mob_training.data.partial_labels import read_missing
from mob_training.data.split import Split
from mob_training.training.joint_likelihood import fit_lengths, together
from mob_training.training.planning import CONFIGURATION
from mob_training.training.predictive import missing_labels
from mob_training.training.settings import Attachment, Files, FineTuning, Job, Likelihood, Loss
from mob_training.training.stages import finetune
from mob_training.training.temperature import fit_temperature, tiles_of_cases
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.publishing import read_record, write_file
from MoBUncertaintyLib.inference.devices import autocast, select_device, uploaded, wide_precision
from MoBUncertaintyLib.model.card import Fold, Label, overlap
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.model.folder import Model, load_model, read_card
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.model.nnunet.plans import check_plans
from MoBUncertaintyLib.network.backbone import divide_logits, fitting_weights, load_network, planned_network
from MoBUncertaintyLib.network.export import check_new, is_half, write_model

if TYPE_CHECKING:
    from torch import Tensor

    from mob_training.contrasts import Contrast

MIN_CASES = 20
DATASET_ID = 1
DATASET = f"Dataset{DATASET_ID:03d}_Cases"
START_LENGTH = 4.0
"""Of the field's correlation when training starts, in voxels of the finest axis; never less than a voxel."""
LOSS = Loss(likelihood=Likelihood.EVIDENCE, head_learning_rate=1e-2, heads_only=True, dice_weight=0, kl_weight=0)
REPLACED = ("calibration", "correlation")
"""What a card says of how the temperature and the noise before a new head were fitted."""
FitShared = Callable[[Path, Path], float]
"""From a model and a raw data set to the fraction of its noise that a volume shares."""


def attach_head(files: Files, options: Attachment, fit_shared: FitShared | None = None) -> Model:
    """Train a covariance head on the frozen backbone of a model, for each of its folds; write the new model.

    A covariance that the model has already is taken away first. A fifth of the cases choose epoch and temperature. With
    the scope `local` and `fit_shared` the whole volume then shares a fraction of the noise.

    Raises:
        SettingsError: There are too few cases, the model cannot have a covariance, or the covariance not that scope.
        OutputError: The output exists already or cannot be written.
    """
    check_new(files.output)
    local = options.scope is Scope.LOCAL
    shape = {"scope": options.scope, "learn_length": local, "keep_probability": options.keep_probability}
    try:
        spec = CovarianceSpec(options.covariance, length_mm=(START_LENGTH,) * 3 if local else None, **shape)
    except ValueError as error:
        raise SettingsError(f"{str(error).capitalize()}.") from error
    settings = FineTuning.of(options.epochs, options.iterations, options.seed, **vars(LOSS))
    model = loaded(files.model)
    plans, raw = _prepare(model, files, options)
    if local:
        spec = replace(spec, length_mm=starting_length(_spacing(model, plans)))
    trained = {fold: _train(model, plans, fold, spec, settings, options.device) for fold in model.folds}
    heads = [(fold, load_model(folder)) for fold, folder in trained.items()]
    first = heads[0][1].card
    shared = fit_shared(trained[model.folds[0]], raw) if fit_shared and local else 0.0
    temperature = float(np.mean([read_card(_start(fold)).training["temperature"] for fold in model.folds]))
    head = first.training | {"cases": _count(raw)}
    training = {name: value for name, value in model.card.training.items() if name not in REPLACED}
    card = replace(
        model.card,
        covariance=replace(first.covariance, shared_fraction=shared),
        training=training | {"covariance_head": head, "temperature": temperature},
        # What was measured of the model without a head.
        scores={},
        fingerprint=None,
        pieces={},
        volume_calibration=None,
    )
    weights = ((fold, fitting_weights(planned_network(head), head, 0)) for fold, head in heads)
    half = is_half(fitting_weights(planned_network(model), model, model.folds[0]))
    return write_model(files.output, card, _named(model, spec), model.dataset, weights, half)


def correlate_head(files: Files, options: Attachment, fit_shared: FitShared | None = None) -> Model:
    """Fit how far the noise of a model's own heads reaches, by the evidence of labelled cases; write the new model.

    Each voxel's probability and variance stay, and with them all that was measured of them. Of the options only seed,
    device and processes have an effect.

    Raises:
        SettingsError: There are too few cases, or the model has no head, or its labels overlap.
        OutputError: The output exists already or cannot be written.
    """
    check_new(files.output)
    model = loaded(files.model)
    if model.card.covariance.kind is Covariance.DETERMINISTIC:
        raise SettingsError(f"{model.card.name} has no covariance head to keep; leave --keep-head out.")
    plans, raw = _prepare(model, files, options)
    spacing = _spacing(model, plans)
    start = [length / step for length, step in zip(starting_length(spacing), spacing, strict=True)]
    contrasts = list(_informative(model, plans, options.seed, select_device(options.device)))
    z, y, x = (round(length * step, 3) for length, step in zip(fit_lengths(contrasts, start), spacing, strict=True))
    print(f"correlation length: {z} x {y} x {x} mm")
    spec = replace(model.card.covariance, scope=Scope.LOCAL, length_mm=(z, y, x), learn_length=False)
    weights = {fold: fitting_weights(planned_network(model), model, fold) for fold in model.folds}
    for own in weights.values():
        own.pop("head.log_length", None)  # that a head of the scope `local` has learned
    half, folder = is_half(weights[model.folds[0]]), _results() / "correlated"

    def write(place: Path, shared: float, training: dict[str, Any]) -> Model:
        card = replace(model.card, covariance=replace(spec, shared_fraction=shared), training=training)
        return write_model(place, card, _named(model, spec), model.dataset, weights.items(), half)

    shutil.rmtree(folder, ignore_errors=True)
    shared = fit_shared(write(folder, 0.0, model.card.training).path, raw) if fit_shared else 0.0
    correlation = {"cases": _count(raw), "seed": options.seed}
    return write(files.output, shared, model.card.training | {"correlation": correlation})


def _count(raw: Path) -> int:
    """Count the cases that a head was fitted on."""
    return len(list((raw / "labelsTr").glob("*")))


def _results() -> Path:
    return Path(os.environ["nnUNet_results"]) / DATASET


def _named(model: Model, spec: CovarianceSpec) -> dict[str, Any]:
    """Return a model's plans with a name by which scores tell it from the model with its old noise."""
    return model.plans | {"plans_name": f"{_planned_for(model)}-{spec.kind.value}-{spec.scope.value}"}


def _planned_for(model: Model) -> str:
    """Return the name of a model's plans without the name of its fine-tuning."""
    return str(model.plans.get("plans_name", "plans")).partition("-")[0]


def _spacing(model: Model, plans: dict[str, Any]) -> Sequence[float]:
    return check_plans(plans, model.card.configuration)["spacing"]


def _informative(
    model: Model, plans: dict[str, Any], seed: int, device: torch.device
) -> Iterator[tuple[Contrast, float]]:
    """Take the informative voxels of all cases, by the heads of all folds."""
    generator = torch.Generator().manual_seed(seed)
    for fold in model.folds:
        network = load_network(model, fold).eval().to(device)
        for tile in _tiles(plans, model.card.labels, "train", "val"):
            image, target, *missing = (uploaded(part, device) for part in tile)
            with torch.no_grad(), autocast(device, wide_precision(device)):
                gaussian = replace(network(image), scope=Scope.LOCAL, lengths=(1.0, 1.0, 1.0))
            yield from together(gaussian, target, generator, *missing)


def starting_length(spacing: Sequence[float]) -> tuple[float, float, float]:
    """Choose the correlation length along each axis, mm, at which training starts."""
    z, y, x = (max(float(step), START_LENGTH * min(spacing)) for step in spacing)
    return z, y, x


def _check(model: Model) -> None:
    card, channels = model.card, len(model.dataset["channel_names"])
    reason = None
    if overlap(card.labels):
        reason = "its labels overlap"
    elif card.configuration != CONFIGURATION:
        reason = f"its configuration is {card.configuration}, not {CONFIGURATION}"
    elif channels > 1:
        reason = f"it takes {channels} channels, and the folder of cases has one"
    if reason:
        raise SettingsError(f"No head can be attached to {card.name}: {reason}.")


def _prepare(model: Model, files: Files, options: Attachment) -> tuple[dict[str, Any], Path]:
    """Preprocess the cases as the model's plans say, unless an earlier run did; return their plans and raw data set.

    Raises:
        SettingsError: The model cannot have a head, the workspace was made for something else, or there are too few
            cases.
    """
    _check(model)
    cases, marker = files.cases, files.workspace / "attach-head.json"
    made_for = {"model": model.digest, "cases": str(cases.resolve())}
    if not files.workspace.exists() or not any(files.workspace.iterdir()):
        case_names(cases)  # else the workspace would be made for a folder without cases
        write_file(marker, lambda path: path.write_text(json.dumps(made_for) + "\n", encoding="utf-8"))
    elif read_record(marker) != made_for:
        raise SettingsError(f"{files.workspace} was not made for this model and these cases; give a new folder.")
    plans = model.plans | {"dataset_name": DATASET, "plans_name": _planned_for(model)}
    raw, preprocessed = (Path(os.environ[f"nnUNet_{kind}"]) / DATASET for kind in ("raw", "preprocessed"))
    if _results().exists():
        return plans, raw
    labels = {label.name: [label.value] for label in model.card.labels}
    cohort = folder_cases(cases, labels, next(iter(model.dataset["channel_names"].values())))
    if (count := len(cohort.cases)) < MIN_CASES:
        raise SettingsError(f"{cases} has {count} cases that can be used; a head takes {MIN_CASES} or more.")
    for interrupted in (raw, preprocessed):
        shutil.rmtree(interrupted, ignore_errors=True)
    write_dataset(raw, cohort, Split(test=0, seed=options.seed), orientation=model.card.orientation)
    extract_fingerprint_dataset(DATASET_ID, num_processes=options.processes)
    (preprocessed / f"{plans['plans_name']}.json").write_text(json.dumps(plans, indent=1) + "\n", encoding="utf-8")
    shutil.copy(raw / "dataset.json", preprocessed)
    preprocess_dataset(
        DATASET_ID,
        plans_identifier=plans["plans_name"],
        configurations=(CONFIGURATION,),
        num_processes=(options.processes,),
    )
    _results().mkdir(parents=True)
    return plans, raw


def _train(
    model: Model, plans: dict[str, Any], fold: Fold, spec: CovarianceSpec, settings: FineTuning, device: str
) -> Path:
    """Train the head of one fold, or go on with it; return its training folder.

    The temperature comes first: where probabilities are too certain, noise grows without bound.
    """
    start = _start(fold)
    if not start.exists():
        network = load_network(model, fold).eval().to(select_device(device))
        network.head = None
        temperature, before, after = fit_temperature(network, _tiles(plans, model.card.labels, "val"))
        print(f"fold {fold}, temperature {temperature:.3f}: NLL {before:.4f} -> {after:.4f}")
        divide_logits(network.cpu(), temperature)
        temperature *= model.card.training.get("temperature") or 1
        plain = CovarianceSpec(Covariance.DETERMINISTIC)
        card = replace(model.card, covariance=plain, training={"temperature": temperature})
        write_model(start, card, plans, model.dataset, [(0, network.state_dict())])
    return finetune(start, f"head-{fold}", spec, settings, Job(device=device, resume=True))


def _start(fold: Fold) -> Path:
    """Where the model is that the head of a fold is trained on: of one fold, and calibrated."""
    return _results() / f"start_{fold}"


def _tiles(plans: dict[str, Any], labels: Sequence[Label], *parts: str) -> Iterator[tuple[Tensor, ...]]:
    """Cover the whole cases of some parts of the split, `train` or `val`, with tiles; a third says what is missing."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / DATASET
    planned = check_plans(plans, CONFIGURATION)
    (split,) = json.loads((preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    names = [name for part in parts for name in split[part]]
    missing = read_missing(preprocessed, [label.name for label in labels])
    cases = nnUNetDatasetBlosc2(str(preprocessed / planned["data_identifier"]), names)
    return tiles_of_cases(cases, planned["patch_size"], lambda name: missing_labels(missing, [name], len(labels) + 1))
